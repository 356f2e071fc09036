"""Lookup-free quantization (arXiv:2310.05737) and its spherical form BSQ (arXiv:2406.07548).

Each channel is quantized to its sign:

    value = s sign x, sign 0 = +1        code = Σ_k [x_k >= 0] 2^k        t_k = 4 x_k / (s τ)

The scale s is 1 for LFQ and 1/√bits for BSQ. Values c are ±s in every channel, so |x - c|² = const - 2 x·c.
Soft assignment by distance with temperature s² τ makes the bits independent, with logits t_k. Dividing by the
scale s gives τ the same meaning at every residual stage. The loss

    w_entropy (H_sample - w_diversity H_codebook)

rewards confident choices (first term) and uniform use of the codebook (second term). It is negative when both
are achieved.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from codecvq import Quantizer, Terms
from codecvq.errors import OptionError
from codecvq.quantizer import sum_over_ranks
from codecvq_lfq.entropy import codebook_entropy, sample_entropy

MIN_NORM = 1e-2  # bsq: shorter vectors are not scaled to length 1, which limits the gradient gain to 100
MAX_EXACT_BITS = 53  # float64 represents all integers of up to this many bits


class LFQ(Quantizer):
    """The signs of `bits` channels form one code. Each of `num_codebooks` codebooks has its own channels.

    Args: `temperature` τ in units of the code's scale; `soft_clamp` c bounds the input to c tanh(x/c), None
    does not bound it.
    """

    refines = True
    collective = True  # the codebook entropy is computed over all processes
    powers: Tensor  # [bits] int64
    weights: Tensor  # [bits] float64, the same

    def __init__(
        self,
        dim: int,
        bits: int,
        *,
        num_codebooks: int = 1,
        entropy_weight: float = 0.1,
        diversity_weight: float = 1.0,
        commitment_weight: float = 0.25,
        temperature: float = 1.0,
        soft_clamp: float | None = None,
        estimator: str = "ste",
    ) -> None:
        if not isinstance(bits, int) or not 1 <= bits <= 62:
            raise OptionError(f"lfq: bits is {bits!r}; it must be an integer from 1 to 62")
        if temperature <= 0 or (soft_clamp is not None and soft_clamp <= 0):
            raise OptionError(
                f"lfq: temperature is {temperature} and soft_clamp {soft_clamp}; both must be above 0"
            )
        super().__init__(dim, [2**bits] * num_codebooks, code_dim=bits * num_codebooks, estimator=estimator)
        self.bits, self.temperature, self.soft_clamp = bits, temperature, soft_clamp
        self.entropy_weight, self.diversity_weight = entropy_weight, diversity_weight
        self.commitment_weight = commitment_weight
        self.scale = 1.0
        self.register_buffer("powers", 2 ** torch.arange(bits), persistent=False)
        self.register_buffer("weights", self.powers.double(), persistent=False)

    @property
    def code_levels(self) -> tuple[tuple[int, ...], ...]:
        """The digits of a code are the bits of its channels."""
        return ((2,) * self.bits,) * self.num_codebooks

    def bound(self, vectors: Tensor) -> Tensor:
        """Apply the soft clamp if it is set: `[M, D]` -> `[M, D]`."""
        return vectors if self.soft_clamp is None else self.soft_clamp * (vectors / self.soft_clamp).tanh()

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Signs times the scale, and codes: `[M, D]` -> `[M, D]`, `[M, N]`."""
        return torch.where(vectors >= 0, self.scale, -self.scale), self.codes_only(vectors)

    def codes_only(self, vectors: Tensor) -> Tensor:
        """The signs as bits: `[M, D]` -> `[M, N]`."""
        signs = rearrange(vectors >= 0, "m (n d) -> m n d", d=self.bits)
        if self.bits <= MAX_EXACT_BITS:  # a product of matrices is several times as fast as a sum of integers
            return (signs.double() @ self.weights).long()
        return (signs * self.powers).sum(dim=2)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Values of codes: `[M, N]` -> `[M, D]`."""
        signs = codes[:, :, None] // self.powers % 2
        return rearrange((2 * signs - 1).float() * self.scale, "m n d -> m (n d)")

    def stage_scale(self, stage: int) -> float:
        """2^-stage: signs on successively halved scales are a binary expansion."""
        return 2.0**-stage

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        """Entropy losses, commitment loss, and the entropies as metrics in nats.

        Entropies are computed per codebook and averaged.
        """
        logits = rearrange(vectors * (4 / (self.scale * self.temperature)), "m (n d) -> n d m", d=self.bits)
        # In eval, one process may run without the others, so there is no reduction.
        reduce_sum = sum_over_ranks if self.training else _without_reduction
        per_sample = torch.stack([sample_entropy(part, reduce_sum) for part in logits]).mean()
        of_codebook = torch.stack([codebook_entropy(part, reduce_sum) for part in logits]).mean()
        error = (vectors - values.detach()).square().sum() / max(1, vectors.numel())
        losses = {
            "per_sample_entropy": self.entropy_weight * per_sample,
            "codebook_entropy": -self.entropy_weight * self.diversity_weight * of_codebook,
            "commitment": self.commitment_weight * error,
        }
        return Terms(losses, {"per_sample_entropy": per_sample, "codebook_entropy": of_codebook})


class BSQ(LFQ):
    """LFQ of vectors of length 1: the values ±1/√bits have length 1 too."""

    def __init__(
        self,
        dim: int,
        bits: int,
        *,
        num_codebooks: int = 1,
        entropy_weight: float = 0.1,
        diversity_weight: float = 1.0,
        commitment_weight: float = 0.0,
        temperature: float = 1.0,
        estimator: str = "ste",
    ) -> None:
        super().__init__(
            dim,
            bits,
            num_codebooks=num_codebooks,
            entropy_weight=entropy_weight,
            diversity_weight=diversity_weight,
            commitment_weight=commitment_weight,
            temperature=temperature,
            estimator=estimator,
        )
        self.scale = bits**-0.5

    def bound(self, vectors: Tensor) -> Tensor:
        """Scale each codebook's channels to the unit sphere: `[M, D]` -> `[M, D]`."""
        parts = rearrange(vectors, "m (n d) -> m n d", d=self.bits)
        return rearrange(F.normalize(parts, dim=2, eps=MIN_NORM), "m n d -> m (n d)")


def _without_reduction(tensor: Tensor) -> Tensor:
    return tensor
