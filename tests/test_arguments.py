"""Arguments of `encode` and `decode`: every integer type is accepted, and invalid values raise an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from codecvq import build_quantizer
from codecvq.arguments import INTEGERS
from codecvq.codec import Codec
from codecvq.errors import ShapeError

HOP = 80


@pytest.fixture(scope="module")
def codec() -> Codec:
    torch.manual_seed(0)
    network = {
        "name": "spectral", "hop_length": HOP, "window_length": 320, "num_mels": 20, "dim": 8,
        "encoder_width": 16, "encoder_blocks": 1, "decoder_width": 16, "decoder_blocks": 1,
    }  # fmt: skip
    quantizer = {"name": "residual_vq", "num_codebooks": 3, "codebook_size": 1000}
    return Codec(sample_rate=8000, network=network, quantizer=quantizer).eval()


def wav(batch: int = 2, samples: int = 800) -> torch.Tensor:
    return 0.1 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_codes_of_every_integer_type_decode_to_the_same_audio(codec: Codec, dtype: torch.dtype) -> None:
    codes = codec.encode(wav()) % 128  # fits into int8
    assert torch.equal(codec.decode(codes.to(dtype)), codec.decode(codes))
    assert torch.equal(codec.quantizer.decode(codes.to(dtype)), codec.quantizer.decode(codes))


def test_uint16_codes_of_a_dataset_decode(codec: Codec) -> None:
    codes = codec.encode(wav())
    row = codes[0].numpy().astype(np.uint16)
    assert torch.equal(codec.decode(torch.from_numpy(row)[None]), codec.decode(codes[:1]))


@pytest.mark.parametrize("size", [256, 1 << 16])
def test_a_codebook_size_never_overflows_the_type_of_the_codes(size: int) -> None:
    quantizer = build_quantizer("vq", dim=4, codebook_size=size).eval()
    codes = torch.tensor([[[0, size - 1]]])
    dtype = torch.uint8 if size == 256 else torch.uint16
    assert torch.equal(quantizer.decode(codes.to(dtype)), quantizer.decode(codes))


@pytest.mark.parametrize(
    "codes",
    [
        torch.zeros(1, 3, 4),
        torch.zeros(1, 3, 4, dtype=torch.bool),
        torch.zeros(1, 3, 4, dtype=torch.complex64),
        torch.zeros(3, 4, dtype=torch.int64),
        torch.zeros(1, 4, 4, dtype=torch.int64),
        torch.zeros(1, 0, 4, dtype=torch.int64),
        torch.full((1, 3, 4), -1),
        torch.full((1, 3, 4), 1000),
        torch.full((1, 3, 4), -1, dtype=torch.int8),
        torch.full((1, 3, 4), 2**63, dtype=torch.uint64),
        np.zeros((1, 3, 4), dtype=np.int64),
        [[[0]]],
        None,
    ],
    ids=lambda codes: f"{getattr(codes, 'dtype', type(codes).__name__)} {tuple(getattr(codes, 'shape', ()))}",
)
def test_invalid_codes_raise_an_error(codec: Codec, codes: Any) -> None:
    with pytest.raises(ShapeError, match="code"):
        codec.decode(codes)
    with pytest.raises(ShapeError, match="code"):
        codec.quantizer.decode(codes)


WRONG_LENGTHS = [
    torch.tensor([1.0, 0.6]),
    torch.tensor([800.0]),
    torch.tensor([800]),
    torch.tensor([800, -3]),
    torch.tensor([800, 801]),
    torch.tensor([[800, 800]]),
    torch.tensor([True, False]),
    [800, 800],
    800,
]


@pytest.mark.parametrize("lengths", WRONG_LENGTHS, ids=str)
def test_invalid_lengths_raise_an_error(codec: Codec, lengths: Any) -> None:
    audio = wav()
    codes = codec.encode(audio)
    with pytest.raises(ShapeError, match="lengths"):
        codec.encode(audio, lengths=lengths)
    with pytest.raises(ShapeError, match="lengths"):
        codec.decode(codes, lengths=lengths)
    with pytest.raises(ShapeError, match="lengths"):
        codec.encode(audio, sample_rate=16000, lengths=lengths)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_lengths_of_every_integer_type_give_the_same_codes(codec: Codec, dtype: torch.dtype) -> None:
    audio, lengths = wav(), torch.tensor([127, 80])
    assert torch.equal(codec.encode(audio, lengths=lengths.to(dtype)), codec.encode(audio, lengths=lengths))


@pytest.mark.parametrize("num_samples", [-1, 801, 1.5, 800.0, True, "800", torch.tensor([1, 2])], ids=str)
def test_an_invalid_number_of_samples_raises_an_error(codec: Codec, num_samples: Any) -> None:
    with pytest.raises(ShapeError, match="num_samples"):
        codec.decode(codec.encode(wav()), num_samples=num_samples)


@pytest.mark.parametrize(
    "num_samples", [799, np.int64(799), torch.tensor(799)], ids=lambda n: type(n).__name__
)
def test_the_number_of_samples_may_have_any_integer_type(codec: Codec, num_samples: Any) -> None:
    assert codec.decode(codec.encode(wav()), num_samples=num_samples).shape[2] == 799


@pytest.mark.parametrize("num_codebooks", [0, -1, 4, 1.5, True, "2"], ids=str)
def test_an_invalid_number_of_codebooks_raises_an_error(codec: Codec, num_codebooks: Any) -> None:
    with pytest.raises(ShapeError, match="num_codebooks"):
        codec.encode(wav(), num_codebooks=num_codebooks)


@pytest.mark.parametrize("sample_rate", [0, -8000, 8000.5, True, "8000", float("nan"), 1, 10**9], ids=str)
def test_an_invalid_sample_rate_raises_an_error(codec: Codec, sample_rate: Any) -> None:
    with pytest.raises(ShapeError, match="sample_rate"):
        codec.encode(wav(), sample_rate=sample_rate)


@pytest.mark.parametrize(
    "audio",
    [np.zeros((1, 1, 80), dtype=np.float32), [[[0.0]]], None, torch.zeros(1, 1, 80, dtype=torch.complex64)],
    ids=lambda audio: type(audio).__name__,
)
def test_invalid_audio_raises_an_error(codec: Codec, audio: Any) -> None:
    with pytest.raises(ShapeError, match="wav is"):
        codec.encode(audio)
