"""Checkpoints: folders written atomically, with the complete state of a training."""

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
    """State of a training after `step` steps."""

    step: int
    weights: Mapping[str, Tensor]
    state: Mapping[str, Any]  # of optimizers, averages and counters: tensors and plain values only


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder/step-XXXXXXXX`, delete all but the newest `keep` checkpoints, and return the path.

    The folder is written under a temporary name, synced to disk and renamed. Raises OSError if it cannot be
    written, for example on a full disk; no partial checkpoint remains.
    """
    final = folder / _folder_name(checkpoint.step)
    temporary = folder / f".{final.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    state = (
        io.BytesIO()
    )  # torch and safetensors raise other errors on a full disk; writing bytes raises OSError
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
    """The newest checkpoint that can be loaded, or None if there is none.

    Logs a warning for a damaged checkpoint and tries the one before it. Raises RunError for a disk error,
    which may be temporary.
    """
    for path in checkpoint_paths(folder):
        try:
            return _load(path)
        except OSError as error:
            raise RunError(
                f"checkpoint {path} cannot be read ({error.strerror}). It may be intact: check the disk, "
                "then run the same command again."
            ) from error
        except Exception as error:  # damaged files raise many types of errors
            logger.warning("checkpoint %s is damaged (%s); trying the one before it", path, error)
    return None


def clean_up_checkpoints(folder: Path, step: int) -> None:
    """Delete partial checkpoints of killed processes, and rename damaged ones.

    The run resumes after `step`, so newer checkpoints are damaged. They become `damaged-step-XXXXXXXX`, since
    otherwise they would count as the newest.
    """
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in checkpoint_paths(folder):
        if path.name > _folder_name(step):
            renamed = folder / f"damaged-{path.name}"
            shutil.rmtree(renamed, ignore_errors=True)
            path.replace(renamed)
            logger.warning("damaged checkpoint %s was renamed to %s", path, renamed.name)


def _load(path: Path) -> Checkpoint:
    from safetensors.torch import load_file

    missing = [name for name in (MANIFEST, WEIGHTS, STATE) if not (path / name).is_file()]
    if missing:
        raise ValueError(f"missing {' and '.join(missing)}")
    manifest = json.loads((path / MANIFEST).read_text())
    for name, digest in manifest["sha256"].items():
        if _sha256(path / name) != digest:
            raise ValueError(f"the SHA-256 of {name} differs")
    state = torch.load(path / STATE, weights_only=True, map_location="cpu")
    return Checkpoint(manifest["step"], load_file(path / WEIGHTS), state)


def _folder_name(step: int) -> str:
    return f"step-{step:08d}"


def checkpoint_paths(folder: Path) -> list[Path]:
    """Paths of all checkpoints of a run, newest first, including damaged ones."""
    return sorted(folder.glob("step-*"), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
