"""Streams: codes and samples of blocks equal those of whole recordings, for every network and quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_codecs import LevelCodec
from torch import Tensor
from torch.nn import functional as F

from codecvq.codec import Codec
from codecvq.errors import CodecvqError, NonFiniteError, ShapeError, StreamingError
from codecvq.quantizer import Reach, SequenceQuantizer
from codecvq.streaming import StreamState

RATE = 16_000
SMALL = {"encoder_width": 32, "encoder_blocks": 2, "decoder_width": 32, "decoder_blocks": 2, "num_mels": 40}
SPECTRAL = {"name": "spectral", "hop_length": 160, "window_length": 640, "dim": 16, **SMALL}
SEANET = {"name": "seanet", "preset": "tiny", "filters": 4, "ratios": [5, 4, 4, 2], "dim": 16}
NETWORKS: dict[str, dict[str, Any]] = {
    "spectral": SPECTRAL,
    "causal": {**SPECTRAL, "causal": True},
    "causal, lookahead": {**SPECTRAL, "causal": True, "lookahead_frames": 2, "detail_window_length": 256},
    "causal, stft": {**SPECTRAL, "causal": True, "features": "stft"},
    "retrieved": {**SPECTRAL, "phase": "retrieved", "phase_iterations": 2, "synthesis_hop_length": 80},
    "seanet": SEANET,
    "seanet, causal": {**SEANET, "causal": True},
    "seanet, recurrent": {**SEANET, "lstm_layers": 1},
    "seanet, causal and recurrent": {**SEANET, "causal": True, "lstm_layers": 2, "norm": "none"},
}
QUANTIZERS: dict[str, dict[str, Any]] = {
    "fsq": {"name": "fsq", "levels": [5, 5, 5]},
    "residual": {"name": "residual_vq", "num_codebooks": 3, "codebook_size": 32},
    "grouped residual": {
        "name": "grouped_residual_fsq", "num_groups": 2, "num_codebooks": 2, "levels": [5, 5],
    },
    "multiscale": {"name": "multiscale_vq", "codebook_size": 32, "strides": [4, 2, 1]},
    "uneven strides": {"name": "multiscale_vq", "codebook_size": 32, "strides": [3, 2]},
    "split": {
        "name": "split", "semantic": {"name": "vq", "codebook_size": 32},
        "acoustic": {"name": "multiscale_vq", "codebook_size": 32, "strides": [2, 1]},
    },
    "lookup-free": {"name": "lfq", "bits": 6},
    "simvq": {"name": "residual_simvq", "num_codebooks": 2, "codebook_size": 32},
}  # fmt: skip


@cache
def codec(network: str, quantizer: str = "residual") -> Codec:
    torch.manual_seed(0)
    return Codec(sample_rate=RATE, network=NETWORKS[network], quantizer=QUANTIZERS[quantizer]).eval()


def speech(seconds: float, batch: int = 1, seed: int = 0) -> Tensor:
    """Noise with the level of speech, whose loudness varies."""
    generator = torch.Generator().manual_seed(seed)
    samples = round(seconds * RATE)
    envelope = F.interpolate(torch.rand(batch, 1, 20, generator=generator), samples, mode="linear")
    return 0.2 * envelope * torch.randn(batch, 1, samples, generator=generator)


def parts(whole: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Cut the last axis into blocks of these sizes, and the rest."""
    used = [size for size in sizes if size <= whole.shape[2]]
    while sum(used) > whole.shape[2]:
        used.pop()
    return list(whole.split([*used, whole.shape[2] - sum(used)], dim=2))


def encoded(model: Any, blocks: Sequence[Tensor], **options: Any) -> Tensor:
    stream = model.stream_encoder(len(blocks[0]), **options)
    return torch.cat([*(stream.push(block) for block in blocks), stream.flush()], dim=2)


def decoded(model: Any, blocks: Sequence[Tensor]) -> Tensor:
    stream = model.stream_decoder(len(blocks[0]))
    return torch.cat([*(stream.push(block) for block in blocks), stream.flush()], dim=2)


@cache
def whole(network: str, quantizer: str, seconds: float) -> tuple[Tensor, Tensor, Tensor]:
    """Audio, codes and decoded audio of a whole recording."""
    model, wav = codec(network, quantizer), speech(seconds)
    codes = model.encode(wav)
    return wav, codes, model.decode(codes)


def expect_equals_whole(
    network: str, quantizer: str, seconds: float, samples: Sequence[int], frames: Sequence[int]
) -> None:
    model = codec(network, quantizer)
    wav, codes, audio = whole(network, quantizer, seconds)
    assert torch.equal(encoded(model, parts(wav, samples)), codes)
    torch.testing.assert_close(decoded(model, parts(codes, frames)), audio, atol=1e-5, rtol=0)


