"""Decoders with a source decode block by block: samples equal those of the whole recording."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from voices import RATE, glide, voice

from codecvq.codec import Codec, load

NETWORK = {
    "name": "spectral", "hop_length": 320, "encoder_width": 16, "encoder_blocks": 1, "decoder_width": 16,
    "decoder_blocks": 1, "num_mels": 20, "dim": 12, "phase": "source", "synthesis_hop_length": 160,
}  # fmt: skip
QUANTIZER = {"name": "grouped_fsq", "num_codebooks": 3, "levels": [8, 5, 5, 5], "dropout": 0.5}
NETWORKS: dict[str, dict[str, Any]] = {
    "coded pitch": {"pitch_channels": [5, 6, 7]},
    "predicted pitch": {},
    "refiner": {"pitch_channels": [5, 6, 9], "refiner_width": 8, "refiner_blocks": 2},
    "one synthesis frame": {"pitch_channels": [5, 6, 7], "synthesis_hop_length": 320},
}


@cache
def codec(network: str) -> Codec:
    torch.manual_seed(0)
    made = Codec(sample_rate=RATE, network={**NETWORK, **NETWORKS[network]}, quantizer=QUANTIZER).eval()
    with torch.no_grad():
        made.decoder.pitch.bias[0] = 0.1  # about half of the frames are voiced
        if made.decoder.refiner is not None:
            torch.nn.init.normal_(made.decoder.refiner.head.weight, std=0.05)
    return made


@cache
def whole(network: str, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of a voice with pauses, and their audio."""
    sung = voice(glide(120, 240, 0.8))
    wav = torch.cat([sung, torch.zeros(1, 1, 4000), sung.flip(2)], dim=2)
    codes = codec(network).encode(wav, num_codebooks=depth)
    return codes, codec(network).decode(codes)


def decoded(model: Codec, codes: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Audio of codes that are pushed in blocks of these sizes, and the rest."""
    stream = model.stream_decoder()
    used = [size for n, size in enumerate(sizes) if sum(sizes[: n + 1]) <= codes.shape[2]]
    blocks = codes.split([*used, codes.shape[2] - sum(used)], dim=2)
    return torch.cat([*(stream.push(block) for block in blocks), stream.flush()], dim=2)


@pytest.mark.parametrize("network", NETWORKS)
@given(sizes=st.lists(st.integers(0, 40), max_size=12), depth=st.sampled_from([1, 2, 3]))
@settings(max_examples=10, deadline=None)
def test_any_partition_has_the_samples_of_the_whole(network: str, sizes: list[int], depth: int) -> None:
    codes, expected = whole(network, depth)
    torch.testing.assert_close(decoded(codec(network), codes, sizes), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 17])
def test_short_recordings_have_the_samples_of_the_whole(frames: int) -> None:
    codes = whole("coded pitch", 3)[0][:, :, 30 : 30 + frames]
    model = codec("coded pitch")
    torch.testing.assert_close(decoded(model, codes, [1] * frames), model.decode(codes), atol=1e-5, rtol=0)


def test_streams_of_a_batch_are_independent() -> None:
    """Three streams with the same blocks, one that starts later, and one that ends earlier."""
    codes, expected = whole("coded pitch", 3)
    model, count = codec("coded pitch"), codes.shape[2]
    stream, outputs = model.stream_decoder(batch=3), [[], [], []]

    def collect(audio: torch.Tensor) -> None:
        for output, row, length in zip(outputs, audio, stream.output_lengths.tolist(), strict=True):
            output.append(row[:, :length])

    for start in range(0, count, 25):
        block = codes[:, :, start : start + 25].repeat(3, 1, 1)
        size = block.shape[2]
        collect(stream.push(block, torch.tensor([size, size if start else 0, size if start < 50 else 0])))
        if start == 25:
            collect(stream.flush([2]))
    collect(stream.flush([0, 1]))
    recordings = expected, model.decode(codes[:, :, 25:]), model.decode(codes[:, :, :50])
    for row, audio in zip(outputs, recordings, strict=True):
        torch.testing.assert_close(torch.cat(row, dim=1), audio[0], atol=1e-5, rtol=0)


def test_the_phase_of_the_bundled_codec_continues() -> None:
    model = load("speech-16k")
    codes = model.encode(voice(glide(110, 200, 4.0)))
    torch.testing.assert_close(decoded(model, codes, [37, 60]), model.decode(codes), atol=1e-5, rtol=0)
