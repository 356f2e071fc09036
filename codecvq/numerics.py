"""Float32 computation that does not depend on torch's global settings.

A codec must return the same codes and samples wherever it is called: inside autocast or inference mode, with
another default dtype or device, or with TF32 or bfloat16 matrix products allowed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_lock = threading.Lock()
#: the caller's global settings (owner, attribute, value), while a thread is inside `plain_float32`
_saved_settings: list[tuple[object, str, object]] = []
_active_blocks = 0  # in all threads, including nested ones


@contextmanager
def plain_float32(device: torch.device | str = "cpu") -> Iterator[None]:
    """Context manager: torch computes in float32 on `device`, without autocast, TF32 or bfloat16 products.

    New tensors are float32 tensors on the CPU. Settings that torch shares between threads are restored when
    the last thread leaves its block.
    """
    if torch.compiler.is_compiling():  # a compiled graph uses the settings of its compilation
        yield
        return
    kind = torch.device(device).type
    with ExitStack() as stack:
        if torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        _enter()
        stack.callback(_leave)
        yield


@contextmanager
def trainable_float32() -> Iterator[None]:
    """Context manager: `plain_float32` for building modules that can be trained.

    Tensors that are created in it can be trained, even if the caller is in inference mode.
    """
    with torch.inference_mode(False), plain_float32():
        yield


def _enter() -> None:
    global _active_blocks
    with _lock:
        _active_blocks += 1
        if _active_blocks > 1:
            return
        for owner, name, exact in _precision_settings():
            value = getattr(owner, name)
            if value != exact:
                _saved_settings.append((owner, name, value))
                setattr(owner, name, exact)
        if torch.get_default_dtype() != torch.float32:
            _saved_settings.append((None, "default_dtype", torch.get_default_dtype()))
            torch.set_default_dtype(torch.float32)


def _leave() -> None:
    global _active_blocks
    with _lock:
        _active_blocks -= 1
        if _active_blocks:
            return
        while _saved_settings:
            owner, name, value = _saved_settings.pop()
            if isinstance(value, torch.dtype):
                torch.set_default_dtype(value)
            else:
                setattr(owner, name, value)


def _precision_settings() -> list[tuple[object, str, object]]:
    """Return torch's precision settings of products and convolutions: owner, attribute, float32 value."""
    backends: Any = torch.backends  # torch's stubs lack some of these attributes
    if hasattr(backends.mkldnn, "matmul"):
        owners = [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
        owners += [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
        return [(owner, "fp32_precision", "ieee") for owner in owners]
    return [(backends.cuda.matmul, "allow_tf32", False), (backends.cudnn, "allow_tf32", False)]
