"""The bundled codec speech-16k-stream: size, latency, quality, streams and reference codes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import codecvq_pretrained
import numpy as np
import pytest
import torch
from pystoi import stoi

import codecvq
from codecvq.data.corpus import open_corpus

FOLDER = Path(codecvq_pretrained.__file__).parent / "speech_16k_stream"
HOP = 320


@pytest.fixture(scope="module")
def codec() -> codecvq.Codec:
    return codecvq.load("speech-16k-stream")


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Every fourth test clip of the bundled corpus. Training uses none of them."""
    return [clip.read(16000) for clip in open_corpus("prompts").split("test").clips[::4]]


def test_the_codec_is_small_and_has_a_card_and_curves(codec: codecvq.Codec) -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) <= 6e6
    assert sum(p.numel() for p in codec.parameters()) < 3e6
    for name in ("README.md", "metrics.jsonl", "curves.png"):
        assert (FOLDER / name).stat().st_size > 0, name


def test_decoded_audio_depends_on_less_than_40_ms_of_later_audio(
    codec: codecvq.Codec, clips: list[np.ndarray]
) -> None:
    assert codec.latency_ms == 40
    wav = torch.from_numpy(clips[0][:16000])[None, None]
    for change in (6400, 6719, 8000):
        changed = wav.clone()
        changed[:, :, change:] = changed[:, :, change:].flip(2)
        decoded = [codec.decode(codec.encode(each)) for each in (wav, changed)]
        first = int((decoded[0] != decoded[1])[0, 0].nonzero()[0])
        assert change - 640 < first <= change + 2 * HOP


def test_streams_equal_the_whole(codec: codecvq.Codec, clips: list[np.ndarray]) -> None:
    for clip in clips[:3]:
        wav = torch.from_numpy(clip[:24000])[None, None]
        codes = codec.encode(wav)
        encoder, decoder = codec.stream_encoder(), codec.stream_decoder()
        parts = [encoder.push(block) for block in wav.split(1600, dim=2)]
        assert torch.equal(torch.cat([*parts, encoder.flush()], dim=2), codes)
        audio = torch.cat([decoder.push(block) for block in codes.split(5, dim=2)], dim=2)
        torch.testing.assert_close(audio, codec.decode(codes), atol=1e-5, rtol=0)


def test_intelligibility_is_high_and_increases_with_codebooks(
    codec: codecvq.Codec, clips: list[np.ndarray]
) -> None:
    means = []
    for depth in (1, 3, 6):
        scores = []
        for clip in clips:
            codes = codec.encode(torch.from_numpy(clip)[None, None], num_codebooks=depth)
            decoded = codec.decode(codes, num_samples=len(clip))
            scores.append(stoi(clip, decoded[0, 0].numpy(), 16000))
        means.append(sum(scores) / len(scores))
    assert means[0] > 0.70
    assert means[1] > 0.88
    assert means[2] > 0.90
    assert means == sorted(means)


def test_one_set_of_weights_has_six_bitrates(codec: codecvq.Codec) -> None:
    assert codec.codebook_sizes == (1000,) * 6
    assert codec.bitrate / 6 == pytest.approx(498.3, abs=0.1)
    wav = 0.1 * torch.randn(1, 1, 3000, generator=torch.Generator().manual_seed(0))
    codes = codec.encode(wav)
    for depth in range(1, 7):
        assert torch.equal(codec.encode(wav, num_codebooks=depth), codes[:, :depth])


#: clip -> sha256 of its codes (int64), mean square of its decoded samples (2026-11-27)
REFERENCE = {
    "asterisk/allison_smith/conf-getpin": ("b5bc87aaf470881f53b92c09bc99bf99", 0.0192261320),
    "asterisk/allison_smith/vm-helpexit": ("13790b09054046fb1dc41d2ad6a21317", 0.0144222183),
    "asterisk/allison_smith_es/priv-introsaved": ("3d98285ceecaf2e51d1d0949aad5f367", 0.0091733551),
}


def test_codes_and_samples_equal_the_reference(codec: codecvq.Codec) -> None:
    for clip in open_corpus("prompts").split("test").clips:
        if clip.id not in REFERENCE:
            continue
        digest, power = REFERENCE[clip.id]
        wav = torch.from_numpy(clip.read(16000))[None, None]
        codes = codec.encode(wav)
        assert hashlib.sha256(codes.numpy().tobytes()).hexdigest()[:32] == digest, clip.id
        decoded = codec.decode(codes, num_samples=wav.shape[2])
        assert decoded.square().mean().item() == pytest.approx(power, rel=1e-4)  # depends on the processor
