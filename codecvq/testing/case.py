"""`QuantizerCase`: a quantizer under test, with helpers to build it, feed it and compare states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from codecvq.api.reach import Reach
from codecvq.quantizer import Quantizer, build_quantizer
from codecvq.testing.check import CheckFailed

TRAINING_STEPS = 2
BATCH, FRAMES = 4, 8


@dataclass(frozen=True)
class QuantizerCase:
    """One form of one quantizer with its options."""

    name: str  # as passed to build_quantizer: "residual_vq"
    options: Mapping[str, Any]  # Any: the plugin defines the types of its options
    plain: QuantizerCase | None = None  # the quantizer that this form is derived from; None for a plain one

    def build(self, seed: int = 0, **more: Any) -> Quantizer:
        """Build a new quantizer in training mode, with weights drawn from `seed`."""
        torch.default_generator.manual_seed(seed)
        return build_quantizer(self.name, **{**self.options, **more}).train()

    def trained(self, seed: int = 0, **more: Any) -> Quantizer:
        """Build a quantizer and run a few training batches, which initialize data-dependent codebooks.

        Returns it in training mode.
        """
        quantizer = self.build(seed, **more)
        for step in range(TRAINING_STEPS):
            quantizer(self.latents(seed=100 + step))
        return quantizer

    def new_and_trained(self) -> list[tuple[str, Quantizer]]:
        """A new quantizer and one after a few training batches, with labels; both in training mode."""
        return [("new", self.build()), ("trained", self.trained())]

    def without_dropout(self) -> QuantizerCase:
        """The same case with quantizer dropout off, to compare training values."""
        off = {"dropout": 0.0} if "dropout" in self.options else {}
        return replace(self, options={**self.options, **off})

    def draws_random_numbers(self) -> bool:
        """Whether a training step draws random numbers, apart from dropout."""
        quantizer = self.without_dropout().trained()
        quantizer.generator = torch.Generator().manual_seed(1)
        before = quantizer.generator.get_state()
        quantizer(self.latents())
        return not torch.equal(quantizer.generator.get_state(), before)

    def latents(self, batch: int = BATCH, frames: int = FRAMES, seed: int = 1) -> Tensor:
        """Standard normal latents `[B, D, T]`, float32."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, int(self.options["dim"]), frames, generator=generator)


def is_composition(quantizer: Quantizer) -> bool:
    """Whether the quantizer contains other quantizers."""
    return any(isinstance(each, Quantizer) for each in list(quantizer.modules())[1:])


def has_independent_frames(quantizer: Quantizer) -> bool:
    """Whether codes and values of a frame depend on no other frame: reach 0 and all strides 1."""
    return quantizer.reach == Reach(0, 0) and block_length(quantizer) == 1


def block_length(quantizer: Quantizer) -> int:
    """The period in frames after which the blocks of all strides start together."""
    return math.lcm(*quantizer.strides)


def comparable_modes(quantizer: Quantizer) -> tuple[bool, ...]:
    """The modes (training first) in which forward returns the values that decode returns."""
    return (False,) if quantizer.training_values_differ else (True, False)


def state_of(quantizer: Quantizer) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, including non-persistent ones."""
    return {
        name: t.detach().clone() for name, t in (*quantizer.named_parameters(), *quantizer.named_buffers())
    }


def expect_same_state(
    got: Mapping[str, Tensor], needed: Mapping[str, Tensor], what: str, tolerance: float = 0.0
) -> None:
    """Raise CheckFailed unless two states are equal within `tolerance`; the message names the tensors."""
    if got.keys() != needed.keys():
        raise CheckFailed(f"{what}: the set of tensors differs, by {sorted(got.keys() ^ needed.keys())}")
    changed = [
        f"{name} by up to {_distance(got[name], old):g}"
        for name, old in needed.items()
        if _distance(got[name], old) > tolerance
    ]
    if changed:
        raise CheckFailed(f"{what}: state differs: {', '.join(changed)}")


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return torch.inf
    if torch.equal(a, b):
        return 0.0
    return float((a.double() - b.double()).abs().nan_to_num(nan=torch.inf).max())
