"""`Check`, one promise that can be put to the test, and what checks compare with."""

from __future__ import annotations

import inspect
import sys
import unittest
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from codecvq.testing.source import PluginSource

SEED = 20_26
DEFAULT_METHODS = (
    "forward",
    "quantize",
    "dequantize",
)  # methods that a promise is about, unless its check says so

Test = TypeVar("Test", bound=Callable[..., object])


class CheckFailed(AssertionError):
    """A promise that is not kept; the text says what was found."""


class CheckSkipped(unittest.SkipTest):
    """A check that says nothing here; the text says why. pytest shows the test as skipped."""


class FormUnsupported(CheckSkipped):
    """A residual or grouped form that cannot be built, by design; the text says why."""


@dataclass(frozen=True)
class Check:
    """One promise of one quantizer, network or codec."""

    name: str  # "residual_vq/prefix"
    why: str  # the promise, as a sentence
    test: Callable[[], str | None]  # raises where the promise is broken; may return a note
    needs: tuple[Check, ...] = ()  # checks without which this one says nothing, the first that matters first
    source: PluginSource = field(default_factory=PluginSource, repr=False, compare=False)
    methods: tuple[str, ...] = (
        DEFAULT_METHODS  # names of methods that the promise is about, the likeliest first
    )

    @property
    def form(self) -> str:
        """What is checked: "residual_vq"."""
        return self.name.rpartition("/")[0]

    @property
    def short_name(self) -> str:
        """The promise alone: "prefix"."""
        return self.name.rpartition("/")[2]

    def run(self) -> str:
        """What the check reports, mostly nothing. Raises CheckFailed, or what the checked code itself raised,
        if the promise is not kept; CheckSkipped where a check that this one needs has failed.

        Random numbers are seeded inside and left outside as they were.
        """
        for needed in self.needs:
            if not needed.passes:
                raise CheckSkipped(f"since {needed.name} failed")
        self.__dict__["passes"] = False
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.manual_seed(SEED)
            note = self._tested()
        self.__dict__["passes"] = True
        return note or ""

    @cached_property
    def passes(self) -> bool:
        """Whether the promise was kept when the check ran, which happens now if it did not yet."""
        try:
            self.run()
        except Exception:  # a stranger's code; whoever runs this check by itself sees it
            return False
        return True

    def _tested(self) -> str | None:
        """What the test returns; what it raises has a note with the source's line, which pytest shows."""
        try:
            return self.test()
        except Exception as error:  # a stranger's code
            if sys.version_info >= (3, 11) and not isinstance(error, CheckSkipped):
                error.add_note(f"at {self.place(error)}")
            raise

    def place(self, error: BaseException) -> str:
        """File, line and source of the source's code that a failure is about; empty where it is not known."""
        return self.source.frame(error) or self.source.definition(self.methods)


def about(*methods: str) -> Callable[[Test], Test]:
    """A decorator of a check's function: the source's methods that its promise is about."""

    def marked(test: Test) -> Test:
        test.methods = methods  # type: ignore[attr-defined]
        return test

    return marked


def summary_of(test: Callable[..., object]) -> str:
    """The first line of a check's docstring, which is what is shown of it."""
    return (inspect.getdoc(test) or "").partition("\n")[0]


def expect(condition: bool, found: str) -> None:
    """Raise CheckFailed with what was found, unless the promise is kept."""
    if not condition:
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
    if a.numel() == 1:
        raise CheckFailed(f"{what}: {float(a):g}, not {float(b):g}")
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
