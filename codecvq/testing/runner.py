"""`run_checks`: checks one after the other, and what each found."""

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
    """What a check found."""

    check: Check
    state: State
    found: str  # what is wrong; empty unless it is broken, or fails as expected
    place: str  # file, line and source of the author's code that it is about; empty where not known
    note: str  # what an unbroken check reports; why it was expected to fail, skipped or refused
    seconds: float

    @property
    def is_broken(self) -> bool:
        """Whether a check failed unexpectedly, or passed although a failure was expected."""
        return self.state == "broken"


def run_checks(
    checks: Iterable[Check], *, stop_at_first: bool = False, expected: Mapping[str, str] | None = None
) -> Iterator[Outcome]:
    """The outcome of each check, in turn; whatever the checked code raises is an outcome too.

    `stop_at_first` ends with the first broken one. `expected` maps checks that fail to the reason: "prefix"
    in all forms, or "residual_my_vq/prefix" in one. Such a check runs all the same, and is broken once it
    passes. Raises OptionError where `expected` names no check.
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
    """Raise OptionError where `expected` names no check, with the nearest that there is."""
    known = {check.name for check in checks} | {check.short_name for check in checks}
    for name in expected:
        if name not in known:
            raise OptionError(
                f"{name!r} is expected to fail, and is no check.{nearest(name, known)} "
                f"Known: {', '.join(sorted(known))}."
            )


def reason_for(check: Check, expected: Mapping[str, str]) -> str:
    """Why a check is expected to fail; empty where it is not."""
    return expected.get(check.name) or expected.get(check.short_name, "")


def _outcome(check: Check, reason: str) -> Outcome:
    start = time.perf_counter()
    state: State = "ok"
    found = place = note = ""
    try:
        note = check.run()
    except CheckSkipped as skipped:
        state, note = ("refused" if isinstance(skipped, FormUnsupported) else "skipped"), str(skipped)
    except Exception as error:  # a stranger's code
        kind = "" if isinstance(error, CheckFailed) else f"it raised {type(error).__name__}: "
        state, found, place = "broken", f"{kind}{error}", check.place(error)
    if reason and state == "broken":
        state, note = "expected", reason
    elif reason and state == "ok":
        state, found = "broken", f"it passes, and was expected to fail ({reason}). Remove the expectation."
    return Outcome(check, state, found, place, note, time.perf_counter() - start)
