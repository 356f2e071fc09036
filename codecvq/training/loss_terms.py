"""The registered losses of a recipe and their trainable parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from codecvq.codec import Codec
from codecvq.construction import construction_limits
from codecvq.errors import OptionError
from codecvq.losses import LossInputs, Teacher, build_loss
from codecvq.training.builders import LIMITS
from codecvq.training.recipe import Recipe


class LossTerms:
    """The registered losses with a weight in a recipe, by name. Adversarial losses are in `adversary`.

    Trainable modules of losses are initialized with the recipe's seed and have equal weights in all
    processes. Building them does not change the codec's random numbers.
    """

    def __init__(self, recipe: Recipe, codec: Codec, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        with torch.random.fork_rng():
            torch.manual_seed(recipe.training.seed)
            self.modules = {
                name: _build_loss(name, options, recipe, codec)
                for name, options in recipe.losses.options().items()
            }
        codec_weights = {id(weight) for weight in codec.parameters()}
        for name, loss in self.modules.items():
            loss.to(accelerator.device)
            if any(id(weight) in codec_weights for weight in loss.parameters()):
                raise OptionError(
                    f"loss {name!r} contains parameters of the codec. In setup(codec), read sizes from the "
                    "codec and store none of its modules."
                )
        for name, loss in self.modules.items():
            if getattr(loss, "uses_parts", False):
                _check_parts(name, codec)
        self.of_audio = {name for name, loss in self.modules.items() if getattr(loss, "of_audio", False)}
        self.use_parts = any(getattr(loss, "uses_parts", False) for loss in self.modules.values())
        #: trainable parameters by name
        self.parameters = {
            f"losses.{name}.{each}": weight
            for name, loss in self.modules.items()
            for each, weight in loss.named_parameters()
            if weight.requires_grad
        }
        self._broadcast_weights()

    def __call__(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Compute each loss of a batch: 0-d, unweighted, by name."""
        losses = {name: loss(inputs) for name, loss in self.modules.items()}
        for name, value in losses.items():
            if not isinstance(value, Tensor) or value.ndim:
                kind = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise OptionError(
                    f"loss {name!r} returned {kind}; a 0-d tensor is needed. Return a mean over items."
                )
        return losses

    def train(self) -> None:
        """Set training mode; teachers stay in eval mode."""
        for loss in self.modules.values():
            loss.train()

    def trainable_parameters(self, names: set[str]) -> list[nn.Parameter]:
        """Trainable parameters of the losses with these names."""
        return [
            weight
            for name in sorted(names)
            for weight in self.modules[name].parameters()
            if weight.requires_grad
        ]

    def average_gradients(self) -> None:
        """Average the gradients of the trainable parameters over all processes. Every rank must call this.

        A missing gradient counts as 0.
        """
        if self.accelerator.num_processes == 1 or not self.parameters:
            return
        weights = list(self.parameters.values())
        parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        means = self.accelerator.reduce(torch.cat([part.flatten() for part in parts]), reduction="mean")
        for weight, mean in zip(weights, means.split([w.numel() for w in weights]), strict=True):
            weight.grad = mean.view_as(weight)

    def state(self) -> dict[str, Tensor]:
        """State for a checkpoint: parameters and buffers, excluding teachers."""
        return {
            f"{name}.{key}": value
            for name, loss in self.modules.items()
            for key, value in loss.state_dict().items()
            if not key.startswith(_teacher_prefixes(loss))
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a state returned by `state`."""
        for name, loss in self.modules.items():
            loss_state = {
                key: state[f"{name}.{key}"] for key in loss.state_dict() if f"{name}.{key}" in state
            }
            missing = loss.load_state_dict(loss_state, strict=False).missing_keys
            not_loaded = [key for key in missing if not key.startswith(_teacher_prefixes(loss))]
            assert not not_loaded, f"the checkpoint lacks {not_loaded} of loss {name!r}"

    def _broadcast_weights(self) -> None:
        """Copy the parameters of the first process to all processes."""
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast

            for weight in self.parameters.values():
                weight.data.copy_(broadcast(weight.data))


def _build_loss(name: str, options: Mapping[str, Any], recipe: Recipe, codec: Codec) -> nn.Module:
    with construction_limits(LIMITS, f"loss {name!r} of the recipe"):
        loss = build_loss(name, sample_rate=recipe.sample_rate, **options)
        setup = getattr(loss, "setup", None)
        if setup is not None:
            setup(codec)
    return loss


def _check_parts(name: str, codec: Codec) -> None:
    """Raise OptionError if the quantizer has no latents of single codebooks, which this loss needs."""
    quantizer, training = codec.quantizer, codec.quantizer.training
    with torch.no_grad():
        parts = quantizer.eval()(torch.zeros(1, quantizer.dim, 8, device=codec.device), parts=True).parts
    quantizer.train(training)
    if parts is None:
        raise OptionError(
            f"loss {name!r} needs the contribution of each codebook to the latents, and the codebooks of "
            f"{codec.quantizer_config['name']!r} are not additive. Use a residual quantizer such as "
            "residual_vq. For distillation of all codebooks together, set codebook: null."
        )


def _teacher_prefixes(loss: nn.Module) -> tuple[str, ...]:
    """State-dict prefixes of the teachers in a loss; "" if the loss itself is a teacher."""
    return tuple(
        f"{path}." if path else "" for path, module in loss.named_modules() if isinstance(module, Teacher)
    )
