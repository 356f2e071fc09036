"""`run_checks`: run checks in turn and report the outcome of each."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from codecvq.errors import OptionError, nearest
from codecvq.testing.check import Check, CheckFailed, CheckSkipped, FormUnsupported

State = Literal["ok", "broken", "expected", "skipped", "refused"]


@dataclass(frozen=True)
class Outcome:
    """The result of one check."""

    check: Check
    state: State
    found: str  # the failure; empty unless the check is broken or fails as expected
    place: str  # file, line and source of the plugin code that the failure concerns; empty if unknown
    note: str  # the report of a passing check; the reason for an expected failure, a skip or a refused form
    seconds: float

    @property
    def is_broken(self) -> bool:
        """Whether the check failed unexpectedly, or passed although a failure was expected."""
        return self.state == "broken"


def run_checks(
    checks: Iterable[Check], *, stop_at_first: bool = False, expected: Mapping[str, str] | None = None
) -> Iterator[Outcome]:
    """Yield the outcome of each check in turn. An exception of the checked code is an outcome too.

    `stop_at_first` stops after the first broken check. `expected` maps checks that are known to fail to the
    reason: "prefix" applies to all forms, "residual_my_vq/prefix" to one. Such a check still runs and counts
    as broken once it passes. Raises OptionError if `expected` names an unknown check.
    """
    if expected:
        checks = list(checks)
        check_expected(expected, checks)
    for check in checks:
        outcome = _outcome(check, reason_for(check, expected or {}))
        yield outcome
        if stop_at_first and outcome.is_broken:
            return


def check_expected(expected: Mapping[str, str], checks: Collection[Check]) -> None:
    """Raise OptionError if `expected` names an unknown check; the message suggests the nearest name."""
    known = {check.name for check in checks} | {check.short_name for check in checks}
    for name in expected:
        if name not in known:
            raise OptionError(
                f"{name!r} is expected to fail, but no check has this name.{nearest(name, known)} "
                f"Known: {', '.join(sorted(known))}."
            )


def reason_for(check: Check, expected: Mapping[str, str]) -> str:
    """The reason why a check is expected to fail; empty if it is not."""
    return expected.get(check.name) or expected.get(check.short_name, "")


def _outcome(check: Check, reason: str) -> Outcome:
    start = time.perf_counter()
    state: State = "ok"
    found = place = note = ""
    try:
        note = check.run()
    except CheckSkipped as skipped:
        state, note = ("refused" if isinstance(skipped, FormUnsupported) else "skipped"), str(skipped)
    except Exception as error:  # plugin code may raise anything
        kind = "" if isinstance(error, CheckFailed) else f"it raised {type(error).__name__}: "
        state, found, place = "broken", f"{kind}{error}", check.place(error)
    if reason and state == "broken":
        state, note = "expected", reason
    elif reason and state == "ok":
        state, found = "broken", f"it passes but is expected to fail ({reason}). Remove the expectation."
    return Outcome(check, state, found, place, note, time.perf_counter() - start)
