"""The kit finds what is wrong: each quantizer here breaks a promise, beside the checks that must notice."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codecvq import Quantizer, QuantizerSpec, Terms, hookimpl
from codecvq.errors import OptionError, UnknownName
from codecvq.plugins import registry
from codecvq.quantizer import nearest_codes
from codecvq.testing import CheckFailed, parametrize_quantizer, quantizer_checks, run_checks
from codecvq.testing.check import expect_close, expect_equal


class Whole(Quantizer):
    """Nothing is wrong with it: sixteen codewords, learned by gradient, and a count of steps."""

    codebook: Tensor
    steps: Tensor

    def __init__(self, dim: int, codebook_size: int = 16) -> None:
        super().__init__(dim, [codebook_size])
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        self.register_buffer("steps", torch.zeros(()))

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        codes = nearest_codes(vectors, self.codebook)[:, None]
        return self.dequantize(codes), codes

    def dequantize(self, codes: Tensor) -> Tensor:
        return self.codebook[codes[:, 0]]

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        return Terms({"codebook": (values - vectors.detach()).square().mean()})

    def update(self, vectors: Tensor, codes: Tensor) -> None:
        self.steps += 1


class OneTooHigh(Whole):
    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        values, codes = super().quantize(vectors)
        return values, codes + 1

    def dequantize(self, codes: Tensor) -> Tensor:
        return super().dequantize(codes % 16)


class DecodesSomethingElse(Whole):
    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        values, codes = super().quantize(vectors)
        return values * 1.001, codes


class SumsItsLoss(Whole):
    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        padded = torch.nn.functional.pad(values - vectors.detach(), (0, 0, 0, 3))
        return Terms({"codebook": padded.square().mean() + padded[:, 0].square().sum()})

    def forward(self, latents: Tensor, mask: Tensor | None = None, num_codebooks: int | None = None) -> Any:
        return super().forward(latents.nan_to_num(nan=1e4), None, num_codebooks)  # as if there were no masks


class LearnsInEval(Whole):
    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        self.steps += 1
        return super().quantize(vectors)


class NormalisesOverTheBatch(Whole):
    def bound(self, vectors: Tensor) -> Tensor:
        return vectors - vectors.mean(dim=0) if len(vectors) else vectors


class GradientTwice(Whole):
    def forward(self, latents: Tensor, mask: Tensor | None = None, num_codebooks: int | None = None) -> Any:
        return super().forward(latents + (latents - latents.detach()), mask, num_codebooks)


class NoGradient(Whole):
    def bound(self, vectors: Tensor) -> Tensor:
        return vectors.detach()


class KeepsItsCache(Whole):
    """Decodes with what the codebook was when it was first asked, even after loading another."""

    kept: Tensor | None = None

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            return super().quantize(vectors)
        if self.kept is None:
            self.kept = self.codebook.detach().clone()
        codes = nearest_codes(vectors, self.kept)[:, None]
        return self.dequantize(codes), codes


class DividesByNothing(Whole):
    def bound(self, vectors: Tensor) -> Tensor:
        return vectors / vectors.norm(dim=1, keepdim=True)


class Forgets(Whole):
    """Its codebook is in no buffer."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.shift = torch.randn(dim)

    def bound(self, vectors: Tensor) -> Tensor:
        return vectors + self.shift


class LeavesAGraph(Whole):
    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        return Terms({"codebook": (values - vectors.detach()).square().mean()}, {"norm": values.norm()})

    def forward(self, latents: Tensor, mask: Tensor | None = None, num_codebooks: int | None = None) -> Any:
        out = super().forward(latents, mask, num_codebooks)
        out.metrics["norm"] = out.latents.norm()
        return out


class WritesToItsInput(Whole):
    def forward(self, latents: Tensor, mask: Tensor | None = None, num_codebooks: int | None = None) -> Any:
        with torch.no_grad():
            latents += 0.0 if latents.requires_grad else 1.0
        return super().forward(latents, mask, num_codebooks)


class Unseeded(Whole):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        with torch.random.fork_rng(devices=[]):
            torch.seed()
            self.codebook.data.copy_(torch.randn_like(self.codebook))


class HalfInAutocast(Whole):
    def encode(self, latents: Tensor, num_codebooks: int | None = None) -> Tensor:
        inside = torch.is_autocast_enabled("cpu")
        return super().encode(latents.bfloat16().float() * 0 if inside else latents, num_codebooks)


class AlwaysAnswers(Whole):
    def decode(self, codes: Tensor) -> Tensor:
        return super().decode(codes.long().clamp(0, self.codebook_sizes[0] - 1))

    def encode(self, latents: Tensor, num_codebooks: int | None = None) -> Tensor:
        return super().encode(latents.nan_to_num(), num_codebooks)


class ScalesNothing(Whole):
    """Says that it refines, and does not say by how much: each stage repeats the first."""

    refines = True

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        codes = (vectors[:, :1] > 0).long()
        return self.dequantize(codes), codes

    def dequantize(self, codes: Tensor) -> Tensor:
        return (codes * 2.0 - 1.0).expand(-1, self.code_dim)


