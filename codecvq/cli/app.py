"""The command `codecvq`: its subcommands and the handling of errors."""

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
    streaming,
    tables,
    tokens,
    training,
)
from codecvq.cli.batch import EXIT_CODES, is_out_of_memory, one_line
from codecvq.cli.console import log_to_stderr, print_error
from codecvq.cli.standard_streams import open_streams
from codecvq.errors import CodecvqError
from codecvq.signals import Terminated, termination_raises

#: Message after an interrupted command: which results exist, or how to resume.
RESUME_HINTS = {
    "train": "run the same command again to resume from the last checkpoint",
    "tokenize": "run the same command again to resume after the last shard",
    "quickstart": "run the same command again to resume",
    **dict.fromkeys(("encode", "decode", "detokenize"), "all files written until now are complete"),
}

# Base class of usage errors in the click that typer uses; newer versions of typer contain a copy of click.
# Any: mypy cannot check a class that is looked up at run time.
UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    name="codecvq",
    help="Train neural speech codecs, compress speech and convert it to tokens.\n\n" + EXIT_CODES,
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
app.command()(tables.tables)
app.command()(scaffold.new_plugin)
app.add_typer(streaming.app, name="stream")
app.add_typer(recipes.app, name="recipes")
app.add_typer(plugins.app, name="plugins")


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show the full traceback of errors."),
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Options before the command. `main` reads --debug itself, since errors can occur before parsing."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with one of the `EXIT_CODES`."""
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
            sys.stdout.flush()  # report a full disk here instead of at interpreter exit
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
    """Run the command and return its exit code.

    Replaces typer's `main`, which converts interrupts to exit codes and ignores closed pipes.
    """
    command = typer.main.get_command(app)
    try:
        with command.make_context("codecvq", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as leaving:
        return leaving.exit_code
    return 0


def _print_usage_error(error: Any) -> int:  # Any: see UsageError
    """Print a usage error (the help text, or one line) and return its exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    context = getattr(error, "ctx", None)
    hint = f". See: {context.command_path} --help" if context is not None else ""
    print_error(f"{error.format_message().rstrip('.')}{hint}")
    return int(error.exit_code)


def _interrupted(what: str, arguments: list[str], code: int) -> int:
    """Print that the command was interrupted and how to resume; return the exit code."""
    command = next((word for word in arguments if not word.startswith("-")), "")
    print_error(RESUME_HINTS.get(command, f"{command} was not completed"), what)
    return code


def _is_expected(error: Exception) -> bool:
    """Whether one line without traceback suffices: user errors and system errors such as a full disk."""
    return isinstance(error, (CodecvqError, OSError)) or is_out_of_memory(error)
