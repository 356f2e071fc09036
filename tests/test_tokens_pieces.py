"""Long clips in token datasets: cut at silences into rows, or one row that is encoded in pieces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_codecs import RATE, LevelCodec

from codecvq.audio import read_audio, write_audio
from codecvq.data import Clip
from codecvq.errors import TokensError
from codecvq.tokens import check, detokenize, read_tokens, tokenize


def speech_like(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise of 0.3 times the square of a sine of 0.7 Hz, so that there are pauses: [S]."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).uniform(-0.3, 0.3, time_s.size)
    return (noise * np.sin(np.pi * 0.7 * time_s) ** 2).astype(np.float32)


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Two short clips, and two long ones: one of known duration and a part of one of unknown duration."""
    lengths = {"short": 1.5, "long": 13.37, "limit": 3.0, "part": 12.0}
    parts = {"long": {"duration_s": 13.37}, "part": {"start_s": 2.0}}
    made = []
    for seed, (name, seconds) in enumerate(lengths.items()):
        path = write_audio(tmp_path / "audio" / f"{name}.wav", speech_like(seconds, seed), RATE)
        columns = {"text": f"text of {name}", "speaker": "s", "columns": {"take": seed}}
        made.append(Clip(id=f"set/{name}", path=path, **columns, **parts.get(name, {})))
    return made


def test_long_clips_are_cut_into_rows_that_say_where(tmp_path: Path, clips: list[Clip]) -> None:
    codec = LevelCodec()
    summary = tokenize(codec, clips, tmp_path / "t", max_seconds=3.0, batch_seconds=7.0)
    dataset = read_tokens(tmp_path / "t")
    rows = {clip.id: [row for row in dataset if row.id.split("#")[0] == clip.id] for clip in clips}
    assert dataset.ids == [row.id for clip in clips for row in rows[clip.id]]
    for clip in clips:
        whole = clip.read(RATE)
        pieces = rows[clip.id]
        if whole.size <= 3 * RATE:
            assert [row.id for row in pieces] == [clip.id]
            assert pieces[0].columns["text"] == clip.text
        else:
            assert [row.id for row in pieces] == [f"{clip.id}#{n:04d}" for n in range(1, len(pieces) + 1)]
            assert all(row.columns["text"] is None for row in pieces)
        first = 0
        for row in pieces:
            assert row.source == {"path": str(clip.path), "start_s": clip.start_s + first / RATE}
            assert (row.columns["speaker"], row.columns["take"]) == ("s", clip.columns["take"])
            assert 0 < row.num_samples <= 3 * RATE
            samples = torch.from_numpy(whole[first : first + row.num_samples])
            assert np.array_equal(row.codes, codec.encode(samples[None, None])[0].numpy())
            first += row.num_samples
        assert first == whole.size
    assert (summary.clips, summary.failures) == (len(dataset), ())
    assert summary.audio_s == pytest.approx(1.5 + 13.37 + 3.0 + 10.0)
    result = check(tmp_path / "t")
    assert (result.rows, result.problems) == (len(dataset), ())


def test_rows_of_a_cut_clip_decode_to_its_length(tmp_path: Path, clips: list[Clip]) -> None:
    codec = LevelCodec()
    tokenize(codec, clips[:2], tmp_path / "t", max_seconds=4.0)
    decoded = detokenize(codec, tmp_path / "t", tmp_path / "wavs", suffix=".wav")
    names = [file.relative_to(tmp_path / "wavs").as_posix() for file in decoded.files]
    assert names[0] == "set/short.wav"
    assert names[1:] == [f"set/long#{n:04d}.wav" for n in range(1, len(names))]
    lengths = [read_audio(file).samples.shape[1] for file in decoded.files]
    assert sum(lengths[1:]) == round(13.37 * RATE)


def test_a_clip_that_fails_late_has_no_rows_and_the_others_have(tmp_path: Path, clips: list[Clip]) -> None:
    samples = speech_like(30.0)
    samples[-1000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")
    content = write_audio(tmp_path / "a.flac", speech_like(30.0), RATE).read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[:-1000])
    bad = [Clip(id=name, path=tmp_path / name, duration_s=30.0) for name in ("nan.wav", "cut.flac")]
    summary = tokenize(LevelCodec(), [bad[0], *clips, bad[1]], tmp_path / "t", max_seconds=3.0)
    assert [failure.id for failure in summary.failures] == ["nan.wav", "cut.flac"]
    rows = read_tokens(tmp_path / "t").ids
    assert {id.split("#")[0] for id in rows} == {clip.id for clip in clips}
    assert check(tmp_path / "t").problems == ()


def test_another_maximum_is_another_job(tmp_path: Path, clips: list[Clip]) -> None:
    tokenize(LevelCodec(), clips, tmp_path / "t", max_seconds=3.0)
    for other in (None, 4.0):
        with pytest.raises(TokensError, match=r"its max_seconds is 3\.0, but now it is"):
            tokenize(LevelCodec(), clips, tmp_path / "t", max_seconds=other)
    again = tokenize(LevelCodec(), clips, tmp_path / "t", max_seconds=3.0)
    assert (again.shards_written, again.clips) == (0, 0)


def test_the_card_has_the_maximum_only_if_there_is_one(tmp_path: Path, clips: list[Clip]) -> None:
    """Datasets without cuts are read by earlier versions, which reject unknown keys."""
    tokenize(LevelCodec(), clips, tmp_path / "whole")
    tokenize(LevelCodec(), clips, tmp_path / "cut", max_seconds=3)
    assert "max_seconds" not in json.loads((tmp_path / "whole" / "codec.json").read_text())["job"]
    assert json.loads((tmp_path / "cut" / "codec.json").read_text())["job"]["max_seconds"] == 3.0


def test_ids_like_those_of_pieces_raise_before_a_clip_is_read(tmp_path: Path, clips: list[Clip]) -> None:
    odd = [*clips, Clip(id="set/long#0001", path=clips[0].path)]
    with pytest.raises(TokensError, match="clip 'set/long#0001' has an id like a piece"):
        tokenize(LevelCodec(), odd, tmp_path / "t", max_seconds=3.0)
    assert len(read_tokens(tokenize(LevelCodec(), odd, tmp_path / "t").folder)) == 5


@pytest.mark.parametrize("max_seconds", [0.5, 601.0, float("nan"), -1.0])
def test_unsupported_maxima_raise(tmp_path: Path, clips: list[Clip], max_seconds: float) -> None:
    with pytest.raises(TokensError, match="but 1 to 600 are possible"):
        tokenize(LevelCodec(), clips, tmp_path / "t", max_seconds=max_seconds)
