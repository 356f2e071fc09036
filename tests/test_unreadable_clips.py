"""Clips that turn out to be damaged during training are reported, and training continues."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codecvq.training import loop
from codecvq.training.builders import run_corpus
from codecvq.training.recipe import load_recipe
from recipes import write_recipe

RATE = 16000


def manifest_of(folder: Path) -> Path:
    """Eight clips. One training clip and one validation clip contain a NaN."""
    rows = []
    for n in range(8):
        samples = np.random.default_rng(n).normal(0, 0.1, RATE // 2).astype(np.float32)
        samples[1000] = np.nan if n in (1, 6) else 0
        soundfile.write(folder / f"{n}.wav", samples, RATE, subtype="FLOAT")
        rows.append({"path": f"{n}.wav", "id": str(n), "split": "train" if n < 6 else "validation"})
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "m.jsonl"


def test_nan_in_training_and_validation_clips_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = {"name": None, "manifest": str(manifest_of(tmp_path))}
    training = {"steps": 8, "log_every": 4, "validate_every": 4, "keep_best": "validation/mel"}
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", corpus=corpus, training=training))
    with caplog.at_level(logging.WARNING):
        trained = loop.train(recipe, tmp_path / "run")
    assert [failure.id for failure in trained.failures] == ["1"]
    messages = [
        record.getMessage() for record in caplog.records if "NaN or infinite samples" in record.getMessage()
    ]
    assert [message[:23] for message in sorted(messages)] == [
        "clip 1 is skipped: " + str(tmp_path)[:4],
        "validation skips clip 6",
    ]


def test_runs_of_older_versions_are_evaluated_on_their_test_clips(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    for n in range(30):
        samples = np.random.default_rng(n).normal(0, 0.1, 800)
        soundfile.write(tmp_path / "audio" / f"{n}.wav", samples, RATE)
    recipe = load_recipe(
        write_recipe(tmp_path / "tiny.yaml", corpus={"name": None, "folder": str(tmp_path / "audio")})
    )
    rows = [
        {"id": str(n), "split": "test" if n < 3 else "train", "speaker": "", "duration": 0.05}
        for n in range(30)
    ]
    (tmp_path / "split.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = run_corpus(recipe, tmp_path)
    assert [clip.id for clip in corpus.split("test")] == ["0", "1", "2"]
