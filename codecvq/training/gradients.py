"""Gradients between the backward passes of a step and the optimizers that use them.

In fp16 the loss is scaled so that small gradients are not lost, by one scale for the codec and its
discriminators. Each one's gradients are brought back once, each optimizer makes its step, and then the scale
is changed, once: lower where something overflowed, higher after many steps without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn


def clipped_norm(accelerator: Accelerator, optimizer: AcceleratedOptimizer, max_norm: float) -> float:
    """The norm of the gradients of an optimizer's parameters, which are brought back to their size and scaled
    down to `max_norm` where they are longer. NaN or infinite where one is: they stay as they are then.
    """
    if accelerator.scaler is not None:
        accelerator.scaler.unscale_(optimizer.optimizer)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
    if bool(norm.isfinite()):
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return float(norm)


def take_step(accelerator: Accelerator, norms: Sequence[tuple[AcceleratedOptimizer, float]]) -> None:
    """A step of each optimizer whose gradients have a finite norm; then the loss scale is the next step's."""
    for optimizer, norm in norms:
        if not math.isfinite(norm):
            continue
        if accelerator.scaler is None:
            optimizer.step()
        else:
            accelerator.scaler.step(optimizer.optimizer)
    if accelerator.scaler is not None:
        accelerator.scaler.update()


def overflowed(accelerator: Accelerator, finite: bool) -> bool:
    """Whether infinite gradients are an overflow of fp16, which the lower scale mends, on all processes: the
    losses are `finite`, and the scale is not at its end. Every process has to ask.
    """
    if accelerator.scaler is None:
        return False
    everywhere = accelerator.reduce(torch.tensor(float(finite), device=accelerator.device), reduction="mean")
    return float(everywhere) == 1.0 and accelerator.scaler.get_scale() >= 1.0
