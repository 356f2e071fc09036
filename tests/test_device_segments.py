"""Segments cut on a device equal those of the CPU data path. The device of these tests is the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from codecvq.audio import write_audio
from codecvq.data.corpus import Clip, Corpus, open_corpus
from codecvq.data.device_segments import DeviceSegments, change_speed
from codecvq.data.loading import load_batches
from codecvq.data.segments import AugmentConfig, Segments
from codecvq.errors import CorpusError, RecipeError
from codecvq.training import loop
from codecvq.training.recipe import load_recipe
from recipes import write_recipe

CPU = torch.device("cpu")


def speech(batch_size: int = 16, segment_s: float = 0.5, **augment: object) -> Segments:
    corpus = open_corpus("prompts").split("validation")
    return Segments(
        corpus, 16000, segment_s, batch_size, 1, augment=AugmentConfig(**{"gain_db": (0.0, 0.0), **augment})
    )


@pytest.mark.parametrize(
    "augment",
    [{"polarity": 0.0}, {"gain_db": (-12.0, 30.0)}, {"tilt_db": 6.0, "gain_db": (-9.0, 4.0)}],
    ids=["as it is", "gain up to the limit", "tilt"],
)
def test_device_segments_equal_cpu_segments(augment: dict[str, object]) -> None:
    segments = speech(**augment)
    on_device = DeviceSegments(segments, CPU)
    for step in range(4):
        wanted = torch.from_numpy(segments.batch(step))
        torch.testing.assert_close(on_device.batch(step), wanted, rtol=1e-5, atol=1e-6)


def test_changed_speed_matches_the_resampler_below_6_khz() -> None:
    segments = speech(speed=(0.8, 1.25))
    on_device = DeviceSegments(segments, CPU)
    wanted, found = segments.batch(3)[:, 0], on_device.batch(3)[:, 0].numpy()
    inside = slice(400, -400)  # the ends depend on the filter
    apart = np.fft.rfft((found - wanted)[:, inside] * np.hanning(7200))[:, :2700]  # below 6 kHz
    whole = np.fft.rfft(wanted[:, inside] * np.hanning(7200))[:, :2700]
    assert np.linalg.norm(apart) < 0.01 * np.linalg.norm(whole)


@pytest.mark.parametrize("speed", [0.6, 0.9, 1.0, 1.1, 1.7])
def test_a_tone_at_higher_speed_has_a_higher_frequency(speed: float) -> None:
    time = torch.arange(4000) / 16000
    wav = torch.sin(2 * torch.pi * 1000 * time)[None]
    samples = int(3000 / speed)
    found = change_speed(wav[:, :3000], torch.tensor([speed], dtype=torch.float64), samples)[0]
    wanted = torch.sin(2 * torch.pi * 1000 * speed * torch.arange(samples) / 16000)
    torch.testing.assert_close(found[100:-100], wanted[100:-100], rtol=0, atol=2e-3)


def test_changed_speed_has_no_aliasing() -> None:
    wav = torch.sin(2 * torch.pi * 7000 * torch.arange(4000) / 16000)[None]
    found = change_speed(wav, torch.tensor([2.0], dtype=torch.float64), 2000)[0]
    assert float(found[100:-100].abs().max()) < 0.01


def test_processes_share_a_batch_and_batches_are_reproducible() -> None:
    whole = DeviceSegments(speech(8, speed=(0.9, 1.1), tilt_db=3.0), CPU)
    half = DeviceSegments(speech(4, speed=(0.9, 1.1), tilt_db=3.0), CPU)
    torch.testing.assert_close(torch.cat([half.batch(5, rank, 2) for rank in (0, 1)]), whole.batch(5))
    made = list(load_batches(whole, 4, 7))
    assert all(torch.equal(batch.wav, whole.batch(step)) for step, batch in enumerate(made, 4))


def test_short_clips_are_padded_and_unreadable_ones_are_replaced(tmp_path: Path) -> None:
    clips = []
    for n, length in enumerate((700, 5000, 9000)):
        path = write_audio(tmp_path / f"{n}.wav", 0.1 * np.ones(length, dtype=np.float32), 16000)
        clips.append(Clip(id=str(n), path=path))
    segments = Segments(Corpus("short", tuple(clips)), 16000, 0.1, 16, 1)
    clips[1].path.write_bytes(b"gone")
    on_device = DeviceSegments(segments, CPU)
    assert [failure.id for failure in segments.failures] == ["1"]
    wav = torch.from_numpy(segments.batch(0))
    torch.testing.assert_close(on_device.batch(0), wav, rtol=1e-5, atol=1e-6)
    assert set((wav > 0).sum(dim=2).flatten().tolist()) == {700, 1600}


def test_unreadable_clips_are_replaced_by_the_same_clips_as_on_the_cpu(tmp_path: Path) -> None:
    clips = []
    for n in range(12):
        path = write_audio(tmp_path / f"{n}.wav", np.full(4000, 0.02 * (n + 1), dtype=np.float32), 16000)
        clips.append(Clip(id=str(n), path=path))
    segments = Segments(Corpus("c", tuple(clips)), 16000, 0.1, 64, 1)
    for n in (2, 3, 4, 9):
        clips[n].path.write_bytes(b"gone")
    on_device = DeviceSegments(segments, CPU)
    for step in range(3):
        wav = torch.from_numpy(segments.batch(step))
        torch.testing.assert_close(on_device.batch(step), wav, rtol=1e-5, atol=1e-6)
    assert len(segments.failures) == 4
    for clip in clips:
        clip.path.write_bytes(b"gone")
    with pytest.raises(CorpusError, match="none of its 12 clips can be read"):
        DeviceSegments(Segments(segments.corpus, 16000, 0.1, 64, 1), CPU)


def test_a_corpus_that_does_not_fit_is_an_error_with_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segments = speech()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**5, 10**6))
    with pytest.raises(
        CorpusError, match=r"needs 0\.0 GB on cuda:0, but at most half of the 0\.0 GB free.*cache=memory"
    ):
        DeviceSegments(segments, torch.device("cuda:0"))


def test_a_resumed_training_with_the_device_cache_gives_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = {"cache": "device", "augment": {"speed": [0.9, 1.1], "tilt_db": 2.0}}
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", corpus=corpus))
    loop.train(recipe, tmp_path / "whole")
    plain, ends = loop.Trainer.save, recipe.training.checkpoint_every

    def killed(trainer: loop.Trainer, step: int, required: bool = False) -> bool:
        plain(trainer, step, required)
        if step == ends:
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(loop.Trainer, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        loop.train(recipe, tmp_path / "stopped")
    monkeypatch.undo()
    assert loop.train(recipe, tmp_path / "stopped").resumed_at == ends
    rows = [(tmp_path / run / "metrics.jsonl").read_text().splitlines()[-1] for run in ("whole", "stopped")]
    last = [{k: v for k, v in json.loads(row).items() if not k.startswith("speed")} for row in rows]
    assert last[0] == last[1]


def test_workers_cannot_be_combined_with_the_device_cache(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "tiny.yaml", corpus={"cache": "device"}, training={"workers": 2})
    with pytest.raises(RecipeError, match="workers is 2, but corpus"):
        load_recipe(path)
