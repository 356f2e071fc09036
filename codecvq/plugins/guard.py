"""Isolates hook implementations of plugins: an exception in one is reported, and the others still run.

pluggy stops a call at the first implementation that raises. Each implementation is therefore wrapped in a
function with the same signature and options (`tryfirst`, `wrapper`, …) that catches exceptions. pluggy's
order of calls and its hook wrappers are unchanged.
"""

from __future__ import annotations

import functools
import inspect
import reprlib
from collections.abc import Callable, Generator, Mapping
from typing import Any

import pluggy

from codecvq.api.hookspecs import PROJECT
from codecvq.errors import PluginError
from codecvq.plugins.third_party import contained

# Any in this file: arguments and results depend on the hook
Function = Callable[..., Any]
#: called with the exception of an implementation
Report = Callable[[Exception], None]
#: calls an implementation and returns the valid part of its result
Collect = Callable[[Callable[[], Any]], Any]


class Guards:
    """The guarded implementations of one plugin. pluggy registers this object instead of the plugin."""

    def add(
        self, name: str, function: Function, options: Mapping[str, Any], report: Report, collect: Collect
    ) -> None:
        """Add the implementation `function`, named `name` in the plugin, with its `hookimpl` options."""
        make = _wrapper if options["wrapper"] else _old_wrapper if options["hookwrapper"] else _plain
        guarded = functools.wraps(function)(make(function, report, collect))
        setattr(self, name, pluggy.HookimplMarker(PROJECT)(guarded, **options))


def call_contained(call: Callable[[], Any]) -> Any:
    """Return the result of `call`; a `Collect` for hooks whose results are not used."""
    with contained():
        return call()


def _plain(function: Function, report: Report, collect: Collect) -> Function:
    """Guard a function. It returns None, which pluggy skips, if the implementation raises."""

    def guarded(*arguments: Any) -> Any:
        try:
            return collect(functools.partial(function, *arguments))
        except Exception as error:  # third-party code must not stop a training run
            report(error)
        return None

    return guarded


def _wrapper(function: Function, report: Report, collect: Collect) -> Function:
    """Guard a wrapper (`wrapper=True`), a generator around all other implementations.

    It returns the list of their results. If it raises, the list passes unchanged.
    """
    _check_generator(function)

    def guarded(*arguments: Any) -> Generator[None, Any, Any]:
        running = _started(function, arguments, report)
        results = yield
        if running is None:
            return results
        try:
            return _collected(_finished(running, results), collect)
        except Exception as error:  # third-party code
            report(error)
            return results

    return guarded


def _old_wrapper(function: Function, report: Report, collect: Collect) -> Function:
    """Guard an old-style wrapper (`hookwrapper=True`), which modifies a `pluggy.Result`."""
    _check_generator(function)

    def guarded(*arguments: Any) -> Generator[None, Any, None]:
        running = _started(function, arguments, report)
        outcome = yield
        if running is None or outcome.exception is not None:  # an interrupt by the user passes
            return
        results = outcome.get_result()
        try:
            _finished(running, outcome)
            outcome.force_result(_collected(outcome.get_result(), collect))
        except Exception as error:  # third-party code
            report(error)
            outcome.force_result(results)

    return guarded


def _check_generator(function: Function) -> None:
    if not inspect.isgeneratorfunction(function):
        raise PluginError(
            f"its function {function.__name__!r} is marked as a wrapper and has no yield. A wrapper must "
            "yield once; the other implementations run at that point."
        )


def _started(
    function: Function, arguments: tuple[Any, ...], report: Report
) -> Generator[Any, Any, Any] | None:
    """Run the generator to its `yield` and return it; None if it raises before."""
    try:
        with contained():
            running: Generator[Any, Any, Any] = function(*arguments)
            for _ in running:
                return running
        raise PluginError(f"its wrapper {function.__name__!r} did not yield")
    except Exception as error:  # third-party code
        report(error)
    return None


def _finished(running: Generator[Any, Any, Any], result: Any) -> Any:
    """Send `result` to the generator and return its return value."""
    with contained():
        try:
            running.send(result)
        except StopIteration as end:
            return end.value
        running.close()
    raise PluginError("its wrapper yields more than once")


def _collected(results: Any, collect: Collect) -> list[Any]:
    if not isinstance(results, list):
        raise PluginError(
            f"its wrapper returned {reprlib.repr(results)}; it must return a list of results, like the "
            "value of its yield"
        )
    return [collect(functools.partial(_identity, result)) for result in results]


def _identity(result: Any) -> Any:
    return result
