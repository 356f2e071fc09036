"""The adversarial part of a training: discriminators, how they learn, and what they tell the codec.

With judgements of recorded audio x and decoded audio x̂, scores s and inner layers f, means over everything:

    hinge          discriminator  mean max(0, 1 - s(x)) + mean max(0, 1 + s(x̂))     codec  -mean s(x̂)
    least squares  discriminator  mean (1 - s(x))² + mean s(x̂)²                     codec  mean (1 - s(x̂))²
    features       codec  mean over layers of  mean |f(x̂) - f(x)| / mean |f(x)|     (arXiv:2210.13438 eq. 2)

Each is a mean over the parts of all discriminators. The ratio of the last is taken for each item by itself:
so it does not depend on what else is in the batch, nor on how a batch is spread over processes. Recorded and
decoded audio pass through a discriminator once in a step, and both sides learn from these judgements: the
codec from discriminators as they are before they learn from the same step.
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
class DiscriminatorOutputs:
    """What one discriminator makes of recorded audio, and of the same audio decoded."""

    recorded: list[DiscriminatorOutput]
    decoded: list[DiscriminatorOutput]

    def pairs(self) -> list[tuple[DiscriminatorOutput, DiscriminatorOutput]]:
        """Recorded and decoded, a part of the discriminator each."""
        return list(zip(self.recorded, self.decoded, strict=True))


class Adversary:
    """The discriminators of a recipe with their optimizer, in one process."""

    def __init__(self, recipe: Recipe, section: DiscriminatorSection, accelerator: Accelerator) -> None:
        self.recipe, self.section, self.accelerator = recipe, section, accelerator
        if section.start_step >= recipe.training.steps:
            logger.warning(
                "the discriminators start at step %d, and training.steps is %d: nobody will hear them. Set "
                "discriminator.start_step below it.",
                section.start_step,
                recipe.training.steps,
            )
        with torch.random.fork_rng():  # the codec's random numbers do not hang on whether it has an adversary
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
        # each is wrapped by itself: with in_turn the others have no gradient to wait for
        self.wrapped: list[nn.Module] = [accelerator.prepare(network) for network in self.networks]
        self.optimizer = accelerator.prepare(optimizer)

    def is_active(self, step: int) -> bool:
        """Whether the codec hears the discriminators in this step, and they learn from it."""
        return (
            step >= self.section.start_step
            and (step - self.section.start_step) % self.section.every_step == 0
        )

    def begin_step(self, step: int, steps: int) -> None:
        """Forget the gradients of the step before, and take the learning rate of this one of `steps`."""
        first = self.section.start_step
        rate = learning_rate(self.section.optimizer, max(0, step - first), steps - first)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)

    def select_items(self, audio: Tensor) -> Tensor:
        """The items `[b, C, S]` of a batch `[B, C, S]` that the discriminators are shown."""
        return audio[:: self.section.every_item]

    def discriminate(self, step: int, decoded: Tensor, recorded: Tensor) -> list[DiscriminatorOutputs]:
        """Verdicts on audio `[b, C, S]` of the discriminators whose turn it is, with a gradient to them and
        to the decoded audio.
        """
        with self.accelerator.autocast():
            # recorded first: DDP may write buffers when a forward begins, and the decoded pass needs them
            return [
                DiscriminatorOutputs(network(recorded), network(decoded))
                for network in self._active_networks(step)
            ]

    def backward(self, outputs: Sequence[DiscriminatorOutputs], share: float) -> dict[str, Tensor]:
        """Scalars of the discriminators. Accumulates their gradients, times `share`, and no others."""
        pairs = [pair for verdict in outputs for pair in verdict.pairs()]
        form = self.section.loss
        losses = [discriminator_loss(form, real.scores, fake.scores) for real, fake in pairs]
        loss = torch.stack(losses).mean()
        self.accelerator.backward(share * loss, inputs=list(self.parameters.values()), retain_graph=True)
        wins = [win_rate(form, real.scores, fake.scores) for real, fake in pairs]
        return {"loss": loss.detach(), "win_rate": torch.stack(wins).mean()}

    def clip_gradients(self) -> GradientStats:
        """The gradients of all passes of a step, which the optimizer may use now."""
        limit = self.section.optimizer.max_grad_norm
        return clip_gradients(self.accelerator, self.optimizer, self.parameters, limit)

    def codec_losses(
        self, outputs: Sequence[DiscriminatorOutputs], names: Collection[str]
    ) -> dict[str, Tensor]:
        """Those of `adversarial` and `feature_matching` that are wanted, for the codec, 0-d, unweighted."""
        pairs = [pair for verdict in outputs for pair in verdict.pairs()]
        parts = {"adversarial": [codec_loss(self.section.loss, fake.scores) for _, fake in pairs]}
        if "feature_matching" in names:
            parts["feature_matching"] = [feature_distance(real, fake) for real, fake in pairs]
        return {name: torch.stack(losses).mean() for name, losses in parts.items() if name in names}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"networks": self.networks.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """What `state` gave."""
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _active_networks(self, step: int) -> Sequence[nn.Module]:
        if not self.section.in_turn:
            return self.wrapped
        turn = (step - self.section.start_step) // self.section.every_step
        return [self.wrapped[turn % len(self.wrapped)]]


def discriminator_loss(form: str, recorded: Tensor, decoded: Tensor) -> Tensor:
    """0-d loss of scores of recorded and of decoded audio."""
    recorded, decoded = recorded.float(), decoded.float()
    if form == "hinge":
        return F.relu(1 - recorded).mean() + F.relu(1 + decoded).mean()
    return (1 - recorded).square().mean() + decoded.square().mean()


def codec_loss(form: str, decoded: Tensor) -> Tensor:
    """0-d loss of the codec from scores of what it decoded."""
    return -decoded.float().mean() if form == "hinge" else (1 - decoded.float()).square().mean()


def feature_distance(recorded: DiscriminatorOutput, decoded: DiscriminatorOutput) -> Tensor:
    """0-d distance of the inner layers, mean over layers and items; without a gradient to `recorded`."""
    distances = []
    for real, fake in zip(recorded.features, decoded.features, strict=True):
        real, fake = real.detach().float().flatten(1), fake.float().flatten(1)
        scale = real.abs().mean(dim=1).clamp(min=1e-6)
        distances.append(((fake - real).abs().mean(dim=1) / scale).mean())
    return torch.stack(distances).mean()


@torch.no_grad()
def win_rate(form: str, recorded: Tensor, decoded: Tensor) -> Tensor:
    """Share of scores on the right side of the middle, 0-d: .5 is a guess, 1 a discriminator that wins."""
    middle = 0.0 if form == "hinge" else 0.5
    return ((recorded > middle).float().mean() + (decoded <= middle).float().mean()) / 2


def _build_discriminator(recipe: Recipe, options: Mapping[str, Any]) -> Discriminator:
    options = dict(options)
    with construction_limits(LIMITS, "a discriminator of the recipe"):
        discriminator = build_discriminator(
            options.pop("name"), sample_rate=recipe.sample_rate, channels=recipe.channels, **options
        )
    # now, and not at the first step that it hears
    discriminator.check_length(round(recipe.corpus.segment_s * recipe.sample_rate))
    return discriminator
