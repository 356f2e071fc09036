"""Validation during training measures what the codec decodes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from codecvq.codec import load
from codecvq.data.corpus import open_corpus
from codecvq.evaluation.metrics import prepare
from codecvq.training import loop
from codecvq.training.recipe import load_recipe
from codecvq.training.validation import MAX_CLIP_S
from recipes import write_recipe

CLIPS = 2


def test_validation_metrics_are_those_of_the_decoded_clips(tmp_path: Path) -> None:
    training = {
        "steps": 2, "validate_every": 2, "validation_clips": CLIPS,
        "validation_metrics": ["stoi", "mel_distance"], "keep_best": "validation/mel_distance",
    }  # fmt: skip
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", training=training))
    loop.train(recipe, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = next(row for row in rows if "validation/stoi" in row)

    codec, metrics = load(tmp_path / "run" / "best"), prepare(["stoi", "mel_distance"]).ready
    clips = open_corpus("prompts").split("validation").clips
    scores: dict[str, list[float]] = {"stoi": [], "mel_distance": []}
    for clip in (clips[i * len(clips) // CLIPS] for i in range(CLIPS)):
        samples = clip.read(codec.sample_rate)[: round(MAX_CLIP_S * codec.sample_rate)]
        decoded = codec.decode(codec.encode(torch.from_numpy(samples)[None, None]), num_samples=len(samples))
        for metric in metrics:
            for name, value in metric.measure(samples, decoded[0, 0].numpy(), codec.sample_rate).items():
                scores[name].append(value)
    for name, values in scores.items():
        assert logged[f"validation/{name}"] == pytest.approx(np.mean(values), rel=1e-3)
    assert logged["validation/mel_distance"] > 0.1  # 0 for the reference against itself
