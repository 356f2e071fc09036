"""Computing that does not depend on torch's global settings.

A codec gives the codes and samples that it was saved with, wherever it is called: inside autocast or
inference mode, with another default dtype or device, with TF32 or bfloat16 matrix products allowed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_lock = threading.Lock()
#: what stands in for the caller's global settings while at least one thread is inside `plain_float32`
_replaced: list[tuple[object, str, object]] = []
_inside = 0  # threads, and nested calls


@contextmanager
def plain_float32(device: torch.device | str = "cpu") -> Iterator[None]:
    """A block in which torch computes in float32 on `device`, without autocast, TF32 or bfloat16 products,
    and in which new tensors are float32 tensors on the CPU.

    Settings that torch has once for all threads are restored when the last thread leaves its block.
    """
    if torch.compiler.is_compiling():  # a graph keeps the settings it was compiled with
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
    """`plain_float32` for building modules: what is made in the block can be trained, also where the caller
    is in inference mode.
    """
    with torch.inference_mode(False), plain_float32():
        yield


def _enter() -> None:
    global _inside
    with _lock:
        _inside += 1
        if _inside > 1:
            return
        for owner, name, exact in _switches():
            now = getattr(owner, name)
            if now != exact:
                _replaced.append((owner, name, now))
                setattr(owner, name, exact)
        if torch.get_default_dtype() != torch.float32:
            _replaced.append((None, "default_dtype", torch.get_default_dtype()))
            torch.set_default_dtype(torch.float32)


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if _inside:
            return
        while _replaced:
            owner, name, value = _replaced.pop()
            if isinstance(value, torch.dtype):
                torch.set_default_dtype(value)
            else:
                setattr(owner, name, value)


def _switches() -> list[tuple[object, str, object]]:
    """Where torch allows less than float32 in products and convolutions: owner, attribute, exact value."""
    backends: Any = torch.backends  # torch's stubs lack some of them
    if hasattr(backends.mkldnn, "matmul"):
        owners = [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
        owners += [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
        return [(owner, "fp32_precision", "ieee") for owner in owners]
    return [(backends.cuda.matmul, "allow_tf32", False), (backends.cudnn, "allow_tf32", False)]
