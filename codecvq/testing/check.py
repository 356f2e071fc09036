"""`Check`, one promise that can be put to the test, and what checks compare with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SEED = 20_26


class CheckFailed(AssertionError):
    """A promise that is not kept; the text says what was found."""


@dataclass(frozen=True)
class Check:
    """One promise of one quantizer."""

    name: str  # "residual_vq/prefix"
    why: str  # the promise, as a sentence
    test: Callable[[], None]

    def run(self) -> None:
        """Raise CheckFailed, or what the quantizer itself raised, if the promise is not kept.

        Random numbers are seeded inside and left outside as they were.
        """
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.manual_seed(SEED)
            self.test()


@dataclass(frozen=True)
class Outcome:
    """What a check found."""

    check: Check
    found: str  # empty where the promise is kept
    seconds: float


def run_checks(checks: Iterable[Check]) -> Iterator[Outcome]:
    """The outcome of each check, in turn; whatever a quantizer raises is an outcome too."""
    for check in checks:
        start = time.perf_counter()
        found = ""
        try:
            check.run()
        except CheckFailed as failed:
            found = str(failed)
        except Exception as error:  # a stranger's code
            found = f"it raised {type(error).__name__}: {error}"
        yield Outcome(check, found, time.perf_counter() - start)


def expect(kept: bool, found: str) -> None:
    """Raise CheckFailed with what was found, unless the promise is kept."""
    if not kept:
        raise CheckFailed(found)


def expect_equal(got: Tensor, needed: Tensor, what: str) -> None:
    """Raise CheckFailed unless two tensors are equal bit for bit; NaN equals NaN."""
    expect_close(got, needed, what, tolerance=0.0)


def expect_close(got: Tensor, needed: Tensor, what: str, tolerance: float = 1e-5) -> None:
    """Raise CheckFailed unless shape, type and, within `tolerance` · (1 + |needed|), values are equal."""
    expect(got.shape == needed.shape, f"{what}: shape {list(got.shape)}, not {list(needed.shape)}")
    expect(got.dtype == needed.dtype, f"{what}: {got.dtype}, not {needed.dtype}")
    if not got.numel():
        return
    a, b = got.detach().double(), needed.detach().double()
    same = ((a - b).abs() <= tolerance * (1 + b.abs())) | (a.isnan() & b.isnan()) | (a == b)
    if bool(same.all()):
        return
    distance = torch.where(same, 0.0, (a - b).abs().nan_to_num(nan=torch.inf))
    where = [int(i) for i in torch.unravel_index(distance.argmax(), distance.shape)]
    raise CheckFailed(
        f"{what}: {int((~same).sum())} of {same.numel()} differ, most at {where}: "
        f"{float(a[tuple(where)]):g}, not {float(b[tuple(where)]):g}"
    )


def expect_error(error: type[Exception], call: Callable[[], object], what: str) -> None:
    """Raise CheckFailed unless the call raises this error, and with a text."""
    try:
        call()
    except error as raised:
        expect(bool(str(raised)), f"{what}: {error.__name__} without a text")
    except Exception as other:
        raise CheckFailed(f"{what}: {type(other).__name__} ({other}), not {error.__name__}") from other
    else:
        raise CheckFailed(f"{what}: no error, though {error.__name__} is needed")
