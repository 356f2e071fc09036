"""Adversarial training: the discriminators, their losses, and their loss terms for the codec.

For recorded audio x, decoded audio x̂, scores s and feature maps f, with means over all elements:

    hinge          discriminator  mean max(0, 1 - s(x)) + mean max(0, 1 + s(x̂))     codec  -mean s(x̂)
    least squares  discriminator  mean (1 - s(x))² + mean s(x̂)²                     codec  mean (1 - s(x̂))²
    features       codec  mean over layers of  mean |f(x̂) - f(x)| / mean |f(x)|     (arXiv:2210.13438 eq. 2)

Each loss is a mean over the parts of all discriminators. Feature matching divides separately for each batch
item. It therefore depends neither on the other items nor on how a batch is distributed over processes.
A step passes recorded and decoded audio through each discriminator once. Both sides use these outputs: the
codec's terms come from the discriminators before their update in the same step.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.construction import construction_limits
from codecvq.networks.build import build_discriminator
from codecvq.networks.interface import Discriminator, DiscriminatorOutput
from codecvq.plugins import PROJECT
from codecvq.training.builders import LIMITS
from codecvq.training.gradients import GradientStats, clip_gradients
from codecvq.training.recipe import DiscriminatorSection, Recipe
from codecvq.training.schedule import learning_rate

logger = logging.getLogger(PROJECT)


@dataclass(frozen=True)
class DiscriminatorResult:
    """Outputs of one discriminator for recorded audio and for the same audio decoded."""

    recorded: list[DiscriminatorOutput]
    decoded: list[DiscriminatorOutput]

    def pairs(self) -> list[tuple[DiscriminatorOutput, DiscriminatorOutput]]:
        """Recorded and decoded outputs, one pair for each part of the discriminator."""
        return list(zip(self.recorded, self.decoded, strict=True))


class Adversary:
    """The discriminators of a recipe and their optimizer, in one process."""

    def __init__(self, recipe: Recipe, section: DiscriminatorSection, accelerator: Accelerator) -> None:
        self.recipe, self.section, self.accelerator = recipe, section, accelerator
        if section.start_step >= recipe.training.steps:
            logger.warning(
                "discriminator.start_step is %d, but training.steps is %d: the discriminators are never "
                "used. Lower discriminator.start_step.",
                section.start_step,
                recipe.training.steps,
            )
        with torch.random.fork_rng():  # the codec's random numbers are the same with and without an adversary
            torch.manual_seed(recipe.training.seed)
            self.networks = nn.ModuleList(
                _build_discriminator(recipe, options) for options in section.networks
            )
        self.networks.to(accelerator.device)
        self.parameters = dict(self.networks.named_parameters())
        optimizer = torch.optim.AdamW(
            self.networks.parameters(),
            lr=section.optimizer.learning_rate,
            betas=section.optimizer.betas,
            weight_decay=section.optimizer.weight_decay,
            fused=True,
        )
        # DDP wraps each network separately: with in_turn, only one of them has gradients in a step
        self.wrapped: list[nn.Module] = [accelerator.prepare(network) for network in self.networks]
        self.optimizer = accelerator.prepare(optimizer)

    def is_active(self, step: int) -> bool:
        """Whether the discriminators are used and updated in this step."""
        return (
            step >= self.section.start_step
            and (step - self.section.start_step) % self.section.every_step == 0
        )

    def begin_step(self, step: int, steps: int) -> None:
        """Clear the gradients and set the learning rate of step `step` of `steps`."""
        first = self.section.start_step
        rate = learning_rate(self.section.optimizer, max(0, step - first), steps - first)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)

    def select_items(self, audio: Tensor) -> Tensor:
        """Return the items `[b, C, S]` of a batch `[B, C, S]` that the discriminators process."""
        return audio[:: self.section.every_item]

    def discriminate(self, step: int, decoded: Tensor, recorded: Tensor) -> list[DiscriminatorResult]:
        """Outputs of this step's discriminators for audio `[b, C, S]`.

        Gradients flow to the discriminators and to the decoded audio.
        """
        with self.accelerator.autocast():
            # recorded audio first: DDP may write buffers at the start of a forward pass, and the backward
            # pass through the decoded audio needs these buffers unchanged
            return [
                DiscriminatorResult(network(recorded), network(decoded))
                for network in self._active_networks(step)
            ]

    def backward(self, outputs: Sequence[DiscriminatorResult], share: float) -> dict[str, Tensor]:
        """Accumulate the discriminators' gradients, times `share`, and return their scalars."""
        pairs = [pair for output in outputs for pair in output.pairs()]
        form = self.section.loss
        losses = [discriminator_loss(form, real.scores, fake.scores) for real, fake in pairs]
        loss = torch.stack(losses).mean()
        self.accelerator.backward(share * loss, inputs=list(self.parameters.values()), retain_graph=True)
        wins = [win_rate(form, real.scores, fake.scores) for real, fake in pairs]
        return {"loss": loss.detach(), "win_rate": torch.stack(wins).mean()}

    def clip_gradients(self) -> GradientStats:
        """Clip the gradients of all passes of a step, ready for the optimizer."""
        limit = self.section.optimizer.max_grad_norm
        return clip_gradients(self.accelerator, self.optimizer, self.parameters, limit)

    def codec_losses(
        self, outputs: Sequence[DiscriminatorResult], names: Collection[str]
    ) -> dict[str, Tensor]:
        """Codec losses `adversarial` and `feature_matching`, if in `names`: 0-d, unweighted."""
        pairs = [pair for output in outputs for pair in output.pairs()]
        parts = {"adversarial": [codec_loss(self.section.loss, fake.scores) for _, fake in pairs]}
        if "feature_matching" in names:
            parts["feature_matching"] = [feature_distance(real, fake) for real, fake in pairs]
        return {name: torch.stack(losses).mean() for name, losses in parts.items() if name in names}

    def state(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"networks": self.networks.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state`."""
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _active_networks(self, step: int) -> Sequence[nn.Module]:
        if not self.section.in_turn:
            return self.wrapped
        turn = (step - self.section.start_step) // self.section.every_step
        return [self.wrapped[turn % len(self.wrapped)]]


def discriminator_loss(form: str, recorded: Tensor, decoded: Tensor) -> Tensor:
    """Discriminator loss of the scores of recorded and decoded audio, 0-d."""
    recorded, decoded = recorded.float(), decoded.float()
    if form == "hinge":
        return F.relu(1 - recorded).mean() + F.relu(1 + decoded).mean()
    return (1 - recorded).square().mean() + decoded.square().mean()


def codec_loss(form: str, decoded: Tensor) -> Tensor:
    """Codec loss of the scores of decoded audio, 0-d."""
    return -decoded.float().mean() if form == "hinge" else (1 - decoded.float()).square().mean()


def feature_distance(recorded: DiscriminatorOutput, decoded: DiscriminatorOutput) -> Tensor:
    """Distance of the feature maps, mean over layers and items, 0-d; no gradient to `recorded`."""
    distances = []
    for real, fake in zip(recorded.features, decoded.features, strict=True):
        real, fake = real.detach().float().flatten(1), fake.float().flatten(1)
        scale = real.abs().mean(dim=1).clamp(min=1e-6)
        distances.append(((fake - real).abs().mean(dim=1) / scale).mean())
    return torch.stack(distances).mean()


@torch.no_grad()
def win_rate(form: str, recorded: Tensor, decoded: Tensor) -> Tensor:
    """Fraction of scores on the correct side of the threshold, 0-d: 0.5 is chance, 1 is perfect."""
    middle = 0.0 if form == "hinge" else 0.5
    return ((recorded > middle).float().mean() + (decoded <= middle).float().mean()) / 2


def _build_discriminator(recipe: Recipe, options: Mapping[str, Any]) -> Discriminator:
    options = dict(options)
    with construction_limits(LIMITS, "a discriminator of the recipe"):
        discriminator = build_discriminator(
            options.pop("name"), sample_rate=recipe.sample_rate, channels=recipe.channels, **options
        )
    # raise now instead of at the first step that uses the discriminator
    discriminator.check_length(round(recipe.corpus.segment_s * recipe.sample_rate))
    return discriminator