class Converts(Whole):
    """Lets .bfloat16() round its codebook."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        return nn.Module._apply(self, fn, recurse)


class CountsCalls(Whole):
    """Changes its state whenever it is asked, also for no vectors at all."""

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            self.steps += 1
        return super().quantize(vectors)


class CannotBeMade(Whole):
    def __init__(self, dim: int) -> None:
        raise RuntimeError("no codebook today")


BROKEN: dict[type[Quantizer], set[str]] = {
    OneTooHigh: {"shapes"},
    DecodesSomethingElse: {"training_values"},
    SumsItsLoss: {"padding_values", "padding_losses", "padding_gradients", "padding_width", "all_padding"},
    Converts: {"conversion"},
    LearnsInEval: {"eval_changes_nothing", "encode_changes_nothing", "all_padding", "non_finite_training"},
    NormalisesOverTheBatch: {"frames_are_independent"},
    GradientTwice: {"gradient_gain"},
    NoGradient: {"gradient"},
    KeepsItsCache: {"save_load"},
    DividesByNothing: {"codes_in_range", "gradient_at_edges"},
    Forgets: {"save_load"},
    LeavesAGraph: {"metrics_are_detached"},
    WritesToItsInput: {"input_untouched"},
    Unseeded: {"same_seed"},
    HalfInAutocast: {"autocast"},
    AlwaysAnswers: {"wrong_codes", "non_finite_encode"},
    CannotBeMade: {"builds"},
}


@contextmanager
def registered(*classes: type[Quantizer]) -> Iterator[None]:
    """A block in which quantizers are registered, under their names in lower case."""

    class Plugin:
        @hookimpl
        def codecvq_quantizers(self) -> Iterator[QuantizerSpec]:
            for each in classes:
                yield QuantizerSpec(name=each.__name__.lower(), factory=each)

    origin = registry().register(Plugin(), "kit_test")
    try:
        yield
    finally:
        registry().unregister(origin)


def found_in(broken: type[Quantizer], form: str = "", only: Collection[str] = ()) -> dict[str, str]:
    """What the checks of one form find, or those of them in `only`."""
    with registered(broken):
        name = broken.__name__.lower()
        checks = [check for check in quantizer_checks(name) if check.name.startswith(f"{form}{name}/")]
        outcomes = list(run_checks(c for c in checks if not only or c.name.rpartition("/")[2] in only))
    return {outcome.check.name.rpartition("/")[2]: outcome.found for outcome in outcomes if outcome.found}


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    for form in ("", "residual_", "grouped_"):
        assert found_in(Whole, form) == {}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_what_is_broken_is_found(broken: type[Quantizer]) -> None:
    assert set(found_in(broken, only=BROKEN[broken])) == BROKEN[broken]


def test_a_grid_that_does_not_refine_is_found() -> None:
    assert "refinement" in found_in(ScalesNothing, "residual_", ["refinement"])


def test_a_stage_that_learns_though_it_is_dropped_is_found() -> None:
    only = ["dropped_stages_untouched"]
    assert "stage " in found_in(CountsCalls, "residual_", only)["dropped_stages_untouched"]
    assert found_in(Whole, "residual_", only) == {}


def test_what_was_found_is_said() -> None:
    assert "K is 16" in found_in(OneTooHigh, only=["shapes"])["shapes"]
    assert "steps by up to" in found_in(LearnsInEval, only=["eval_changes_nothing"])["eval_changes_nothing"]
    assert "RuntimeError: no codebook today" in found_in(CannotBeMade)["builds"]
    assert "gain of 2" in found_in(GradientTwice, only=["gradient_gain"])["gradient_gain"]


def test_wrong_options_and_names_are_the_users_errors() -> None:
    with pytest.raises(OptionError, match="levels"):
        list(quantizer_checks("fsq"))
    with pytest.raises(UnknownName, match="Did you mean 'simvq'"):
        list(quantizer_checks("simvk"))


def test_a_check_leaves_random_numbers_as_they_were() -> None:
    before = torch.get_rng_state()
    for check in quantizer_checks("vq", codebook_size=4):
        if check.name in ("vq/same_seed", "residual_vq/dropout_per_item"):
            check.run()
    assert torch.equal(torch.get_rng_state(), before)


def test_expected_failures_become_strict_xfails() -> None:
    with registered(NormalisesOverTheBatch):
        name = "normalisesoverthebatch"
        mark = parametrize_quantizer(
            name, expected_failures={"frames_are_independent": "the whole batch"}
        ).mark
        marked = {p.id: p.marks[0] for p in mark.args[1] if p.marks}
        assert set(marked) == {
            f"{form}{name}/frames_are_independent" for form in ("", "residual_", "grouped_")
        }
        assert all(
            m.name == "xfail" and m.kwargs == {"reason": "the whole batch", "strict": True}
            for m in marked.values()
        )
        with pytest.raises(OptionError, match="frames_are_independend"):
            parametrize_quantizer(name, expected_failures={"frames_are_independend": "misspelt"})


def test_differences_are_located() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(2, 3)
    b[1, 2] = 0.5
    with pytest.raises(CheckFailed, match=r"1 of 6 differ, most at \[1, 2\]: 0, not 0.5"):
        expect_equal(a, b, "values")
    expect_close(a, b, "values", tolerance=0.5)
    with pytest.raises(CheckFailed, match="int64"):
        expect_equal(a, b.long(), "values")
    with pytest.raises(CheckFailed, match=r"NaN|nan"):
        expect_close(torch.tensor([float("nan")]), torch.tensor([0.0]), "values")
    expect_equal(torch.tensor([float("nan"), torch.inf]), torch.tensor([float("nan"), torch.inf]), "values")
