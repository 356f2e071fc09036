"""Correct and faulty quantizers that use declarations of the contract: gradients, progress, random numbers.

A faulty one differs in few lines from the correct one above it.
"""

from __future__ import annotations

import torch
from faulty_quantizers import CorrectQuantizer
from faulty_sequence_quantizers import (
    Delta,
    DeltaAcrossItems,
    DeltaMixesItems,
    DeltaOverVectors,
    DeltaWithoutReach,
    Halves,
    HalvesInNameOnly,
    Smooths,
    SmoothsBeyondItsReach,
)
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq import Quantizer, Terms
from codecvq.quantizer import ConditionalQuantizer, nearest_candidates, nearest_codes

# Random numbers


class Perturbs(CorrectQuantizer):
    """Moves its codewords by a random step in each update, with its own generator."""

    moved: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("moved", torch.zeros(16, dim))

    def update(self, vectors: Tensor, codes: Tensor) -> None:
        self.moved += self.noise(self.moved)

    def noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator)


class DrawsFromTheGlobalGenerator(Perturbs):
    def noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape)


class Reseeds(Perturbs):
    def noise(self, like: Tensor) -> Tensor:
        torch.manual_seed(0)
        return torch.randn(like.shape)


# Losses and state


class SumsOverVectors(CorrectQuantizer):
    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        return Terms({"codebook": (values - vectors.detach()).square().sum()})


class Ema(CorrectQuantizer):
    """Codewords are moving averages of the vectors assigned to them."""

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


class EmaWithoutVectors(Ema):
    def means(self) -> Tensor:
        return self.sums / self.counts.sum() + self.codebook - self.sums / self.counts.sum()


# The gradient


class HasEstimator(CorrectQuantizer):
    def __init__(self, dim: int, estimator: str = "ste") -> None:
        Quantizer.__init__(self, dim, [16], estimator=estimator)
        self.codebook = nn.Parameter(torch.randn(16, dim))
        self.register_buffer("steps", torch.zeros(()))


class IgnoresEstimator(HasEstimator):
    def __init__(self, dim: int, estimator: str = "ste") -> None:
        super().__init__(dim)


class IgnoresItsEstimator(HasEstimator):
    """Accepts an estimator, but always uses the straight-through gradient."""

    def apply_estimator(self, vectors: Tensor, values: Tensor) -> Tensor:
        return values.detach() + vectors - vectors.detach()


class SoftGradient(CorrectQuantizer):
    """Hard assignment with the gradient of soft assignment (IBQ, arXiv:2412.02692)."""

    own_gradient = True

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        soft = (-torch.cdist(vectors, self.codebook)).softmax(dim=1)
        codes = nearest_codes(vectors, self.codebook)[:, None]
        hard = F.one_hot(codes[:, 0], 16).float()
        return (hard + soft - soft.detach()) @ self.codebook, codes


class SoftGradientDetached(SoftGradient):
    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return super().quantize(vectors.detach())


class SoftGradientUndeclared(SoftGradient):
    own_gradient = False


class SoftGradientOnlyIfWide(SoftGradient):
    """In groups, which have fewer channels, the codebook gets no gradient."""

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        values, codes = super().quantize(vectors)
        return (values if self.dim == 8 else values.detach() + vectors - vectors.detach()), codes


# Candidates


class WithCandidates(CorrectQuantizer):
    def candidates(self, vectors: Tensor, count: int) -> Tensor:
        return nearest_candidates(vectors, self.codebook, count)


class WorstFirst(WithCandidates):
    def candidates(self, vectors: Tensor, count: int) -> Tensor:
        return super().candidates(vectors, count).flip(1)


class WorstOfAll(WithCandidates):
    """The farthest codewords, sorted from near to far."""

    def candidates(self, vectors: Tensor, count: int) -> Tensor:
        return super().candidates(vectors, 16)[:, -count:]


# Training values


class NoiseSubstitution(CorrectQuantizer):
    """In training, noise replaces the error at equal norm (NSVQ, DOI 10.1109/ACCESS.2022.3147670)."""

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


class NoiseSubstitutionUndeclared(NoiseSubstitution):
    training_values_differ = False


class DeclaresTrainingValuesInVain(CorrectQuantizer):
    training_values_differ = True


# Progress


class Anneals(CorrectQuantizer):
    uses_progress = True

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        weight = 1.0 - self.progress.fraction
        return Terms({"codebook": weight * (values - vectors.detach()).square().mean()})


class AnnealsUndeclared(Anneals):
    uses_progress = False


class IgnoresProgress(Anneals):
    def set_progress(self, step: int, steps: int | None = None) -> None:
        self.step = step


# Conditional stages


class Conditional(ConditionalQuantizer):
    """Codewords depend on the partial sum (as in QINCo, arXiv:2401.14732)."""

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


# Variable depth


class VariableDepth(Quantizer):
    """Uses a second codebook only for vectors with a large error after the first."""

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


class AbsentCodesInFront(VariableDepth):
    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        values, codes = super().quantize(vectors)
        return values, codes.flip(1)

    def dequantize(self, codes: Tensor) -> Tensor:
        return super().dequantize(codes.flip(1))


EVERY_FORM = ("", "residual_", "multiscale_", "grouped_")
#: correct quantizers and the forms in which they work
CORRECT: dict[type[Quantizer], tuple[str, ...]] = {
    Perturbs: EVERY_FORM,
    Ema: EVERY_FORM,
    HasEstimator: EVERY_FORM,
    SoftGradient: EVERY_FORM,
    WithCandidates: EVERY_FORM,
    NoiseSubstitution: EVERY_FORM,
    Anneals: EVERY_FORM,
    Delta: EVERY_FORM,
    Smooths: EVERY_FORM,
    Halves: ("",),
    Conditional: EVERY_FORM,
    VariableDepth: ("",),
}
#: faulty quantizers and the checks (form/check) that must find the fault
FAULTY: dict[type[Quantizer], set[str]] = {
    DrawsFromTheGlobalGenerator: {"/generator_is_used", "/equal_generators", "residual_/generator_is_used"},
    Reseeds: {"/global_seed_unchanged", "grouped_/global_seed_unchanged"},
    SumsOverVectors: {"/losses_are_means", "residual_/losses_are_means"},
    EmaWithoutVectors: {"/update_without_vectors"},
    IgnoresEstimator: {"/estimator_is_used"},
    IgnoresItsEstimator: {"/estimator_is_used"},
    SoftGradientDetached: {"/own_gradient", "/task_gradient"},
    SoftGradientUndeclared: {"/own_gradient"},
    SoftGradientOnlyIfWide: {"grouped_/task_gradient"},
    WorstFirst: {"/candidates"},
    WorstOfAll: {"/candidates", "residual_/beam"},
    NoiseSubstitutionUndeclared: {"/training_values"},
    DeclaresTrainingValuesInVain: {"/training_values_differ", "residual_/training_values_differ"},
    IgnoresProgress: {"/progress"},
    AnnealsUndeclared: {"/undeclared_progress", "residual_/undeclared_progress"},
    DeltaWithoutReach: {"/frames_are_independent"},
    DeltaOverVectors: {"/items_are_independent", "/frames_are_independent"},
    DeltaAcrossItems: {"/items_are_independent"},
    DeltaMixesItems: {"/items_are_independent"},
    SmoothsBeyondItsReach: {"/declared_reach"},
    HalvesInNameOnly: {"/strides"},
    DecodesWithoutTheSum: {"/dequantize_matches_quantize"},
    AbsentCodesInFront: {"/absent_codes"},
}