COMBINATIONS = [
    pytest.param(
        network, quantizer, marks=() if quantizer == "residual" or network == "causal" else pytest.mark.slow
    )
    for network in NETWORKS
    for quantizer in QUANTIZERS
]


@pytest.mark.parametrize(("network", "quantizer"), COMBINATIONS)
def test_blocks_equal_the_whole(network: str, quantizer: str) -> None:
    expect_equals_whole(network, quantizer, 0.41, [1, 7, 160, 1000, 33, 2048, 0], [1, 2, 0, 5, 11])


@pytest.mark.parametrize("network", NETWORKS)
@settings(max_examples=5, deadline=None)
@given(
    samples=st.lists(st.integers(0, 3000)),
    frames=st.lists(st.integers(0, 20)),
    pick=st.sampled_from(list(QUANTIZERS)),
)
def test_any_partition_equals_the_whole(
    network: str, samples: list[int], frames: list[int], pick: str
) -> None:
    expect_equals_whole(network, pick, 0.55, samples, frames)


@pytest.mark.parametrize("network", ["spectral", "causal, lookahead", "seanet, causal"])
def test_single_samples_and_frames_equal_the_whole(network: str) -> None:
    expect_equals_whole(network, "residual", 0.0231, [1] * 5000, [1] * 100)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_length_up_to_three_hops(network: str) -> None:
    model = codec(network)
    wav = speech(0.2)
    for samples in [0, 1, 159, 160, 161, 320, 481]:
        part = wav[:, :, :samples]
        codes = model.encode(part)
        assert torch.equal(encoded(model, part.split(100, dim=2)), codes)
        audio = decoded(model, codes.split(1, dim=2) if samples else [codes])
        torch.testing.assert_close(audio, model.decode(codes), atol=1e-5, rtol=0)


@pytest.mark.parametrize("network", ["causal", "seanet, causal", "spectral"])
def test_the_first_codebooks_alone(network: str) -> None:
    model = codec(network)
    wav, codes, _ = whole(network, "residual", 0.7)
    first = encoded(model, wav.split(777, dim=2), num_codebooks=2)
    assert torch.equal(first, codes[:, :2])
    torch.testing.assert_close(decoded(model, first.split(3, dim=2)), model.decode(first), atol=1e-5, rtol=0)


