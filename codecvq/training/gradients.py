"""Gradients between the backward passes of a step and the optimizers that use them.

Nothing here reads a number from the device. Whether a step has NaN or infinity is known there: the optimizers
leave their weights and moments as they are where `found_inf` is 1, as they do for torch's gradient scaler.

In fp16 the loss is scaled so that small gradients are not lost, by one scale for the codec and its
discriminators. Each one's gradients are unscaled once, each optimizer makes its step, and then the scale is
changed, once: lower where something overflowed, higher after many steps without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn


@dataclass(frozen=True)
class GradientStats:
    """What is known of the gradients of an optimizer's parameters, on the device."""

    norm: Tensor  # 0-d, before clipping; NaN or infinite where a gradient is
    first_nonfinite: Tensor  # 0-d int64: index in `names` of the first non-finite gradient; -1 for none
    names: Sequence[str]  # of the parameters that have a gradient

    @property
    def finite(self) -> Tensor:
        """Whether the step counts: 0-d bool."""
        return self.norm.isfinite()


def clip_gradients(
    accelerator: Accelerator,
    optimizer: AcceleratedOptimizer,
    parameters: Mapping[str, nn.Parameter],
    max_norm: float,
) -> GradientStats:
    """The gradients of an optimizer's `parameters`, unscaled, and scaled down to `max_norm` where their norm
    is larger.
    """
    if accelerator.scaler is not None:
        accelerator.scaler.unscale_(optimizer.optimizer)
    gradients = {name: each.grad for name, each in parameters.items() if each.grad is not None}
    norms = torch.stack(torch._foreach_norm(list(gradients.values())))
    norm = torch.linalg.vector_norm(norms)
    nonfinite = ~norms.isfinite()
    first_nonfinite = torch.where(nonfinite.any(), nonfinite.int().argmax(), -1)
    nn.utils.clip_grads_with_norm_([parameters[name] for name in gradients], max_norm, norm)
    return GradientStats(norm, first_nonfinite, list(gradients))


def step_optimizers(
    accelerator: Accelerator, parts: Sequence[tuple[AcceleratedOptimizer, GradientStats]]
) -> Tensor | None:
    """A step of each optimizer whose gradients are finite; then the loss scale is the next step's, which is
    returned (0-d), None without one.
    """
    for optimizer, stats in parts:
        fused = optimizer.optimizer  # torch's own: it looks for these two attributes
        fused.grad_scale, fused.found_inf = None, (~stats.finite).float()
        fused.step()
    if accelerator.scaler is None:
        return None
    accelerator.scaler.update()
    return loss_scale(accelerator)


def loss_scale(accelerator: Accelerator) -> Tensor:
    """The scale of the loss in fp16, 1 without one: 0-d, on the device."""
    one = torch.ones((), device=accelerator.device)
    return one if accelerator.scaler is None else accelerator.scaler.scale(one)
