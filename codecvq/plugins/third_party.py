"""Runs code of plugins so that it neither ends the process nor writes into a verb's results."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from codecvq.errors import PluginError
from codecvq.signals import Terminated

_lock = threading.Lock()
_redirected = contextlib.ExitStack()  # restores stdout
_inside = 0  # blocks that are entered, in all threads


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
    own. The first block that is entered redirects, and the last one that is left restores: there is one
    stdout for all threads.
    """
    global _inside
    with _lock:
        if _inside == 0:
            _redirect()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _redirected.close()


def _redirect() -> None:
    if _is_descriptor(sys.stdout, 1) and _is_descriptor(sys.stderr, 2):
        sys.stdout.flush()
        own = os.dup(1)
        _redirected.callback(os.close, own)
        _redirected.callback(os.dup2, own, 1)
        os.dup2(2, 1)
    if sys.stderr is not None:
        _redirected.enter_context(contextlib.redirect_stdout(sys.stderr))


def _is_descriptor(stream: object, number: int) -> bool:
    try:
        return stream.fileno() == number  # type: ignore[attr-defined]  # where it has none, the except
    except (AttributeError, OSError, ValueError):  # None, a notebook's, a closed one
        return False
