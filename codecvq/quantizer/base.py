"""`QuantizerBase`: what the quantizers of a tree, its stages and groups, have in common: the random
generator, progress, freezing, and how they are moved and saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from codecvq.quantizer.results import Progress


class QuantizerBase(nn.Module):
    """Base class of `Quantizer`. What is set on one is set on all quantizers inside it."""

    #: see `Quantizer`
    uses_progress: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._frozen = False
        self._progress = Progress()
        self._generator: torch.Generator | None = None

    def members(self) -> list[QuantizerBase]:
        """Itself and every quantizer inside."""
        return [member for member in self.modules() if isinstance(member, QuantizerBase)]

    @property
    def has_update(self) -> bool:
        """Whether it changes state by `update` itself."""
        return False

    @property
    def generator(self) -> torch.Generator | None:
        """What dropout and codebook starts draw from, in all stages and groups; None: torch's own."""
        return self._generator

    @generator.setter
    def generator(self, generator: torch.Generator | None) -> None:
        for member in self.members():
            member._generator = generator

    @property
    def is_frozen(self) -> bool:
        """Whether `freeze` was called."""
        return self._frozen

    def freeze(self) -> None:
        """Keep all weights and codebooks as they are, also in training mode: no parameter has a gradient and
        `update` is not called. Quantizer dropout and the gradient to the latents stay.
        """
        self.requires_grad_(False)
        for member in self.members():
            member._frozen = True

    @property
    def progress(self) -> Progress:
        """How far the training is: what `set_progress` was last called with."""
        return self._progress

    def set_progress(self, step: int, steps: int | None = None) -> None:
        """Set `progress` in all stages and groups; a training loop calls it once an optimizer step."""
        for member in self.members():
            member._progress = Progress(step, steps)

    @property
    def has_state(self) -> bool:
        """Whether anything in it changes by `update`."""
        return any(member.has_update for member in self.members())

    def state_tensors(self) -> list[Tensor]:
        """What `update` and the start of a codebook may change: buffers and parameters of the quantizers that
        have an `update`.
        """
        learners = (member for member in self.members() if member.has_update)
        return list(
            dict.fromkeys(tensor for each in learners for tensor in (*each.buffers(), *each.parameters()))
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizerBase:
        """What `.to()`, `.half()` and `.bfloat16()` call: all it has may move to another device, but stays in
        float32, since rounded codewords and projections would give other codes.
        """
        return super()._apply(lambda tensor: _in_its_type(fn(tensor), tensor), recurse)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.uses_progress:
            steps = -1 if self._progress.steps is None else self._progress.steps
            destination[f"{prefix}progress"] = torch.tensor([self._progress.step, steps])

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own, saved = f"{prefix}progress", None
        if self.uses_progress:
            saved = state_dict.get(own)
            if saved is None:
                missing_keys.append(own)
            else:
                step, steps = (int(number) for number in saved)
                self._progress = Progress(step, None if steps < 0 else steps)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if saved is not None and own in unexpected_keys:
            unexpected_keys.remove(own)


def _in_its_type(moved: Tensor, tensor: Tensor) -> Tensor:
    return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
