"""The command `codecvq`: its verbs, and what a user sees of an error."""

from __future__ import annotations

import sys
import traceback
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
from codecvq.cli.batch import EXIT_CODES, is_out_of_memory, one_line
from codecvq.cli.console import log_to_stderr, print_error
from codecvq.cli.streams import open_streams
from codecvq.errors import CodecvqError
from codecvq.signals import Terminated, termination_raises

#: What is there after a verb that was stopped.
RESUME_HINTS = {
    "train": "the same command goes on from the last checkpoint",
    "tokenize": "the same command goes on from the last shard",
    "quickstart": "the same command goes on from there",
    **dict.fromkeys(("encode", "decode", "detokenize"), "the files written so far are whole"),
}

# The base of usage errors in whichever click this typer uses: newer ones carry a copy of their own.
# Any: mypy knows no exception class that is found at run time.
UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    name="codecvq",
    help="Train neural speech codecs from recipes, bring your own quantizer, turn speech into tokens.\n\n"
    + EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(quickstart.quickstart)
app.command()(training.train)
app.command(epilog=EXIT_CODES)(evaluation.evaluate)
app.command(epilog=EXIT_CODES)(comparison.compare)
app.command(epilog=EXIT_CODES)(coding.encode)
app.command(epilog=EXIT_CODES)(coding.decode)
app.command(epilog=EXIT_CODES)(tokens.tokenize)
app.command(epilog=EXIT_CODES)(tokens.detokenize)
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
    """Run the command line and leave with its exit code, see `EXIT_CODES`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    open_streams()
    log_to_stderr(debug)
    if arguments == ["--version"]:
        import codecvq

        print(codecvq.__version__)
        return
    try:
        with termination_raises():
            code = _run_command(arguments)
            sys.stdout.flush()  # a full disk shows now, and not when Python has ended
    except UsageError as error:
        code = _print_usage_error(error)
    except (typer.Abort, KeyboardInterrupt):
        code = _interrupted("interrupted", arguments, 130)
    except Terminated as error:
        code = _interrupted(f"terminated by {error}", arguments, error.exit_code)
    except Exception as error:
        if not _is_expected(error):
            raise
        if debug:
            traceback.print_exc()
        else:
            print_error(one_line(error))
        code = 2
    sys.exit(code)


def _run_command(arguments: list[str]) -> int:
    """The exit code of the verb. typer's own `main` would turn an interrupt into an exit code, and a closed
    pipe to any program into silence.
    """
    command = typer.main.get_command(app)
    try:
        with command.make_context("codecvq", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as leaving:
        return leaving.exit_code
    return 0


def _print_usage_error(error: Any) -> int:  # Any: see UsageProblem
    """Print a usage error, in one line where it is not the help; its exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    context = getattr(error, "ctx", None)
    hint = f". See: {context.command_path} --help" if context is not None else ""
    print_error(f"{error.format_message().rstrip('.')}{hint}")
    return int(error.exit_code)


def _interrupted(what: str, arguments: list[str], code: int) -> int:
    """Say that the verb was stopped, and what is there now; the exit code."""
    verb = next((word for word in arguments if not word.startswith("-")), "")
    print_error(RESUME_HINTS.get(verb, f"{verb} did not end"), what)
    return code


def _is_expected(error: Exception) -> bool:
    """Whether one line says it all: a user's error, or one of the machine, as a full disk."""
    return isinstance(error, (CodecvqError, OSError)) or is_out_of_memory(error)
