"""`Check`: one testable guarantee of a plugin, and the comparisons that checks use."""

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
#: Methods of the plugin that a check concerns, unless the check names others with `about`.
DEFAULT_METHODS = ("forward", "quantize", "dequantize")

Test = TypeVar("Test", bound=Callable[..., object])


class CheckFailed(AssertionError):
    """The checked code breaks a guarantee. The message states what was observed."""


class CheckSkipped(unittest.SkipTest):
    """A check that does not apply. The message states the reason; pytest reports the test as skipped."""


class FormUnsupported(CheckSkipped):
    """A residual, multiscale or grouped form that the quantizer does not support; the message says why."""


@dataclass(frozen=True)
class Check:
    """One guarantee of one quantizer, network, codec or reader."""

    name: str  # "residual_vq/prefix"
    why: str  # the guarantee, as a sentence
    test: Callable[[], str | None]  # raises if the guarantee is broken; may return a note
    needs: tuple[Check, ...] = ()  # checks that must pass before this one is meaningful, in order
    source: PluginSource = field(default_factory=PluginSource, repr=False, compare=False)
    methods: tuple[str, ...] = DEFAULT_METHODS  # methods that the guarantee concerns, the likeliest first

    @property
    def form(self) -> str:
        """The checked form: "residual_vq"."""
        return self.name.rpartition("/")[0]

    @property
    def short_name(self) -> str:
        """The name without the form: "prefix"."""
        return self.name.rpartition("/")[2]

    def run(self) -> str:
        """Run the check and return its note, usually an empty string.

        Raises CheckFailed, or whatever the checked code raises, if the guarantee is broken. Raises
        CheckSkipped if a check listed in `needs` fails. Random numbers are seeded during the check and
        restored afterwards.
        """
        for needed in self.needs:
            if not needed.passes:
                raise CheckSkipped(f"because {needed.name} failed")
        self.__dict__["passes"] = False
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.manual_seed(SEED)
            note = self._tested()
        self.__dict__["passes"] = True
        return note or ""

    @cached_property
    def passes(self) -> bool:
        """Whether the check passes. Runs the check if it has not run yet."""
        try:
            self.run()
        except Exception:  # plugin code may raise anything; running this check directly shows the error
            return False
        return True

    def _tested(self) -> str | None:
        """Run the test and return its note.

        An exception gets a note with the source line in the plugin, which pytest shows.
        """
        try:
            return self.test()
        except Exception as error:  # plugin code may raise anything
            if sys.version_info >= (3, 11) and not isinstance(error, CheckSkipped):
                error.add_note(f"at {self.place(error)}")
            raise

    def place(self, error: BaseException) -> str:
        """File, line and source of the plugin code that an error concerns; empty if unknown."""
        return self.source.frame(error) or self.source.definition(self.methods)


def about(*methods: str) -> Callable[[Test], Test]:
    """Decorate a check with the names of the plugin's methods that its guarantee concerns."""

    def marked(test: Test) -> Test:
        test.methods = methods  # type: ignore[attr-defined]
        return test

    return marked


def summary_of(test: Callable[..., object]) -> str:
    """The first line of a check's docstring: the guarantee as shown to users."""
    return (inspect.getdoc(test) or "").partition("\n")[0]


def expect(condition: bool, message: str) -> None:
    """Raise CheckFailed with this message if the condition is false."""
    if not condition:
        raise CheckFailed(message)


def expect_equal(got: Tensor, needed: Tensor, what: str) -> None:
    """Raise CheckFailed unless two tensors are bit-identical; NaN equals NaN."""
    expect_close(got, needed, what, tolerance=0.0)


def expect_close(got: Tensor, needed: Tensor, what: str, tolerance: float = 1e-5) -> None:
    """Raise CheckFailed unless shape, dtype and values agree.

    Values agree if they differ by at most `tolerance` · (1 + |needed|). NaN equals NaN, infinity equals
    infinity.
    """
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
    """Raise CheckFailed unless the call raises this error with a message."""
    try:
        call()
    except error as raised:
        expect(bool(str(raised)), f"{what}: {error.__name__} without a message")
    except Exception as other:
        raise CheckFailed(f"{what}: {type(other).__name__} ({other}), not {error.__name__}") from other
    else:
        raise CheckFailed(f"{what}: no error was raised; {error.__name__} is needed")
