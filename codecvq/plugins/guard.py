"""Hook implementations of plugins as pluggy gets them: what one of them raises is reported, and the others
run.

pluggy stops a call at the first implementation that raises. So each implementation is registered behind a
function of the same signature and the same options (`tryfirst`, `wrapper`, …), which catches what it raises;
pluggy's order of calls and its wrappers stay as they are.
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

# Any in this file: hooks take and give whatever their specification says
Function = Callable[..., Any]
#: called with what an implementation raised
Report = Callable[[Exception], None]
#: calls a stranger's function, and gives the usable part of its result
Take = Callable[[Callable[[], Any]], Any]


class Guards:
    """The guarded implementations of one plugin, which pluggy gets in the plugin's place."""

    def add(
        self, name: str, function: Function, options: Mapping[str, Any], report: Report, take: Take
    ) -> None:
        """Add the implementation that has that name in the plugin, and those options of `hookimpl`."""
        make = _wrapper if options["wrapper"] else _old_wrapper if options["hookwrapper"] else _plain
        guarded = functools.wraps(function)(make(function, report, take))
        setattr(self, name, pluggy.HookimplMarker(PROJECT)(guarded, **options))


def call_contained(call: Callable[[], Any]) -> Any:
    """What the call gives; a `Take` for hooks whose results are not used."""
    with contained():
        return call()


def _plain(function: Function, report: Report, take: Take) -> Function:
    """Gives None, which pluggy leaves out, where the implementation fails."""

    def guarded(*given: Any) -> Any:
        try:
            return take(functools.partial(function, *given))
        except Exception as error:  # a stranger's function; losing a training to it would be worse
            report(error)
        return None

    return guarded


def _wrapper(function: Function, report: Report, take: Take) -> Function:
    """A generator around all others, which returns the list of their results; where it fails, the list
    passes as it was.
    """
    _check_generator(function)

    def guarded(*given: Any) -> Generator[None, Any, Any]:
        running = _started(function, given, report)
        results = yield
        if running is None:
            return results
        try:
            return _taken(_finished(running, results), take)
        except Exception as error:  # a stranger's function
            report(error)
            return results

    return guarded


def _old_wrapper(function: Function, report: Report, take: Take) -> Function:
    """As `_wrapper`, of a `hookwrapper=True` implementation, which is sent a `pluggy.Result` to change."""
    _check_generator(function)

    def guarded(*given: Any) -> Generator[None, Any, None]:
        running = _started(function, given, report)
        outcome = yield
        if running is None or outcome.exception is not None:  # the user's interrupt passes
            return
        results = outcome.get_result()
        try:
            _finished(running, outcome)
            outcome.force_result(_taken(outcome.get_result(), take))
        except Exception as error:  # a stranger's function
            report(error)
            outcome.force_result(results)

    return guarded


def _check_generator(function: Function) -> None:
    if not inspect.isgeneratorfunction(function):
        raise PluginError(
            f"its function {function.__name__!r} is marked as a wrapper and has no yield. A wrapper yields "
            "once, and all others run there."
        )


def _started(function: Function, given: tuple[Any, ...], report: Report) -> Generator[Any, Any, Any] | None:
    """The generator at its `yield`; None where it failed before."""
    try:
        with contained():
            running: Generator[Any, Any, Any] = function(*given)
            for _ in running:
                return running
        raise PluginError(f"its wrapper {function.__name__!r} did not yield")
    except Exception as error:  # a stranger's function
        report(error)
    return None


def _finished(running: Generator[Any, Any, Any], result: Any) -> Any:
    """What the generator returns when it is sent the result."""
    with contained():
        try:
            running.send(result)
        except StopIteration as end:
            return end.value
        running.close()
    raise PluginError("its wrapper yields more than once")


def _taken(results: Any, take: Take) -> list[Any]:
    if not isinstance(results, list):
        raise PluginError(
            f"its wrapper returned {reprlib.repr(results)}; it has to return a list of results, as its yield "
            "gives"
        )
    return [take(functools.partial(_same, result)) for result in results]


def _same(result: Any) -> Any:
    return result
