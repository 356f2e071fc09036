"""`encode_latents` and `decode_latents` of a codec."""

from __future__ import annotations

import pytest
import torch
from test_codec import HOP, NETWORKS, make, noise

from codecvq import Codec, load
from codecvq.errors import NonFiniteError, ShapeError


@pytest.fixture(params=NETWORKS)
def codec(request: pytest.FixtureRequest) -> Codec:
    return make(request.param)


@pytest.mark.parametrize("samples", [0, 1, HOP, 5 * HOP + 3])
def test_encode_and_decode_equal_latents_and_quantizer(codec: Codec, samples: int) -> None:
    wav = noise(2, 1, samples)
    latents = codec.encode_latents(wav)
    assert latents.shape == (2, codec.latent_dim, -(-samples // HOP))
    assert latents.dtype == torch.float32
    codes = codec.encode(wav)
    assert torch.equal(codec.quantizer.encode(latents), codes)
    values = codec.quantizer.decode(codes)
    assert torch.equal(codec.decode_latents(values, num_samples=samples), codec.decode(codes, samples))


def test_padding_does_not_change_latents(codec: Codec) -> None:
    batch, length = noise(2, 1, 12 * HOP), 5 * HOP + 3
    lengths = torch.tensor([12 * HOP, length])
    together, alone = (
        codec.encode_latents(batch, lengths=lengths),
        codec.encode_latents(batch[1:, :, :length]),
    )
    torch.testing.assert_close(together[1:, :, : alone.shape[2]], alone, atol=1e-6, rtol=1e-5)
    assert not together[1, :, alone.shape[2] :].any()
    wav = codec.decode_latents(together, lengths=lengths)
    torch.testing.assert_close(wav[1:, :, :length], codec.decode_latents(alone, length), atol=1e-6, rtol=1e-5)
    assert not wav[1, :, length:].any()


def test_latents_are_unquantized_and_decode_without_quantization() -> None:
    codec = load("speech-16k")
    wav = noise(1, 1, 16000)
    latents = codec.encode_latents(wav)
    quantized = codec.quantizer.decode(codec.quantizer.encode(latents))
    assert not torch.allclose(latents, quantized, atol=1e-3)
    assert not torch.allclose(codec.decode_latents(latents), codec.decode_latents(quantized), atol=1e-3)
    at_44k = codec.encode_latents(noise(1, 1, 44100), sample_rate=44100)
    assert at_44k.shape[2] == codec.encode(noise(1, 1, 44100), sample_rate=44100).shape[2]


def test_latents_have_no_gradient_and_stay_in_float32() -> None:
    codec = make("spectral")
    with torch.autocast("cpu", torch.bfloat16):
        inside = codec.encode_latents(noise(1, 1, 800))
    assert torch.equal(inside, codec.encode_latents(noise(1, 1, 800)))
    assert not codec.decode_latents(inside.requires_grad_()).requires_grad


@pytest.mark.parametrize(
    ("latents", "error", "says"),
    [
        (torch.zeros(1, 7, 3), ShapeError, r"\[1, 7, 3\].*D=8"),
        (torch.zeros(8, 3), ShapeError, r"\[8, 3\]"),
        (torch.zeros(1, 8, 3, dtype=torch.int64), ShapeError, "int64"),
        ([[0.0]], ShapeError, "list"),
        (torch.tensor([0.0, float("nan")]).expand(1, 8, 2), NonFiniteError, "item 0 .* index 1"),
    ],
    ids=["dim", "no batch", "integers", "list", "NaN"],
)
def test_invalid_latents_raise_an_error(latents: object, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make("spectral").decode_latents(latents)  # type: ignore[arg-type]


@pytest.mark.parametrize("samples", [-1, 3 * HOP + 1])
def test_a_length_that_the_frames_do_not_cover_is_an_error(samples: int) -> None:
    with pytest.raises(ShapeError, match="num_samples"):
        make("spectral").decode_latents(torch.zeros(1, 8, 3), num_samples=samples)
