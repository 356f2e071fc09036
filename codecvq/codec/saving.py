"""Saves a codec as a folder with config.json, model.safetensors and code tables. Nothing is pickled."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from codecvq.codec.config import CONFIG, FORMAT
from codecvq.codec.tables_file import discard_other_tables, write_tables
from codecvq.errors import CodecError, OptionError
from codecvq.files import write_atomically
from codecvq.weights import weights_bytes

if TYPE_CHECKING:
    from codecvq.codec.codec import Codec

WEIGHTS = "model.safetensors"


def save_codec(codec: Codec, folder: Path, dtype: torch.dtype | None) -> Path:
    """Save the codec to `folder` and return the folder; see `Codec.save`."""
    saved, narrow = (codec, set[str]()) if dtype is None else _rounded(codec, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().to("cpu", dtype if name in narrow else tensor.dtype)
        for name, tensor in saved.state_dict().items()
    }
    discard_other_tables(folder, saved.codebooks_sha256)
    write_atomically(folder / WEIGHTS, weights_bytes(weights, {"format": FORMAT}))
    write_atomically(folder / CONFIG, json.dumps(saved.config, indent=2).encode() + b"\n")
    if saved.own_code_tables is not None:
        write_tables(folder, saved.own_code_tables, saved.codebooks_sha256)
    return folder


def _rounded(codec: Codec, dtype: torch.dtype) -> tuple[Codec, set[str]]:
    """Return a copy with encoder and decoder weights rounded to `dtype`.

    Also returns the names of these weights, and of buffers that `dtype` represents exactly.
    """
    if dtype not in (torch.float16, torch.bfloat16):
        raise OptionError(
            f"dtype is {dtype}; weights are saved as torch.float16, as torch.bfloat16, or unchanged."
        )
    rounded = copy.deepcopy(codec)
    names = set()
    for name, weight in rounded.named_parameters():
        if weight.dtype != torch.float32 or not name.startswith(("encoder.", "decoder.")):
            continue
        narrow = weight.detach().to(dtype)
        if not narrow.isfinite().all():
            raise CodecError(
                f"weight {name} has values up to {weight.abs().max():.3g}, beyond the range of {dtype}. "
                "Save with torch.bfloat16, or without dtype."
            )
        weight.data = narrow.to(weight.dtype)
        names.add(name)
    for name, buffer in rounded.named_buffers():
        exact = buffer.dtype == torch.float32 and torch.equal(buffer.to(dtype).to(buffer.dtype), buffer)
        if exact and name.startswith(("encoder.", "decoder.")):
            names.add(name)
    rounded.train(codec.training)  # clears the cached hashes
    return rounded, names
