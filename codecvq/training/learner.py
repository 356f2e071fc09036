"""One training step: forward and backward passes, optimizers, weight average and balancer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from codecvq.codec import Reconstruction
from codecvq.data.clip import Clip
from codecvq.errors import OptionError
from codecvq.losses import LossInputs
from codecvq.training.adversary import Adversary
from codecvq.training.average import WeightAverage
from codecvq.training.balancer import Balancer
from codecvq.training.builders import build_codec
from codecvq.training.gradients import clip_gradients, loss_scale, step_optimizers
from codecvq.training.initial_weights import load_initial_weights
from codecvq.training.loss_terms import LossTerms
from codecvq.training.recipe import Recipe
from codecvq.training.schedule import learning_rate
from codecvq.training.step_budget import StepBudget
from codecvq.training.step_metrics import DISCRIMINATOR_NORM, SCALE, StepMetrics
from codecvq.training.usage import CodebookUsage, active_codes


def step_seed(seed: int, step: int, rank: int) -> int:
    """Random seed of a step in a process, used for instance by quantizer dropout.

    The seed differs between steps and ranks. It is the same when a resumed run repeats the step.
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:8], "big") >> 1


class Learner:
    """The codec and its training state in one process. All processes have equal weights after each step.

    A step does not synchronize with the GPU. `step_metrics` stores its losses and metrics on the device and
    reads them later.
    """

    def __init__(self, recipe: Recipe, name: str, accelerator: Accelerator) -> None:
        self.recipe, self.accelerator = recipe, accelerator
        self.config = recipe.training
        self.codec = build_codec(recipe, name=name)
        self._freeze()
        self.usage = CodebookUsage(self.codec.codebook_sizes, accelerator.device)
        self.step_metrics = StepMetrics(accelerator, self.config.max_bad_steps)
        self.step_budget = StepBudget(self.config.steps, self.config.minutes)
        self.weights = recipe.losses.weights()
        self.losses = LossTerms(recipe, self.codec, accelerator)
        trainable = {name: each for name, each in self.codec.named_parameters() if each.requires_grad}
        self.parameters = trainable | self.losses.parameters
        groups = [{"params": list(each.values())} for each in (trainable, self.losses.parameters) if each]
        optimizer = torch.optim.AdamW(
            groups,
            lr=recipe.optimizer.learning_rate,
            betas=recipe.optimizer.betas,
            weight_decay=recipe.optimizer.weight_decay,
            fused=True,  # a quarter of the time of the default implementation on a CPU
        )
        if self.config.compile:  # not the quantizer: its number of vectors changes from step to step
            self.codec.encoder.compile()
            self.codec.decoder.compile()
        self.model, self.optimizer = accelerator.prepare(self.codec, optimizer)
        section = recipe.discriminator
        self.adversary = Adversary(recipe, section, accelerator) if section else None
        self.average = WeightAverage(self.codec, self.config.average) if self.config.average else None
        self.balancer = self._balancer() if recipe.losses.balance else None

    def _balancer(self) -> Balancer:
        return Balancer(
            self.weights,
            self.recipe.losses.balance_norm,
            mean=lambda norms: self.accelerator.reduce(norms, reduction="mean"),
        )

    def _freeze(self) -> None:
        """Disable gradients of the parts in `training.freeze`, and codebook updates of a frozen quantizer."""
        for part in self.config.freeze:
            if part == "quantizer":
                self.codec.quantizer.freeze()
            else:
                self.codec.get_submodule(part).requires_grad_(False)

    def _set_train_mode(self) -> None:
        """Set training mode, and eval mode for frozen networks.

        A frozen quantizer stays in training mode, with its dropout. Trainable parts are set last, since parts
        may share a module.
        """
        self.model.train()
        for part in {"encoder", "decoder"} & set(self.config.freeze):
            self.codec.get_submodule(part).eval()
        for part in {"encoder", "decoder"} - set(self.config.freeze):
            self.codec.get_submodule(part).train()
        self.losses.train()

    def step(self, step: int, wav: Tensor, clips: Sequence[Clip] = ()) -> None:
        """Run one step on audio `[B, C, S]` of these clips.

        Codec and discriminators skip updates with non-finite gradients. EMA codebooks skip non-finite input.
        """
        rate = learning_rate(self.recipe.optimizer, step, self.step_budget.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._set_train_mode()
        self.codec.quantizer.set_progress(step, self.step_budget.steps)
        torch.manual_seed(step_seed(self.config.seed, step, self.accelerator.process_index))
        adversary = self.adversary if self.adversary and self.adversary.is_active(step) else None
        self.optimizer.zero_grad(set_to_none=True)
        if adversary:
            adversary.begin_step(step, self.step_budget.steps)
        scalars, codes = [], []
        first = 0
        for n, part in enumerate(wav.chunk(self.config.accumulate)):
            last = n == self.config.accumulate - 1
            with nullcontext() if last else self._no_sync(adversary):
                pass_scalars, out = self._forward_backward(
                    step, part, clips[first : first + len(part)], adversary
                )
            first += len(part)
            scalars.append(pass_scalars)
            codes.append(active_codes(out.quantized))
        self.losses.average_gradients()
        gradients = clip_gradients(
            self.accelerator, self.optimizer, self.parameters, self.recipe.optimizer.max_grad_norm
        )
        parts = [(self.optimizer, gradients)]
        means = {name: _mean_of([each[name] for each in scalars]) for name in scalars[0]}
        if adversary:
            parts.append((adversary.optimizer, adversary.clip_gradients()))
            means[DISCRIMINATOR_NORM] = parts[-1][1].norm
        scale = step_optimizers(self.accelerator, parts)
        if scale is not None:
            means[SCALE] = scale
        self.usage.add(self.accelerator.gather(torch.cat(codes)), gradients.finite)
        if self.average:
            self.average.update(gradients.finite)
        means |= {
            f"quantizer/{name}": value
            for name, value in out.quantized.metrics.items()
            if _is_method_metric(name)
        }
        self.step_metrics.add(step, means, gradients, {"optimizer/learning_rate": rate})

    def _forward_backward(
        self, step: int, wav: Tensor, clips: Sequence[Clip], adversary: Adversary | None
    ) -> tuple[dict[str, Tensor], Reconstruction]:
        """Run forward and backward pass of audio `[b, C, S]`, a part of a step."""
        out: Reconstruction = self.model(wav, parts=self.losses.use_parts)
        losses = self.losses(self._inputs(out, wav, clips))
        if duplicates := losses.keys() & out.losses.keys():
            raise OptionError(
                f"{min(duplicates)!r} is both a loss of the recipe and a loss of the quantizer or decoder; "
                "names of loss terms must differ. Use the qualified name PLUGIN/NAME in the recipe."
            )
        share = 1 / self.config.accumulate
        scalars: dict[str, Tensor] = {}
        if adversary:
            outputs = adversary.discriminate(
                step, adversary.select_items(out.wav), adversary.select_items(wav)
            )
            losses |= adversary.codec_losses(outputs, self.weights)
            means = adversary.backward(outputs, share)
            scalars = {f"discriminator/{name}": value for name, value in means.items()}
        terms = {name: self.weights[name] * loss for name, loss in losses.items()} | out.losses
        total = torch.stack([term.float() for term in terms.values()]).sum()
        objective = total
        if self.balancer:
            objective = self._balanced(losses, terms, out.wav, share)
        # gradients flow through the discriminators, but must not accumulate in their parameters
        inputs = {"inputs": list(self.parameters.values())} if adversary else {}
        self.accelerator.backward(share * objective, **inputs)
        scalars |= {f"loss/{name}": term for name, term in terms.items()} | {"loss/total": total}
        return {name: value.detach() for name, value in scalars.items()}, out

    def _balanced(
        self, losses: Mapping[str, Tensor], terms: Mapping[str, Tensor], wav: Tensor, share: float
    ) -> Tensor:
        """Objective of a pass with balanced gradients at the decoded audio: 0-d.

        Terms that do not depend on the decoded audio are added without balancing. Parameters of loss modules
        get the unbalanced gradient of their loss.
        """
        audio = self.losses.of_audio | (losses.keys() - self.losses.modules.keys())
        balanced = {name: loss for name, loss in losses.items() if name in audio}
        others = [term.float() for name, term in terms.items() if name not in audio]
        if not balanced:
            return torch.stack(others).sum()
        assert self.balancer is not None, "requires losses.balance"
        gradient = self.balancer.gradient(balanced, wav, loss_scale(self.accelerator))
        if parameters := self.losses.trainable_parameters(self.losses.of_audio):
            total = torch.stack([terms[name].float() for name in self.losses.of_audio]).sum()
            self.accelerator.backward(share * total, inputs=parameters, retain_graph=True)
        return torch.stack([(wav.float() * gradient).sum(), *others]).sum()

    def _inputs(self, out: Reconstruction, wav: Tensor, clips: Sequence[Clip]) -> LossInputs:
        """Inputs of the losses. Floating-point tensors are float32 at any precision of the networks."""
        parts = out.quantized.parts
        return LossInputs(
            decoded=out.wav.float(),
            reference=wav.float(),
            latents=out.latents.float(),
            quantized=out.quantized.latents.float(),
            parts=None if parts is None else tuple(part.float() for part in parts),
            codes=out.quantized.codes,
            active=out.quantized.active,
            clips=clips,
            sample_rate=self.codec.sample_rate,
            hop_length=self.codec.hop_length,
            progress=self.codec.quantizer.progress,
        )

    def _no_sync(self, adversary: Adversary | None) -> ExitStack:
        """Context in which backward passes accumulate without synchronizing the processes."""
        stack = ExitStack()
        for module in (self.model, *(adversary.wrapped if adversary else ())):
            stack.enter_context(self.accelerator.no_sync(module))
        return stack

    def averaged(self) -> AbstractContextManager[None]:
        """Context in which the codec has the averaged weights, used for evaluation and saved codecs."""
        return self.average.applied() if self.average else nullcontext()

    # checkpoints

    def load_initial_weights(self) -> None:
        """Load the weights of `training.init_from`, if set."""
        load_initial_weights(self.recipe, self.codec, self.adversary)
        if self.average:
            self.average = WeightAverage(self.codec, self.config.average)

    def state(self) -> dict[str, Any]:
        """State for a checkpoint, without the codec's weights."""
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "usage": self.usage.counts,
            "skipped": self.step_metrics.skipped,
            "horizon": self.step_budget.state(),
        }
        for name, part in self._state_parts().items():
            state[name] = part.state()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return state

    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Load the codec's weights and a state returned by `state`."""
        self.codec.load_state_dict(weights)
        self.optimizer.load_state_dict(state["optimizer"])
        self.usage.load(state["usage"])
        self.step_metrics.skipped = state["skipped"]
        if "horizon" in state:  # not in checkpoints of version 0.1.0
            self.step_budget.load(state["horizon"])
        for name, part in self._state_parts().items():
            part.load(state[name])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _state_parts(self) -> dict[str, Any]:
        """Parts with `state` and `load`, by their key in a checkpoint."""
        losses = self.losses if self.losses.state() else None
        parts = {
            "adversary": self.adversary,
            "average": self.average,
            "balancer": self.balancer,
            "losses": losses,
        }
        return {name: part for name, part in parts.items() if part is not None}


def _is_method_metric(metric: str) -> bool:
    """Whether a metric is specific to the quantizer's method.

    Perplexity and usage are not: `codebook/…` has them over many batches.
    """
    return not metric.startswith(("perplexity", "usage"))


def _mean_of(values: Sequence[Tensor]) -> Tensor:
    """Mean of 0-d tensors; a single tensor is returned unchanged."""
    return values[0] if len(values) == 1 else torch.stack([value.float() for value in values]).mean()
