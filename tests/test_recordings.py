"""Recordings in blocks: codes and samples equal those of the whole, with codecs that stream and others."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from small_codecs import HOP, RATE, LevelCodec

from codecvq.api.reach import Reach
from codecvq.audio import read_audio, write_audio
from codecvq.codec import Codec
from codecvq.codec.recordings import CONTEXT_S, context_frames, decode_blocks, encode_blocks
from codecvq.data import Clip
from codecvq.errors import StreamingError
from codecvq.tokens import check, detokenize, read_tokens, tokenize

SEANET = {"name": "seanet", "preset": "tiny", "filters": 4, "ratios": [5, 4, 4, 2], "dim": 16}


class FramewiseCodec(LevelCodec):
    """A level codec that declares that frames are independent, so it can process streams."""

    encoder_reach = decoder_reach = Reach(0, 0)


@cache
def network_codec() -> Codec:
    """A causal codec with random weights, and strides of 2 and 1."""
    torch.manual_seed(0)
    quantizer = {"name": "multiscale_vq", "codebook_size": 32, "strides": [2, 1]}
    return Codec(sample_rate=RATE, network={**SEANET, "causal": True}, quantizer=quantizer).eval()


@cache
def surveyed_codec() -> Codec:
    """A codec whose codes contain the pitch, which depends on the whole recording."""
    torch.manual_seed(0)
    network = {"name": "spectral", "hop_length": HOP, "encoder_width": 16, "decoder_width": 16, "dim": 8}
    source = {"phase": "source", "pitch_channels": [5, 6, 7]}
    quantizer = {"name": "grouped_fsq", "num_codebooks": 2, "levels": [8, 5, 5, 5], "dropout": 0.5}
    return Codec(sample_rate=RATE, network={**network, **source}, quantizer=quantizer).eval()


CODECS = {
    "stream": FramewiseCodec,
    "whole": LevelCodec,
    "stereo": lambda: FramewiseCodec(channels=2),
    "network": network_codec,
    "surveyed": surveyed_codec,
}


def noise(batch: int, channels: int, samples: int) -> np.ndarray:
    """Uniform noise of amplitude 0.3: [B, C, S]."""
    return np.random.default_rng(0).uniform(-0.3, 0.3, (batch, channels, samples)).astype(np.float32)


def blocks_of(whole: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (whole[:, :, at : at + size] for at in range(0, whole.shape[2], size))


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("samples", [1, 5 * HOP, 12_345])
def test_blocks_have_the_codes_and_samples_of_the_whole(name: str, batch: int, samples: int) -> None:
    codec = CODECS[name]()
    wav = noise(batch, codec.channels, samples)
    expected = codec.encode(torch.from_numpy(wav))
    codes = np.concatenate(list(encode_blocks(codec, lambda: blocks_of(wav, 1000), batch)), axis=2)
    assert np.array_equal(codes, expected.numpy())
    decoded = np.concatenate(list(decode_blocks(codec, blocks_of(codes, 7), batch)), axis=2)
    assert np.allclose(decoded, codec.decode(expected).numpy(), atol=1e-5)
    fewer = np.concatenate(list(encode_blocks(codec, lambda: blocks_of(wav, 999), batch, 1)), axis=2)
    assert np.array_equal(fewer, codes[:, :1])


def test_a_recording_without_codes_has_no_samples() -> None:
    for codec in (FramewiseCodec(), LevelCodec()):
        assert sum(block.shape[2] for block in decode_blocks(codec, [])) == 0


def test_only_codecs_without_streams_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codecvq.codec.recordings.MAX_AUDIO_S", 1.0)
    for seconds in (1, 2):
        wav = noise(1, 1, seconds * RATE)
        codes = [*encode_blocks(FramewiseCodec(), lambda wav=wav: blocks_of(wav, 1600))]
        [*decode_blocks(FramewiseCodec(), codes)]
        if seconds == 1:
            [
                *decode_blocks(
                    LevelCodec(), [*encode_blocks(LevelCodec(), lambda wav=wav: blocks_of(wav, 1600))]
                )
            ]
            continue
        with pytest.raises(StreamingError, match=r"longer than .* h, but codec 'level' must process it as a"):
            [*encode_blocks(LevelCodec(), lambda wav=wav: blocks_of(wav, 1600))]
        with pytest.raises(StreamingError, match=r"level' must process .* declares no decoder_reach"):
            [*decode_blocks(LevelCodec(), codes)]


def test_the_context_of_a_part_is_the_reach_of_the_decoder() -> None:
    assert context_frames(FramewiseCodec()) == 0
    assert context_frames(LevelCodec()) == CONTEXT_S * RATE / HOP
    codec = network_codec()
    context = context_frames(codec)
    assert 0 < context < 50
    codes = codec.encode(torch.from_numpy(noise(1, 1, 100 * HOP)))
    start = 60 - (60 - context) % 2  # of a block of 2 frames
    assert torch.allclose(
        codec.decode(codes)[:, :, 60 * HOP :],
        codec.decode(codes[:, :, start - context - (start - context) % 2 :])[:, :, -40 * HOP :],
        atol=1e-5,
    )


# token datasets


@pytest.mark.parametrize("name", CODECS)
def test_a_long_clip_is_one_row_with_the_codes_of_the_whole(tmp_path: Path, name: str) -> None:
    codec = CODECS[name]()
    path = write_audio(tmp_path / "a.wav", noise(1, 2, 100_001)[0], 44_100)
    short = write_audio(tmp_path / "b.wav", noise(1, 1, 5000)[0], RATE)
    clips = [Clip(id="long", path=path, start_s=0.1), Clip(id="short", path=short)]
    summary = tokenize(codec, clips, tmp_path / "t", batch_seconds=0.5)
    assert (summary.clips, summary.failures) == (2, ())
    for clip, row in zip(clips, read_tokens(tmp_path / "t"), strict=True):
        wav = torch.from_numpy(clip.read(RATE)).expand(1, codec.channels, -1)
        assert np.array_equal(row.codes, codec.encode(wav)[0].numpy())
        assert row.num_samples == wav.shape[2]
    assert check(tmp_path / "t").problems == ()
    detokenize(codec, tmp_path / "t", tmp_path / "wavs", suffix=".wav")
    codes = torch.from_numpy(read_tokens(tmp_path / "t")["long"].codes.astype(np.int64))[None]
    whole = codec.decode(codes, num_samples=clips[0].read(RATE).size)[0].numpy()
    decoded = read_audio(tmp_path / "wavs" / "long.wav").samples
    assert decoded.shape == whole.shape
    assert np.abs(decoded - np.clip(whole, -1, 1)).max() < 1 / 32768


def test_a_clip_that_is_too_long_for_its_codec_fails_and_the_others_are_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codecvq.codec.recordings.MAX_AUDIO_S", 1.0)
    long, short = (write_audio(tmp_path / f"{n}.wav", noise(1, 1, n * RATE)[0], RATE) for n in (2, 1))
    clips = [Clip(id="long", path=long), Clip(id="short", path=short)]
    summary = tokenize(LevelCodec(), clips, tmp_path / "t", batch_seconds=0.5)
    assert [failure.id for failure in summary.failures] == ["long"]
    assert "must process it as a whole" in summary.failures[0].error
    assert read_tokens(tmp_path / "t").ids == ["short"]
    assert tokenize(FramewiseCodec(), clips, tmp_path / "u", batch_seconds=0.5).failures == ()


def test_rows_are_limited_while_a_clip_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codecvq.tokens.rows.MAX_CODES", 300)
    path = write_audio(tmp_path / "a.wav", noise(1, 1, 4 * RATE)[0], RATE)
    clips = [Clip(id="a", path=path), Clip(id="b", path=path, duration_s=0.2)]
    summary = tokenize(FramewiseCodec(), clips, tmp_path / "t", batch_seconds=0.5)
    assert (
        "codes exceed the limit of 300 per row. Cut long clips with max_seconds" in summary.failures[0].error
    )
