"""The gradient balancer (arXiv:2210.13438 §3.4): loss weights as shares of the gradient.

Let g_i = ∂L_i/∂x̂ at the decoded audio x̂, |g_i| its norm averaged over steps and items, and w_i the weights.
The gradient passed to the decoder is

    Σ_i  R · w_i / Σ_j w_j · g_i / |g_i|

A loss of weight 4 thus contributes four times the gradient of a loss of weight 1, independent of their
scales. Losses of quantizer and decoder do not depend on the decoded audio. They are added without balancing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

EPS = 1e-12  # smallest norm to divide by


class Balancer:
    """Balanced gradient of weighted losses with respect to one tensor.

    Args: `weights` by loss name; `total_norm` R of each item's gradient; `decay` per step of the moving
    average of the norms, which is bias-corrected; `mean` computes the mean of a tensor over all processes.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        total_norm: float = 1.0,
        decay: float = 0.999,
        mean: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> None:
        self.weights, self.total_norm, self.decay = dict(weights), total_norm, decay
        self._mean = mean
        self.averages: dict[str, Tensor] = {}  # decaying sums of norms and of ones: [2], float64

    def gradient(self, losses: Mapping[str, Tensor], output: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Balanced gradient at `output` `[B, …]` of unweighted `losses`.

        An item's share does not depend on the batch size. Backward passes through the losses are scaled by
        `scale`, for fp16; the returned gradient is not.
        """
        named = list(losses)
        precise = torch.promote_types(output.dtype, torch.float32)  # float16 cannot represent the scale
        gradients = [_gradient(scale * losses[name], output).to(precise) / scale for name in named]
        norms = self._mean(torch.stack([_norm_of_items(gradient) for gradient in gradients]))
        total = sum(self.weights[name] for name in named)
        balanced = torch.zeros_like(output, dtype=precise)
        for name, gradient, norm in zip(named, gradients, norms.unbind(), strict=True):
            average = self._update_average(name, norm)
            share = self.total_norm * self.weights[name] / total / average
            balanced += torch.where(average > EPS, share, 0.0).to(precise) * gradient
        return balanced

    def state(self) -> dict[str, Tensor]:
        """State for a checkpoint."""
        return dict(self.averages)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a state returned by `state`."""
        self.averages = {name: torch.as_tensor(sums, dtype=torch.float64) for name, sums in state.items()}

    def _update_average(self, name: str, norm: Tensor) -> Tensor:
        """Update the average norm of a loss with this step's norm and return it: 0-d float64."""
        previous = self.averages.get(name, torch.zeros(2, dtype=torch.float64)).to(norm.device)
        updated = self.decay * previous + torch.stack(
            [norm.double(), torch.ones_like(norm, dtype=torch.float64)]
        )
        is_finite = norm.isfinite()  # exclude steps that will be skipped
        self.averages[name] = torch.where(is_finite, updated, previous)
        return torch.where(is_finite, updated[0] / updated[1], 1.0)


def _gradient(loss: Tensor, output: Tensor) -> Tensor:
    """∂loss/∂output; zeros for a constant loss, such as one that starts at a later step."""
    if not loss.requires_grad:
        return torch.zeros_like(output)
    (gradient,) = torch.autograd.grad(
        loss, [output], retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return gradient


def _norm_of_items(gradient: Tensor) -> Tensor:
    """Mean norm of the gradients of each item's loss: `[B, …]` -> 0-d.

    The loss is a mean over B items, so the gradient of one item's loss is B times its part of `gradient`.
    """
    return gradient.flatten(1).norm(dim=1).mean() * len(gradient)
