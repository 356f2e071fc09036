"""Tiny adversarial trainings for tests, and readers of their run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from codecvq.training.recipe import Recipe, load_recipe
from recipes import write_recipe

VQ = {"name": "residual_vq", "codebook_size": 16, "codebook_dim": 4, "num_codebooks": 2, "dropout": 0.5}
MEL = {"weight": 15.0, "windows": [256], "bands": [20]}
LOSSES = {"mel": MEL, "adversarial": 1.0, "feature_matching": 2.0}
BAND = {"name": "multi_band", "windows": [256], "bands": [0.0, 1.0], "filters": 4, "stride": 4}
PERIOD = {"name": "multi_period", "periods": [2], "filters": 2, "max_filters": 4}
DISCRIMINATOR = {"networks": [BAND, PERIOD], "in_turn": True, "start_step": 3}
TRAINING = {"steps": 12, "checkpoint_every": 5, "validate_every": 6, "average": 0.9}


def recipe_at(path: Path, **sections: Any) -> Recipe:
    """A tiny adversarial recipe, with sections updated."""
    defaults: dict[str, Any] = {
        "quantizer": VQ,
        "losses": LOSSES,
        "discriminator": DISCRIMINATOR,
        "training": TRAINING,
    }
    for name, value in sections.items():
        merge = isinstance(value, dict) and name in defaults and name != "quantizer"
        defaults[name] = {**defaults[name], **value} if merge else value
    return load_recipe(write_recipe(path, **defaults))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "codec" / "model.safetensors")


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
