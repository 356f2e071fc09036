"""Gradient clipping, loss scaling and optimizer steps.

No function here synchronizes with the GPU. Whether gradients are finite stays on the device: optimizers
leave their weights and moments unchanged if `found_inf` is 1, as they do for torch's gradient scaler.

In fp16 one loss scale, shared by codec and discriminators, keeps small gradients from underflowing. A step
unscales the gradients of each optimizer once, steps each optimizer, and then updates the scale once: it
falls after an overflow and rises after many steps without one.
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
    """Statistics of the gradients of an optimizer's parameters, on the device."""

    norm: Tensor  # 0-d, before clipping; non-finite if any gradient is
    first_nonfinite: Tensor  # 0-d int64: index in `names` of the first non-finite gradient; -1 for none
    names: Sequence[str]  # of the parameters that have a gradient

    @property
    def finite(self) -> Tensor:
        """Whether all gradients are finite: 0-d bool."""
        return self.norm.isfinite()


def clip_gradients(
    accelerator: Accelerator,
    optimizer: AcceleratedOptimizer,
    parameters: Mapping[str, nn.Parameter],
    max_norm: float,
) -> GradientStats:
    """Unscale the gradients of `parameters` in place and clip their total norm to `max_norm`."""
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
    """Step each optimizer that has finite gradients, then update the loss scale.

    Returns the new loss scale (0-d), or None without one.
    """
    for optimizer, stats in parts:
        fused = optimizer.optimizer  # torch's fused optimizer reads the following two attributes
        fused.grad_scale, fused.found_inf = None, (~stats.finite).float()
        fused.step()
    if accelerator.scaler is None:
        return None
    accelerator.scaler.update()
    return loss_scale(accelerator)


def loss_scale(accelerator: Accelerator) -> Tensor:
    """Loss scale in fp16, 1 otherwise: 0-d, on the device."""
    one = torch.ones((), device=accelerator.device)
    return one if accelerator.scaler is None else accelerator.scaler.scale(one)
