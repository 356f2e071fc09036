"""Quantizers that declare more of themselves (gradient, progress, random numbers), sound and faulty.

Each faulty one is the sound one above it but for a line.
"""

from __future__ import annotations

import torch
from faulty_quantizers import Whole
from faulty_sequence_quantizers import (
    Delta,
    DeltaOverRows,
    DeltaThatLeaks,
    DeltaThatLeaksALittle,
    DeltaWithoutReach,
    Halves,
    HalvesInName,
    Smooths,
    SmoothsFarther,
)
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq import Quantizer, Terms
from codecvq.quantizer import ConditionalQuantizer, nearest_candidates, nearest_codes

# Random numbers


class Perturbs(Whole):
    """Moves its codewords a little in each update, with its own random numbers."""

    moved: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("moved", torch.zeros(16, dim))

    def update(self, vectors: Tensor, codes: Tensor) -> None:
        self.moved += self.noise(self.moved)

    def noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator)


class DrawsFromTheGlobal(Perturbs):
    def noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape)


class Reseeds(Perturbs):
    def noise(self, like: Tensor) -> Tensor:
        torch.manual_seed(0)
        return torch.randn(like.shape)


# Losses and state


class SumsOverVectors(Whole):
    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        return Terms({"codebook": (values - vectors.detach()).square().sum()})


class Ema(Whole):
    """Codewords are means of what chose them, remembered for a while."""

    counts: Tensor
    sums: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("counts", torch.zeros(16))
        self.register_buffer("sums", torch.zeros(16, dim))

    def update(self, vectors: Tensor, codes: Tensor) -> None:
        chosen = F.one_hot(codes[:, 0], 16).float()  # [M, K]
        self.counts.lerp_(chosen.sum(dim=0), 0.1)
        self.sums.lerp_(chosen.T @ vectors, 0.1)
        self.codebook.data.copy_(self.means())

    def means(self) -> Tensor:
        seen = self.counts[:, None] > 0
        return torch.where(seen, self.sums / self.counts[:, None].clamp(min=1e-6), self.codebook)


class EmaOfNothing(Ema):
    def means(self) -> Tensor:
        return self.sums / self.counts.sum() + self.codebook - self.sums / self.counts.sum()


# The gradient


class HasEstimator(Whole):
    def __init__(self, dim: int, estimator: str = "ste") -> None:
        Quantizer.__init__(self, dim, [16], estimator=estimator)
        self.codebook = nn.Parameter(torch.randn(16, dim))
        self.register_buffer("steps", torch.zeros(()))


class IgnoresEstimator(HasEstimator):
    def __init__(self, dim: int, estimator: str = "ste") -> None:
        super().__init__(dim)


class PassesNothingOn(HasEstimator):
    """Names its estimator, and uses straight-through all the same."""

    def apply_estimator(self, vectors: Tensor, values: Tensor) -> Tensor:
        return values.detach() + vectors - vectors.detach()


class Softly(Whole):
    """The hard choice with the gradient of the soft one (IBQ, arXiv:2412.02692)."""

    own_gradient = True

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        soft = (-torch.cdist(vectors, self.codebook)).softmax(dim=1)
        codes = nearest_codes(vectors, self.codebook)[:, None]
        hard = F.one_hot(codes[:, 0], 16).float()
        return (hard + soft - soft.detach()) @ self.codebook, codes


class SoftlyButDetached(Softly):
    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return super().quantize(vectors.detach())


class SoftlyUndeclared(Softly):
    own_gradient = False


class SoftlyWhereWide(Softly):
    """In groups, which are narrower, the codebook gets no gradient."""

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        values, codes = super().quantize(vectors)
        return (values if self.dim == 8 else values.detach() + vectors - vectors.detach()), codes


# Candidates


class Searched(Whole):
    def candidates(self, vectors: Tensor, count: int) -> Tensor:
        return nearest_candidates(vectors, self.codebook, count)


class WorstFirst(Searched):
    def candidates(self, vectors: Tensor, count: int) -> Tensor:
        return super().candidates(vectors, count).flip(1)


class WorstOfAll(Searched):
    """The farthest codewords, the nearest of them first."""

    def candidates(self, vectors: Tensor, count: int) -> Tensor:
        return super().candidates(vectors, 16)[:, -count:]


# Values of training


class Substitutes(Whole):
    """Noise as long as the error in place of it, in training (NSVQ, DOI 10.1109/ACCESS.2022.3147670)."""

    own_gradient = True
    training_values_differ = True

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        codes = nearest_codes(vectors, self.codebook)[:, None]
        values = self.dequantize(codes)
        if not self.training:
            return values + (vectors - vectors.detach()), codes
        noise = torch.randn(vectors.shape, generator=self.generator)
        error = (vectors - values).norm(dim=1, keepdim=True)
        return vectors + error / noise.norm(dim=1, keepdim=True).clamp(min=1e-9) * noise, codes


class SubstitutesUndeclared(Substitutes):
    training_values_differ = False


class SaysThatItDiffers(Whole):
    training_values_differ = True


# Progress


