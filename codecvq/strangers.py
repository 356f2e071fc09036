"""Runs code of plugins so that it neither ends the process nor writes into a verb's results."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from codecvq.errors import PluginError
from codecvq.signals import Terminated


@contextmanager
def contained() -> Iterator[None]:
    """Run a plugin's code in the block: what it prints goes to stderr, and an attempt to end the process is a
    PluginError.

    An Exception passes as it is; so do KeyboardInterrupt and Terminated, which are the user's.
    """
    try:
        with _printing_to_stderr():
            yield
    except (Exception, KeyboardInterrupt, Terminated):
        raise
    except SystemExit as error:
        raise PluginError(f"it tried to end the process (SystemExit: {error.code})") from error
    except BaseException as error:  # neither an Exception nor the user's interrupt: a plugin's own class
        raise PluginError(f"it raised {type(error).__name__}: {error}") from error


@contextmanager
def _printing_to_stderr() -> Iterator[None]:
    """Send prints to stderr, those of C code and of child processes as well, where stdout is the process's
    own.
    """
    with contextlib.ExitStack() as stack:
        if _is_descriptor(sys.stdout, 1) and _is_descriptor(sys.stderr, 2):
            sys.stdout.flush()
            kept = os.dup(1)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 1)
            os.dup2(2, 1)
        if sys.stderr is not None:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _is_descriptor(stream: object, number: int) -> bool:
    try:
        return stream.fileno() == number  # type: ignore[attr-defined]  # where it has none, the except
    except (AttributeError, OSError, ValueError):  # None, a notebook's, a closed one
        return False
