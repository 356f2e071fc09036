"""`QuantizerBase`, the state shared by all quantizers of a composition: generator, progress, freezing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from codecvq.quantizer.results import Progress


class QuantizerBase(nn.Module):
    """Base class of `Quantizer`. Setting a property sets it on all quantizers inside, too."""

    #: See `Quantizer.uses_progress`.
    uses_progress: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._frozen = False
        self._progress = Progress()
        self._generator: torch.Generator | None = None

    def members(self) -> list[QuantizerBase]:
        """Return this quantizer and every quantizer inside it."""
        return [member for member in self.modules() if isinstance(member, QuantizerBase)]

    @property
    def has_update(self) -> bool:
        """Whether this quantizer itself changes state in `update`."""
        return False

    @property
    def generator(self) -> torch.Generator | None:
        """Random generator of dropout and codebook initialization in all stages and groups.

        None: the default generator of torch.
        """
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
        """Freeze all weights and codebooks, in training mode too.

        No parameter requires a gradient, and the engine does not call `update`. Quantizer dropout and the
        gradient to the latents stay.
        """
        self.requires_grad_(False)
        for member in self.members():
            member._frozen = True

    @property
    def progress(self) -> Progress:
        """Training progress of the last call of `set_progress`."""
        return self._progress

    def set_progress(self, step: int, steps: int | None = None) -> None:
        """Set `progress` in all stages and groups. A training loop calls it once per optimizer step."""
        for member in self.members():
            member._progress = Progress(step, steps)

    @property
    def has_state(self) -> bool:
        """Whether this quantizer or one inside it changes state in `update`."""
        return any(member.has_update for member in self.members())

    def state_tensors(self) -> list[Tensor]:
        """Return all buffers and parameters of quantizers that have an `update`.

        `update` and the initialization of codebooks may change these tensors.
        """
        learners = (member for member in self.members() if member.has_update)
        return list(
            dict.fromkeys(tensor for each in learners for tensor in (*each.buffers(), *each.parameters()))
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizerBase:
        """Move tensors to another device, but keep their dtype.

        torch calls it for `.to()`, `.half()` and `.bfloat16()`. Weights stay in float32, since rounded
        codewords and projections would give other codes.
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
