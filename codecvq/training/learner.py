"""What learns: the codec with its optimizer, discriminators, average and balancer, one step after another."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from codecvq.codec import Reconstruction
from codecvq.errors import RunError
from codecvq.plugins import PROJECT
from codecvq.training.adversary import Adversary
from codecvq.training.average import WeightAverage
from codecvq.training.balancer import Balancer
from codecvq.training.gradients import clipped_norm, overflowed, take_step
from codecvq.training.losses import build_losses
from codecvq.training.parts import build_codec
from codecvq.training.progress import Means
from codecvq.training.recipe import Recipe
from codecvq.training.schedule import learning_rate
from codecvq.training.start import begin_from
from codecvq.training.usage import CodebookUse, chosen

logger = logging.getLogger(PROJECT)


def seed_of(seed: int, step: int, rank: int) -> int:
    """Of the random numbers that a process draws in a step, as quantizer dropout does: different for all, and
    the same whenever the step is made.
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:8], "big") >> 1


class Learner:
    """What learns in one process of a training. After each step all have the same weights."""

    def __init__(self, recipe: Recipe, name: str, accelerator: Accelerator) -> None:
        self.recipe, self.accelerator = recipe, accelerator
        self.config = recipe.training
        self.codec = build_codec(recipe, name=name)
        self.usage = CodebookUse(self.codec.codebook_sizes)
        self.weights = recipe.losses.weights()
        self.losses = build_losses(recipe.losses, recipe.sample_rate).to(accelerator.device)
        optimizer = torch.optim.AdamW(
            self.codec.parameters(),
            lr=recipe.optimizer.learning_rate,
            betas=recipe.optimizer.betas,
            weight_decay=recipe.optimizer.weight_decay,
            fused=True,  # a quarter of the time of a step of the plain one on a CPU
        )
        self.model, self.optimizer = accelerator.prepare(self.codec, optimizer)
        if self.config.compile:
            self.model = torch.compile(self.model)
        section = recipe.discriminator
        self.adversary = Adversary(recipe, section, accelerator) if section else None
        self.average = WeightAverage(self.codec, self.config.average) if self.config.average else None
        self.balancer = self._balancer() if recipe.losses.balance else None
        self.skipped = 0
        self.bad_in_a_row = 0

    def _balancer(self) -> Balancer:
        return Balancer(
            self.weights,
            self.recipe.losses.balance_norm,
            mean=lambda norms: self.accelerator.reduce(norms, reduction="mean"),
        )

    def step(self, step: int, wav: Tensor) -> dict[str, float]:
        """One step on audio `[B, C, S]`: the scalars that it gave. Codec and discriminators stay as they are
        where their own gradients have NaN or infinity; codebooks that learn otherwise, where their input has.
        """
        rate = learning_rate(self.recipe.optimizer, step, self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        torch.manual_seed(seed_of(self.config.seed, step, self.accelerator.process_index))
        adversary = self.adversary if self.adversary and self.adversary.active(step) else None
        means, codes, seen = Means(), [], list[Mapping[str, Tensor]]()
        self.optimizer.zero_grad(set_to_none=True)
        if adversary:
            adversary.begin(step)
        for n, part in enumerate(wav.chunk(self.config.accumulate)):
            last = n == self.config.accumulate - 1
            with nullcontext() if last else self._unsynced(adversary):
                terms, out = self._pass(step, part, adversary, means)
            seen.append({name: term.detach() for name, term in terms.items()})
            codes.append(chosen(out.quantized))
        found = means.take()
        norm = clipped_norm(self.accelerator, self.optimizer, self.recipe.optimizer.max_grad_norm)
        norms = [(self.optimizer, norm)]
        if adversary:
            norms.append((adversary.optimizer, adversary.clip()))
        take_step(self.accelerator, norms)
        if adversary and math.isfinite(norms[-1][1]):
            found["discriminator/gradient_norm"] = norms[-1][1]
        elif adversary and not overflowed(self.accelerator, finite=True):
            logger.warning("step %d: the discriminators skip it, as their gradients are not finite", step)
        if not math.isfinite(norm):  # the same on all ranks: gradients have been reduced
            self._skip(step, seen)
            return {}
        self.bad_in_a_row = 0
        self.usage.add(self.accelerator.gather(torch.cat(codes)))
        if self.average:
            self.average.update()
        found |= {
            f"quantizer/{name}": float(value)
            for name, value in out.quantized.metrics.items()
            if _is_own(name)
        }
        if self.accelerator.scaler is not None:
            found["gradient/scale"] = self.accelerator.scaler.get_scale()
        return found | {"gradient/norm": norm, "optimizer/learning_rate": rate}

    def _pass(
        self, step: int, wav: Tensor, adversary: Adversary | None, means: Means
    ) -> tuple[dict[str, Tensor], Reconstruction]:
        """Forward and backward of audio `[b, C, S]`, a part of a step: weighted terms, and what came out."""
        out: Reconstruction = self.model(wav)
        losses = {name: loss(out.wav, wav) for name, loss in self.losses.items()}
        if adversary:
            decoded, recorded = adversary.judged(out.wav), adversary.judged(wav)
            losses |= adversary.terms(step, decoded, recorded, self.weights)
        share = 1 / self.config.accumulate
        terms = {name: self.weights[name] * loss for name, loss in losses.items()} | out.losses
        total = torch.stack([term.float() for term in terms.values()]).sum()
        if self.balancer:
            scaler = self.accelerator.scaler
            scale = 1.0 if scaler is None else scaler.get_scale()
            gradient = self.balancer.gradient(losses, out.wav, scale)
            own = [term.float() for term in out.losses.values()]
            self.accelerator.backward(share * torch.stack([(out.wav * gradient).sum(), *own]).sum())
        else:
            self.accelerator.backward(share * total)
        if adversary:
            learned = adversary.learn(step, decoded, recorded, share)
            means.add({f"discriminator/{name}": float(value) for name, value in learned.items()})
        means.add({f"loss/{name}": float(term.detach()) for name, term in terms.items()})
        means.add({"loss/total": float(total.detach())})
        return terms, out

    def _unsynced(self, adversary: Adversary | None) -> ExitStack:
        """While it lasts, backward passes add up without talking to other processes."""
        stack = ExitStack()
        for module in (self.model, *(adversary.wrapped if adversary else ())):
            stack.enter_context(self.accelerator.no_sync(module))
        return stack

    def _skip(self, step: int, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """Count a step that gave NaN or infinity, and say where it came from, of the terms of its parts; stop
        after many in a row. What fp16 takes to find its scale does not count.
        """
        bad = [terms for terms in parts if not all(bool(term.isfinite()) for term in terms.values())]
        if overflowed(self.accelerator, finite=not bad):
            return
        self.skipped += 1
        self.bad_in_a_row += 1
        where = _first_bad(bad[0] if bad else {}, self.codec)
        logger.warning("step %d skipped: %s (%d skipped so far)", step, where, self.skipped)
        if self.bad_in_a_row >= self.config.max_bad_steps:
            raise RunError(
                f"{self.bad_in_a_row} steps in a row gave NaN or infinity, the last in {where}. Lower "
                "optimizer.learning_rate, or set training.precision=fp32. The last checkpoint of the run is "
                "whole."
            )

    def averaged(self) -> AbstractContextManager[None]:
        """While it lasts, the codec has the weights that are evaluated and shipped."""
        return self.average.applied() if self.average else nullcontext()

    # what outlives the process

    def begin(self) -> None:
        """Take the weights of `training.init_from`, where it is set."""
        begin_from(self.recipe, self.codec, self.adversary)
        if self.average:
            self.average = WeightAverage(self.codec, self.config.average)

    def state(self) -> dict[str, Any]:
        """For a checkpoint, beside the codec's weights."""
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "usage": self.usage.counts,
            "skipped": self.skipped,
        }
        for name, part in self._parts().items():
            state[name] = part.state()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return state

    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """The codec's weights, and what `state` gave."""
        self.codec.load_state_dict(weights)
        self.optimizer.load_state_dict(state["optimizer"])
        self.usage.counts = dict(state["usage"])
        self.skipped = state["skipped"]
        for name, part in self._parts().items():
            part.load(state[name])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _parts(self) -> dict[str, Any]:
        """What is there besides the codec and its optimizer, with `state` and `load`."""
        parts = {"adversary": self.adversary, "average": self.average, "balancer": self.balancer}
        return {name: part for name, part in parts.items() if part is not None}


def _is_own(metric: str) -> bool:
    """Whether a metric is of the method: perplexity and usage of one batch are logged as `codebook/…` over
    many.
    """
    return not metric.startswith(("perplexity", "usage"))


def _first_bad(terms: Mapping[str, Tensor], model: nn.Module) -> str:
    """The first loss, or else the first parameter's gradient, that is NaN or infinite."""
    for name, term in terms.items():
        if not bool(term.isfinite()):
            return f"loss {name!r} is {float(term.detach())}"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            return f"the gradient of {name} is not finite"
    return "the gradient's norm is not finite"