class Neighbors(SequenceQuantizer):
    """Rounds means over four neighboring frames. Decoding adds half of the next frame."""

    reach = Reach(2, 1)

    def __init__(self, dim: int) -> None:
        super().__init__(dim, [64])

    def quantize_items(self, latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        padded = F.pad(latents[:, :1] * mask[:, None], (2, 1))
        means = padded.unfold(2, 4, 1).mean(dim=3)
        codes = ((means.tanh() + 1) * 31.5).round().long()
        return self.dequantize_items(codes, mask), codes

    def dequantize_items(self, codes: Tensor, mask: Tensor) -> Tensor:
        values = torch.atanh((codes / 31.5 - 1) * 0.99) * mask[:, None]
        return (values + 0.5 * F.pad(values, (0, 1))[:, :, 1:]).expand(-1, self.dim, -1)


@pytest.mark.parametrize("network", ["spectral", "causal", "seanet, causal"])
def test_a_quantizer_over_neighboring_frames(network: str) -> None:
    torch.manual_seed(0)
    model = Codec(sample_rate=RATE, network=NETWORKS[network], quantizer=QUANTIZERS["fsq"]).eval()
    model.quantizer = Neighbors(16)
    wav = 3 * speech(0.6)
    codes = model.encode(wav)
    assert codes.unique().numel() > 3
    assert torch.equal(encoded(model, parts(wav, [1, 500, 3, 2222])), codes)
    audio = decoded(model, parts(codes, [1, 4, 1, 9]))
    torch.testing.assert_close(audio, model.decode(codes), atol=1e-5, rtol=0)


@pytest.mark.parametrize("network", ["spectral", "causal, lookahead", "seanet, causal"])
def test_streams_join_and_leave_a_batch_without_effect_on_the_others(network: str) -> None:
    model, generator = codec(network, "multiscale"), torch.Generator().manual_seed(5)
    batch, steps = 8, 20
    recordings: list[list[Tensor]] = [[] for _ in range(batch)]  # finished blocks of the current recording
    outputs: list[list[Tensor]] = [[] for _ in range(batch)]
    compared = 0
    stream = model.stream_encoder(batch)

    def collect(codes: Tensor) -> None:
        for own, row, count in zip(outputs, codes, stream.output_lengths.tolist(), strict=True):
            own.append(row[None, :, :count])
            assert not row[:, count:].any()

    for step in range(steps):
        samples = speech(0.1, batch, seed=step)
        lengths = torch.randint(0, samples.shape[2] + 1, (batch,), generator=generator)
        lengths[torch.rand(batch, generator=generator) < 0.4] = 0
        collect(stream.push(samples, lengths))
        for own, row, count in zip(recordings, samples, lengths.tolist(), strict=True):
            own.append(row[None, :, :count])
        if step % 5 == 4:
            ending = torch.randperm(batch, generator=generator)[:3].tolist()
            collect(stream.flush(ending))
            for index in ending:
                expected = model.encode(torch.cat(recordings[index], dim=2))
                assert torch.equal(torch.cat(outputs[index], dim=2), expected)
                compared += expected.shape[2]
                recordings[index], outputs[index] = [], []
            stream.reset([0])
            recordings[0], outputs[0] = [], []
    assert compared > 200


@pytest.mark.parametrize("network", ["causal", "seanet, recurrent"])
def test_streams_of_a_decoder_are_independent(network: str) -> None:
    model = codec(network)
    codes = model.encode(speech(0.5, batch=3))
    stream = model.stream_decoder(3)
    outputs: list[list[Tensor]] = [[], [], []]
    for position in range(0, codes.shape[2], 5):
        block = codes[:, :, position : position + 5]
        counts = torch.tensor([block.shape[2], block.shape[2], 0])
        audio = stream.push(block, counts)
        for own, row, count in zip(outputs, audio, stream.output_lengths.tolist(), strict=True):
            own.append(row[None, :, :count])
    for index, row in enumerate(stream.flush([0, 1])):
        outputs[index].append(row[None, :, : int(stream.output_lengths[index])])
    for index in (0, 1):
        expected = model.decode(codes[index : index + 1])
        torch.testing.assert_close(torch.cat(outputs[index], dim=2), expected, atol=1e-5, rtol=0)
    assert not torch.cat(outputs[2], dim=2).numel()


@pytest.mark.parametrize("network", ["spectral", "causal, lookahead", "seanet, causal and recurrent"])
def test_a_state_can_be_copied_saved_and_restored(network: str, tmp_path: Path) -> None:
    model = codec(network, "multiscale")
    wav, codes, _ = whole(network, "multiscale", 0.7)
    stream = model.stream_encoder()
    start = stream.push(wav[:, :, :5001])
    copy = stream.state.clone()
    safetensors.torch.save_file(copy.to("cpu").state_dict(), tmp_path / "state.safetensors")
    stream.push(speech(0.3, seed=9))  # another continuation
    for state in (
        copy,
        StreamState.from_state_dict(safetensors.torch.load_file(tmp_path / "state.safetensors")),
    ):
        other = model.stream_encoder()
        other.state = state
        rest = [other.push(wav[:, :, 5001:]), other.flush()]
        assert torch.equal(torch.cat([start, *rest], dim=2), codes)


def test_a_state_of_other_streams_is_an_error() -> None:
    stream = codec("causal").stream_encoder(2)
    with pytest.raises(ShapeError, match=r"the state has 1 streams, and this object 2"):
        stream.state = codec("causal").stream_encoder(1).state
    with pytest.raises(ShapeError, match=r"the state has the streams \['a'\]"):
        StreamState.from_state_dict({"a.b": torch.zeros(1, 1)})


@pytest.mark.parametrize("quantizer", ["fsq", "multiscale"])
@pytest.mark.parametrize("network", NETWORKS)
def test_latency_is_what_a_changed_sample_shows(network: str, quantizer: str) -> None:
    """The latency is the greatest distance from a changed sample back to the first output that changes.

    Samples at the end of a long lookahead have hardly any weight, so that it may seem shorter.
    """
    model = codec(network, quantizer)
    latency = model.latency_samples
    assert latency is not None
    assert model.latency_ms == 1000 * latency / RATE
    hop, block = model.hop_length, max(model.strides)
    start = (-(-latency // hop) // block + 1) * block  # a frame
    wav = speech((start + latency // hop + 2 * block) // block * block * hop / RATE)

    def audio(given: Tensor) -> Tensor:
        """Decoded audio of values before rounding, so that each change is visible."""
        latents = model.encode_latents(given)
        for stride in model.quantizer.strides:
            means = latents.unflatten(2, (-1, stride)).mean(dim=3)
            latents = latents + means.repeat_interleave(stride, dim=2)
        return model.decode_latents(latents)

    unchanged, distances = audio(wav), []
    for frame in range(start, start + block):
        sample = frame * hop + latency - 1
        changed = wav.clone()
        changed[0, 0, sample] += 1.0
        first = int((audio(changed) != unchanged)[0, 0].nonzero()[0])
        distances.append(sample - first + 1)
    assert max(distances) <= latency
    least = latency - 0.1 * hop if "causal" in network else 0.8 * latency
    assert max(distances) > least, "the latency is larger than necessary"


def test_blocks_are_returned_as_soon_as_they_are_determined() -> None:
    for network, lookahead in {"causal": 0, "causal, lookahead": 320, "seanet, causal": 0}.items():
        stream = codec(network).stream_encoder()
        stream.push(speech(0.1)[:, :, : 5 * 160 + lookahead - 1])
        assert stream.push(speech(0.1)[:, :, :1]).shape[2] == 1, network


def test_a_failed_push_changes_nothing() -> None:
    model = codec("causal")
    wav, codes, _ = whole("causal", "residual", 0.7)
    stream = model.stream_encoder()
    outputs = [stream.push(wav[:, :, :3000])]
    bad = wav[:, :, 3000:4000].clone()
    bad[0, 0, 10] = torch.nan
    for wrong, error in ((bad, NonFiniteError), (wav[0], ShapeError), (wav.expand(2, -1, -1), ShapeError)):
        with pytest.raises(error):
            stream.push(wrong)
    outputs += [stream.push(wav[:, :, 3000:]), stream.flush()]
    assert torch.equal(torch.cat(outputs, dim=2), codes)


def test_wrong_arguments_are_errors() -> None:
    model = codec("causal")
    for batch in (0, -1, 1.5):
        with pytest.raises(ShapeError, match=r"batch is"):
            model.stream_encoder(batch)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"num_codebooks is 4, but codec 'codec' has 3"):
        model.stream_encoder(num_codebooks=4)
    with pytest.raises(ShapeError, match=r"items contains 1; the streams have the indices 0 to 0"):
        model.stream_encoder().flush([1])
    with pytest.raises(ShapeError):
        model.stream_decoder().push(torch.full((1, 3, 2), 32))
    decoder = model.stream_decoder()
    with pytest.raises(CodecvqError, match=r"num_codebooks is 4; give 1 to 3"):
        decoder.push(torch.zeros(1, 4, 2, dtype=torch.int64))


class Running(Neighbors):
    reach = Reach(None, 0)


def test_unlimited_context_without_state_is_an_error_with_the_reason() -> None:
    model = Codec(sample_rate=RATE, network=NETWORKS["causal"], quantizer=QUANTIZERS["fsq"]).eval()
    model.quantizer = Running(16)
    with pytest.raises(StreamingError, match=r"a frame of quantizer Running depends on all earlier frames"):
        model.stream_encoder()
    with pytest.raises(StreamingError, match=r"Use a quantizer with a finite reach"):
        model.stream_decoder()


class WindowedCodec(LevelCodec):
    """A wrapped codec that declares its reach."""

    encoder_reach = decoder_reach = Reach(0, 0)


def test_wrapped_codecs_stream_if_they_declare_their_reach() -> None:
    wav = speech(0.31)
    for strides in ([1, 1], [4, 2]):
        model = WindowedCodec(strides=strides)
        codes = model.encode(wav)
        assert torch.equal(encoded(model, wav.split(123, dim=2)), codes)
        assert torch.equal(decoded(model, codes.split(4, dim=2)), model.decode(codes))
        assert model.latency_samples == max(strides) * model.hop_length
    with pytest.raises(StreamingError, match=r"codec 'level' declares no encoder_reach"):
        LevelCodec().stream_encoder()
    assert LevelCodec().latency_ms is None


@pytest.mark.slow
@pytest.mark.parametrize("network", ["causal, lookahead", "spectral", "seanet, causal"])
def test_a_long_recording_in_blocks_equals_the_whole(network: str) -> None:
    """The last ten seconds are in blocks of 20 ms."""
    model = codec(network)
    minute = torch.cat([speech(20, seed=seed) for seed in range(3)], dim=2)
    minutes = 15 if "seanet" in network else 60  # memory of the whole
    wav = minute.repeat(1, 1, minutes)[:, :, :-77]
    codes, live = model.encode(wav), 10 * RATE
    stream, start, differing = model.stream_encoder(), 0, 0
    for block in [*wav[:, :, :-live].split(7 * RATE + 13, dim=2), *wav[:, :, -live:].split(320, dim=2)]:
        new = stream.push(block)
        differing += int((new != codes[:, :, start : start + new.shape[2]]).sum())
        start += new.shape[2]
    rest = stream.flush()
    assert start + rest.shape[2] == codes.shape[2]
    assert differing + int((rest != codes[:, :, start:]).sum()) == 0
