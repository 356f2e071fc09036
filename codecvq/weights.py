"""Weights files (safetensors): writing them, also with tied weights, and loading them with checks."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codecvq.construction import Limits
from codecvq.errors import CodecError

SLACK_BYTES = 256 << 20  # for buffers that a module computes and does not save
SLACK_TENSORS = 200


def weights_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the content of a safetensors file.

    Tensors that share memory, such as tied weights, are copied, because safetensors rejects them.
    """
    from safetensors.torch import save

    storages: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        separate[name] = (tensor.clone() if storage in storages else tensor).contiguous()
        storages.add(storage)
    return save(separate, metadata=dict(metadata or {}))


@dataclass(frozen=True)
class WeightsFile:
    """An open weights file. Names and shapes are known; tensors are read by `load_into`."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    _get: Callable[[str], Tensor]

    @property
    def limits(self) -> Limits:
        """Construction limits of a module that these weights fit."""
        count = sum(math.prod(shape) for shape in self.shapes.values())
        max_bytes = 8 * count + SLACK_BYTES
        max_tensors = 2 * len(self.shapes) + SLACK_TENSORS
        return Limits(weights_bytes=max_bytes, tensors=max_tensors, tensor_bytes=max_bytes)

    def load_into(self, module: nn.Module) -> None:
        """Copy the weights into a module.

        Raises CodecError before it copies if names or shapes differ. Raises CodecError while it copies, for
        non-finite values and for integers instead of floats or the reverse.
        """
        state = module.state_dict()
        self._check_names(state)
        tensors = {*dict(module.named_parameters(remove_duplicate=False))}
        tensors |= {*dict(module.named_buffers(remove_duplicate=False))}
        computed = {}  # state-dict entries that are neither parameters nor buffers
        with torch.no_grad():
            for name, tensor in state.items():
                stored = self._get(name)
                if stored.is_floating_point() != tensor.is_floating_point():
                    raise self._mismatch(f"{name} is {stored.dtype}, but {tensor.dtype} is needed")
                if stored.is_floating_point() and not stored.isfinite().all():
                    raise CodecError(f"{self.path} has NaN or infinity in {name}. Use another checkpoint.")
                if name in tensors:
                    tensor.copy_(stored)
                else:
                    computed[name] = stored
        if computed:
            module.load_state_dict(computed, strict=False)

    def _check_names(self, state: Mapping[str, Tensor]) -> None:
        missing, unused = state.keys() - self.shapes.keys(), self.shapes.keys() - state.keys()
        if missing or unused:
            what = f"{min(missing)} is missing" if missing else f"{min(unused)} is unexpected"
            others = len(missing) + len(unused) - 1
            raise self._mismatch(f"{what}, and {others} more" if others else what)
        for name, tensor in state.items():
            if tuple(tensor.shape) != self.shapes[name]:
                raise self._mismatch(
                    f"{name} is {list(self.shapes[name])}, but {list(tensor.shape)} is needed"
                )

    def _mismatch(self, why: str) -> CodecError:
        return CodecError(
            f"{self.path} does not fit the configuration in its folder: {why}. Copy the folder again."
        )


@contextmanager
def open_weights(path: Path) -> Iterator[WeightsFile]:
    """Open the weights file at `path`. Raises CodecError if it is missing, damaged, or not regular."""
    from safetensors import SafetensorError, safe_open

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise CodecError(f"{path} is not a regular file. Copy the folder again.")
        file: Any = safe_open(path, framework="pt")  # safetensors has no type annotations
    except (OSError, SafetensorError, ValueError) as error:
        raise CodecError(
            f"{path} cannot be read ({error}). The copy is incomplete: copy it again."
        ) from error
    with file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        yield WeightsFile(path, shapes, file.get_tensor)
