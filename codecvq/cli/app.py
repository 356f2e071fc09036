"""The command `codecvq`: its verbs, and what a user sees of an error."""

from __future__ import annotations

import sys
from typing import Any

import typer

from codecvq.cli import (
    coding,
    comparison,
    evaluation,
    plugins,
    quickstart,
    recipes,
    scaffold,
    tokens,
    training,
)
from codecvq.cli.console import complain, log_to_stderr
from codecvq.errors import CodecvqError

# The base of usage errors in whichever click this typer uses: newer ones carry a copy of their own.
# Any: mypy knows no exception class that is found at run time.
UsageProblem: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    name="codecvq",
    help="Train neural speech codecs from recipes, bring your own quantizer, turn speech into tokens.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(quickstart.quickstart)
app.command()(training.train)
app.command()(evaluation.evaluate)
app.command()(comparison.compare)
app.command()(coding.encode)
app.command()(coding.decode)
app.command()(tokens.tokenize)
app.command()(tokens.detokenize)
app.command()(scaffold.new_plugin)
app.add_typer(recipes.app, name="recipes")
app.add_typer(plugins.app, name="plugins")


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(False, "--version", help="Print the version."),
) -> None:
    """Options before the verb; `main` looks for --debug itself, since errors come before it is read."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0, 2 for a user's error in one line, 130 for an
    interrupt.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    log_to_stderr()
    if arguments == ["--version"]:
        import codecvq

        print(codecvq.__version__)
        return
    try:
        code = app(arguments, standalone_mode=False)  # what a verb left with, or None
    except CodecvqError as error:
        if "--debug" in arguments:
            raise
        complain(str(error))
        sys.exit(2)
    except UsageProblem as error:
        error.show()
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        complain("the same command goes on from the last checkpoint or file", "interrupted")
        sys.exit(130)
    except BrokenPipeError:  # `codecvq … | head`
        sys.stderr.close()
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)
