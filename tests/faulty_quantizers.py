"""Quantizers with one fault each, the checks that must find it, and a correct one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from codecvq import Quantizer, QuantizerSpec, Terms, hookimpl
from codecvq.plugins import registry
from codecvq.quantizer import nearest_codes


class CorrectQuantizer(Quantizer):
    """A quantizer without faults: sixteen codewords, learned by gradient, and a step counter."""

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


class OneTooHigh(CorrectQuantizer):
    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        values, codes = super().quantize(vectors)
        return values, codes + 1

    def dequantize(self, codes: Tensor) -> Tensor:
        return super().dequantize(codes % 16)


class DecodesSomethingElse(CorrectQuantizer):
    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        values, codes = super().quantize(vectors)
        return values * 1.001, codes


class SumsItsLoss(CorrectQuantizer):
    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        padded = torch.nn.functional.pad(values - vectors.detach(), (0, 0, 0, 3))
        return Terms({"codebook": padded.square().mean() + padded[:, 0].square().sum()})

    def forward(self, latents: Tensor, mask: Tensor | None = None, num_codebooks: int | None = None) -> Any:
        return super().forward(latents.nan_to_num(nan=1e4), None, num_codebooks)  # ignores masks


class LearnsInEval(CorrectQuantizer):
    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        self.steps += 1
        return super().quantize(vectors)


class NormalizesOverTheBatch(CorrectQuantizer):
    def bound(self, vectors: Tensor) -> Tensor:
        return vectors - vectors.mean(dim=0) if len(vectors) else vectors


class GradientTwice(CorrectQuantizer):
    def forward(self, latents: Tensor, mask: Tensor | None = None, num_codebooks: int | None = None) -> Any:
        return super().forward(latents + (latents - latents.detach()), mask, num_codebooks)


class NoGradient(CorrectQuantizer):
    def bound(self, vectors: Tensor) -> Tensor:
        return vectors.detach()


class StaleCache(CorrectQuantizer):
    """Encodes with a copy of the first codebook, even after another one is loaded."""

    cached: Tensor | None = None

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            return super().quantize(vectors)
        if self.cached is None:
            self.cached = self.codebook.detach().clone()
        codes = nearest_codes(vectors, self.cached)[:, None]
        return self.dequantize(codes), codes


class DividesByTheNorm(CorrectQuantizer):
    def bound(self, vectors: Tensor) -> Tensor:
        return vectors / vectors.norm(dim=1, keepdim=True)


class ShiftNotSaved(CorrectQuantizer):
    """Its shift is not a buffer, so it is not saved."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.shift = torch.randn(dim)

    def bound(self, vectors: Tensor) -> Tensor:
        return vectors + self.shift


class LeavesAGraph(CorrectQuantizer):
    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        return Terms({"codebook": (values - vectors.detach()).square().mean()}, {"norm": values.norm()})

    def forward(self, latents: Tensor, mask: Tensor | None = None, num_codebooks: int | None = None) -> Any:
        out = super().forward(latents, mask, num_codebooks)
        out.metrics["norm"] = out.latents.norm()
        return out


class WritesToItsInput(CorrectQuantizer):
    def forward(self, latents: Tensor, mask: Tensor | None = None, num_codebooks: int | None = None) -> Any:
        with torch.no_grad():
            latents += 0.0 if latents.requires_grad else 1.0
        return super().forward(latents, mask, num_codebooks)


class Unseeded(CorrectQuantizer):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        with torch.random.fork_rng(devices=[]):
            torch.seed()
            self.codebook.data.copy_(torch.randn_like(self.codebook))


class HalfInAutocast(CorrectQuantizer):
    def encode(self, latents: Tensor, num_codebooks: int | None = None) -> Tensor:
        inside = torch.is_autocast_enabled("cpu")
        return super().encode(latents.bfloat16().float() * 0 if inside else latents, num_codebooks)


class ChecksNoInput(CorrectQuantizer):
    def decode(self, codes: Tensor) -> Tensor:
        return super().decode(codes.long().clamp(0, self.codebook_sizes[0] - 1))

    def encode(self, latents: Tensor, num_codebooks: int | None = None) -> Tensor:
        return super().encode(latents.nan_to_num(), num_codebooks)


class RefinesWithoutScale(CorrectQuantizer):
    """Declares `refines` without `stage_scale`, so each stage repeats the first."""

    refines = True

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        codes = (vectors[:, :1] > 0).long()
        return self.dequantize(codes), codes

    def dequantize(self, codes: Tensor) -> Tensor:
        return (codes * 2.0 - 1.0).expand(-1, self.code_dim)


class RoundsItsCodebook(CorrectQuantizer):
    """Allows .bfloat16() to round its codebook."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        return nn.Module._apply(self, fn, recurse)


class CountsCalls(CorrectQuantizer):
    """Changes its state at each call, also without vectors."""

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            self.steps += 1
        return super().quantize(vectors)


class CannotBeBuilt(CorrectQuantizer):
    def __init__(self, dim: int) -> None:
        raise RuntimeError("no codebook today")


BROKEN: dict[type[Quantizer], set[str]] = {
    OneTooHigh: {"shapes"},
    DecodesSomethingElse: {"training_values"},
    SumsItsLoss: {"padding_values", "padding_losses", "padding_gradients", "padding_width", "all_padding"},
    RoundsItsCodebook: {"dtype_conversion"},
    LearnsInEval: {"eval_changes_nothing", "encode_changes_nothing", "all_padding", "non_finite_training"},
    NormalizesOverTheBatch: {"frames_are_independent"},
    GradientTwice: {"gradient_gain"},
    NoGradient: {"gradient"},
    StaleCache: {"save_load"},
    DividesByTheNorm: {"codes_in_range", "gradient_at_edges"},
    ShiftNotSaved: {"save_load"},
    LeavesAGraph: {"metrics_are_detached"},
    WritesToItsInput: {"input_unchanged"},
    Unseeded: {"same_seed"},
    HalfInAutocast: {"autocast"},
    ChecksNoInput: {"wrong_codes", "non_finite_encode"},
    CannotBeBuilt: {"builds"},
}


@contextmanager
def registered(*classes: type[Quantizer]) -> Iterator[None]:
    """Register quantizers within a `with` block, under their class names in lower case."""

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
