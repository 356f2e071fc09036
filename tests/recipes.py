"""A recipe for tests that trains in seconds on real speech."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

TINY: dict[str, Any] = {
    "sample_rate": 16000,
    "network": {
        "name": "spectral",
        "encoder_width": 16,
        "encoder_blocks": 1,
        "decoder_width": 16,
        "decoder_blocks": 1,
        "num_mels": 32,
        "dim": 8,
    },
    "quantizer": {"name": "fsq", "levels": [5, 5, 5, 5], "num_codebooks": 2},
    "corpus": {"name": "prompts", "segment_s": 0.5},
    "losses": {"mel": {"weight": 15.0, "windows": [256, 1024], "bands": [20, 80]}},
    "training": {
        "steps": 30,
        "batch_size": 4,
        "threads": 1,
        "precision": "fp32",
        "log_every": 5,
        "checkpoint_every": 5,
        "validate_every": 15,
        "validation_clips": 2,
    },
}


def write_recipe(path: Path, **sections: Any) -> Path:
    """Write the tiny recipe to `path`, with sections updated (`training={"steps": 3}`) or replaced
    (`quantizer={...}`).
    """
    tree = {**TINY}
    for name, value in sections.items():
        merge = isinstance(value, dict) and "name" not in value and name in tree
        tree[name] = {**tree[name], **value} if merge else value
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path
