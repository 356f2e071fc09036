"""Checkpoints: a folder that is whole or not there, with everything that a training needs to go on as if
never stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codecvq.errors import RunError
from codecvq.files import sync_folder
from codecvq.plugins import PROJECT
from codecvq.weights import weights_bytes

logger = logging.getLogger(PROJECT)

WEIGHTS, STATE, MANIFEST = "model.safetensors", "state.pt", "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """A training after `step` steps."""

    step: int
    weights: Mapping[str, Tensor]
    state: Mapping[str, Any]  # optimizer, random numbers: tensors and plain values only


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """The path `folder/step-XXXXXXXX`, written under another name, synced, renamed; all but the newest `keep`
    are removed.

    Raises OSError when it cannot be written, as on a full disk; nothing half written stays.
    """
    final = folder / _folder_name(checkpoint.step)
    temporary = folder / f".{final.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    state = io.BytesIO()  # torch and safetensors have errors of their own for a full disk: bytes have OSError
    torch.save(dict(checkpoint.state), state)
    content = {
        WEIGHTS: weights_bytes(checkpoint.weights),
        STATE: state.getvalue(),
    }
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    content[MANIFEST] = json.dumps({"step": checkpoint.step, "sha256": hashes}).encode()
    try:
        temporary.mkdir(parents=True)
        for name, data in content.items():
            with (temporary / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        temporary.replace(final)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder)
    for old in checkpoint_paths(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def last_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; a damaged one is told and the one before is taken. None where no
    checkpoint can be read. Raises RunError where the disk gives an error: it may be back in a moment.
    """
    for path in checkpoint_paths(folder):
        try:
            return _load(path)
        except OSError as error:
            raise RunError(
                f"checkpoint {path} cannot be read ({error.strerror}). It may be whole: see to the disk, and "
                "give the same command."
            ) from error
        except Exception as error:  # whatever a damaged file gives
            logger.warning("checkpoint %s is damaged (%s): looking for the one before", path, error)
    return None


def clean_up_checkpoints(folder: Path, step: int) -> None:
    """Remove what a killed process left half written. Checkpoints of later steps than `step`, which are
    damaged, are called `damaged-step-XXXXXXXX` now: they would be kept in place of those that are to come.
    """
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in checkpoint_paths(folder):
        if path.name > _folder_name(step):
            renamed = folder / f"damaged-{path.name}"
            shutil.rmtree(renamed, ignore_errors=True)
            path.replace(renamed)
            logger.warning("checkpoint %s, which is damaged, is %s now", path, renamed.name)


def _load(path: Path) -> Checkpoint:
    from safetensors.torch import load_file

    missing = [name for name in (MANIFEST, WEIGHTS, STATE) if not (path / name).is_file()]
    if missing:
        raise ValueError(f"{' and '.join(missing)} not there")
    manifest = json.loads((path / MANIFEST).read_text())
    for name, digest in manifest["sha256"].items():
        if _sha256(path / name) != digest:
            raise ValueError(f"{name} is not what was written")
    state = torch.load(path / STATE, weights_only=True, map_location="cpu")
    return Checkpoint(manifest["step"], load_file(path / WEIGHTS), state)


def _folder_name(step: int) -> str:
    return f"step-{step:08d}"


def checkpoint_paths(folder: Path) -> list[Path]:
    """All checkpoints of a run, newest first, whole or damaged."""
    return sorted(folder.glob("step-*"), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
