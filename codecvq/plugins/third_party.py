"""Runs third-party code so that it cannot end the process or write to stdout."""

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
_active_blocks = 0  # active blocks in all threads


@contextmanager
def contained() -> Iterator[None]:
    """Context manager for third-party code: redirects stdout to stderr.

    Raises PluginError if the code tries to end the process. Any `Exception` passes unchanged, and so do
    KeyboardInterrupt and Terminated, which come from the user.
    """
    try:
        with _printing_to_stderr():
            yield
    except (Exception, KeyboardInterrupt, Terminated):
        raise
    except SystemExit as error:
        raise PluginError(f"it tried to end the process (SystemExit: {error.code})") from error
    except BaseException as error:  # a direct subclass of BaseException
        raise PluginError(f"it raised {type(error).__name__}: {error}") from error


@contextmanager
def _printing_to_stderr() -> Iterator[None]:
    """Redirect stdout to stderr. If stdout is file descriptor 1, this includes C code and child processes.

    All threads share one stdout: the first active block redirects it, and the last one restores it.
    """
    global _active_blocks
    with _lock:
        if _active_blocks == 0:
            _redirect()
        _active_blocks += 1
    try:
        yield
    finally:
        with _lock:
            _active_blocks -= 1
            if _active_blocks == 0:
                _redirected.close()


def _redirect() -> None:
    if _is_descriptor(sys.stdout, 1) and _is_descriptor(sys.stderr, 2):
        sys.stdout.flush()
        saved_stdout = os.dup(1)
        _redirected.callback(os.close, saved_stdout)
        _redirected.callback(os.dup2, saved_stdout, 1)
        os.dup2(2, 1)
    if sys.stderr is not None:
        _redirected.enter_context(contextlib.redirect_stdout(sys.stderr))


def _is_descriptor(stream: object, number: int) -> bool:
    try:
        return stream.fileno() == number  # type: ignore[attr-defined]  # AttributeError is handled below
    except (AttributeError, OSError, ValueError):  # None, a notebook's stream, a closed stream
        return False
