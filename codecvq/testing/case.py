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
    """One form of one quantizer, with options."""

    name: str  # as build_quantizer takes it: "residual_vq"
    options: Mapping[str, Any]  # Any: an option is whatever its plugin takes
    plain: QuantizerCase | None = None  # the quantizer that this form is made of; None: it is plain

    def build(self, seed: int = 0, **more: Any) -> Quantizer:
        """A new one, in training mode, with weights from `seed`."""
        torch.default_generator.manual_seed(seed)
        return build_quantizer(self.name, **{**self.options, **more}).train()

    def trained(self, seed: int = 0, **more: Any) -> Quantizer:
        """One that has seen a few batches, so that codebooks made from data are there; in training mode."""
        quantizer = self.build(seed, **more)
        for step in range(TRAINING_STEPS):
            quantizer(self.latents(seed=100 + step))
        return quantizer

    def new_and_trained(self) -> list[tuple[str, Quantizer]]:
        """A new one and one that has seen data, with what to call them; in training mode."""
        return [("new", self.build()), ("trained", self.trained())]

    def without_dropout(self) -> QuantizerCase:
        """The same without quantizer dropout, for promises of what training sees."""
        off = {"dropout": 0.0} if "dropout" in self.options else {}
        return replace(self, options={**self.options, **off})

    def draws_random_numbers(self) -> bool:
        """Whether a step of a trained one draws random numbers, besides those of dropout."""
        quantizer = self.without_dropout().trained()
        quantizer.generator = torch.Generator().manual_seed(1)
        before = quantizer.generator.get_state()
        quantizer(self.latents())
        return not torch.equal(quantizer.generator.get_state(), before)

    def latents(self, batch: int = BATCH, frames: int = FRAMES, seed: int = 1) -> Tensor:
        """Normal random latents `[B, D, T]`, float32."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, int(self.options["dim"]), frames, generator=generator)


def is_composition(quantizer: Quantizer) -> bool:
    """Whether it is made of other quantizers."""
    return any(isinstance(each, Quantizer) for each in list(quantizer.modules())[1:])


def has_independent_frames(quantizer: Quantizer) -> bool:
    """Whether codes and values of a frame depend on no other frame: it declares no reach and no strides."""
    return quantizer.reach == Reach(0, 0) and block_length(quantizer) == 1


def block_length(quantizer: Quantizer) -> int:
    """The frames after which all strides begin a block together."""
    return math.lcm(*quantizer.strides)


def comparable_modes(quantizer: Quantizer) -> tuple[bool, ...]:
    """The modes in which values are those that decoding gives, training first."""
    return (False,) if quantizer.training_values_differ else (True, False)


def state_of(quantizer: Quantizer) -> dict[str, Tensor]:
    """Copies of every parameter and buffer, the unsaved ones too."""
    return {
        name: t.detach().clone() for name, t in (*quantizer.named_parameters(), *quantizer.named_buffers())
    }


def expect_same_state(
    got: Mapping[str, Tensor], needed: Mapping[str, Tensor], what: str, tolerance: float = 0.0
) -> None:
    """Raise CheckFailed, naming the tensors, unless two states are equal within `tolerance`."""
    if got.keys() != needed.keys():
        raise CheckFailed(f"{what}: other tensors, {sorted(got.keys() ^ needed.keys())}")
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