class Anneals(Whole):
    uses_progress = True

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        weight = 1.0 - self.progress.fraction
        return Terms({"codebook": weight * (values - vectors.detach()).square().mean()})


class AnnealsUndeclared(Anneals):
    uses_progress = False


class KeepsProgressToItself(Anneals):
    def set_progress(self, step: int, steps: int | None = None) -> None:
        self.step = step


# Stages that see the sum


class Conditional(ConditionalQuantizer):
    """Codewords move with the sum so far (in the manner of QINCo, arXiv:2401.14732)."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, [16])
        self.codebook = nn.Parameter(torch.randn(16, dim))
        self.shift = nn.Linear(dim, dim)

    def quantize_given(self, vectors: Tensor, partial_sum: Tensor) -> tuple[Tensor, Tensor]:
        codes = nearest_codes(vectors - self.shift(partial_sum), self.codebook)[:, None]
        return self.dequantize_given(codes, partial_sum), codes

    def dequantize_given(self, codes: Tensor, partial_sum: Tensor) -> Tensor:
        return self.codebook[codes[:, 0]] + self.shift(partial_sum)

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        return Terms({"codebook": (values - vectors.detach()).square().mean()})


class DecodesWithoutTheSum(Conditional):
    def dequantize_given(self, codes: Tensor, partial_sum: Tensor) -> Tensor:
        return super().dequantize_given(codes, torch.zeros_like(partial_sum))

    def quantize_given(self, vectors: Tensor, partial_sum: Tensor) -> tuple[Tensor, Tensor]:
        codes = nearest_codes(vectors - self.shift(partial_sum), self.codebook)[:, None]
        return super().dequantize_given(codes, partial_sum), codes


# As many codebooks as a frame needs


class Shallow(Quantizer):
    """A second codebook only for vectors that the first leaves far away."""

    variable_depth = True

    def __init__(self, dim: int) -> None:
        super().__init__(dim, [16, 16])
        self.codebook = nn.Parameter(torch.randn(2, 16, dim))

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        first = nearest_codes(vectors, self.codebook[0])
        rest = vectors - self.codebook[0][first]
        second = nearest_codes(rest, self.codebook[1])
        codes = torch.stack([first, second.where(rest.norm(dim=1) > 2.0, -1)], dim=1)
        return self.dequantize(codes), codes

    def dequantize(self, codes: Tensor) -> Tensor:
        present = (codes >= 0).float()[:, :, None]
        values = torch.stack([self.codebook[n][codes[:, n].clamp(min=0)] for n in range(2)], dim=1)
        return (values * present).sum(dim=1)

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        return Terms({"codebook": (values - vectors.detach()).square().mean()})


class ShallowAtTheFront(Shallow):
    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        values, codes = super().quantize(vectors)
        return values, codes.flip(1)

    def dequantize(self, codes: Tensor) -> Tensor:
        return super().dequantize(codes.flip(1))


EVERY_FORM = ("", "residual_", "multiscale_", "grouped_")
#: the sound ones, with the forms in which they work
SOUND: dict[type[Quantizer], tuple[str, ...]] = {
    Perturbs: EVERY_FORM,
    Ema: EVERY_FORM,
    HasEstimator: EVERY_FORM,
    Softly: EVERY_FORM,
    Searched: EVERY_FORM,
    Substitutes: EVERY_FORM,
    Anneals: EVERY_FORM,
    Delta: EVERY_FORM,
    Smooths: EVERY_FORM,
    Halves: ("",),
    Conditional: EVERY_FORM,
    Shallow: ("",),
}
#: the faulty ones: form/check that must notice
FAULTY: dict[type[Quantizer], set[str]] = {
    DrawsFromTheGlobal: {"/generator_is_used", "/equal_generators", "residual_/generator_is_used"},
    Reseeds: {"/global_seed_unchanged", "grouped_/global_seed_unchanged"},
    SumsOverVectors: {"/losses_are_means", "residual_/losses_are_means"},
    EmaOfNothing: {"/update_without_vectors"},
    IgnoresEstimator: {"/estimator_is_used"},
    PassesNothingOn: {"/estimator_is_used"},
    SoftlyButDetached: {"/own_gradient", "/task_gradient"},
    SoftlyUndeclared: {"/own_gradient"},
    SoftlyWhereWide: {"grouped_/task_gradient"},
    WorstFirst: {"/candidates"},
    WorstOfAll: {"/candidates", "residual_/beam"},
    SubstitutesUndeclared: {"/training_values"},
    SaysThatItDiffers: {"/training_values_differ", "residual_/training_values_differ"},
    KeepsProgressToItself: {"/progress"},
    AnnealsUndeclared: {"/undeclared_progress", "residual_/undeclared_progress"},
    DeltaWithoutReach: {"/frames_are_independent"},
    DeltaOverRows: {"/items_are_independent", "/frames_are_independent"},
    DeltaThatLeaks: {"/items_are_independent"},
    DeltaThatLeaksALittle: {"/items_are_independent"},
    SmoothsFarther: {"/declared_reach"},
    HalvesInName: {"/strides"},
    DecodesWithoutTheSum: {"/dequantize_matches_quantize"},
    ShallowAtTheFront: {"/absent_codes"},
}
