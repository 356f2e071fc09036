"""Lost frames of a stream: exact timing, smooth fades, whole blocks, independence of the division."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_codecs import LevelCodec
from test_streams import QUANTIZERS, codec, speech, whole
from torch import Tensor

from codecvq.codec.concealment import FADE_IN_S, FADES
from codecvq.codec.lossy import decode_with_loss
from codecvq.errors import CodecError, ShapeError
from codecvq.quantizer import Reach
from codecvq.streaming import StreamState

HOP, RATE = 160, 16_000
FADE_IN = round(FADE_IN_S * RATE)


def received(model: Any, codes: Tensor, lost: Sequence[bool], most: int = 1000) -> Tensor:
    """Decode codes `[1, N, T]` without the lost frames, in blocks of at most `most` frames."""
    stream, outputs, at = model.stream_decoder(), [], 0
    for is_lost, run in groupby(lost):
        rest = len(list(run))
        while rest:
            frames = min(rest, most)
            outputs.append(stream.lost(frames) if is_lost else stream.push(codes[:, :, at : at + frames]))
            at, rest = at + frames, rest - frames
    return torch.cat([*outputs, stream.flush()], dim=2)


PATTERNS = st.lists(st.booleans(), max_size=40)


@pytest.mark.parametrize("network", ["spectral", "causal", "causal, lookahead", "seanet, causal"])
@settings(max_examples=15, deadline=None)
@given(lost=PATTERNS, most=st.integers(1, 5), pick=st.sampled_from(list(QUANTIZERS)))
def test_any_pattern_has_exact_timing_and_does_not_depend_on_blocks(
    network: str, lost: list[bool], most: int, pick: str
) -> None:
    model = codec(network, pick)
    codes = whole(network, pick, 0.41)[1][:, :, :40]
    audio = received(model, codes, lost)
    assert audio.shape == (1, 1, HOP * len(lost))
    assert audio.isfinite().all()
    torch.testing.assert_close(received(model, codes, lost, most), audio, atol=1e-5, rtol=0)


@pytest.mark.parametrize("network", ["spectral", "causal"])
def test_nothing_lost_equals_the_whole(network: str) -> None:
    model = codec(network)
    _, codes, audio = whole(network, "residual", 0.41)
    stream = model.stream_decoder()
    outputs = [stream.lost(0), stream.push(codes), stream.lost(0), stream.flush()]
    torch.testing.assert_close(torch.cat(outputs, dim=2), audio, atol=1e-5, rtol=0)


class Steady(LevelCodec):
    """Decodes every code to 1, so that the audio is the gain."""

    encoder_reach = decoder_reach = Reach(0, 0)

    def decode_frames(self, codes: Tensor) -> Tensor:
        return torch.ones(len(codes), 1, codes.shape[2] * self.hop_length)


@pytest.mark.parametrize("strides", [[1, 1], [4, 2]])
def test_lost_frames_fade_out_and_in(strides: list[int]) -> None:
    model = Steady(strides=strides)
    hop = model.hop_length
    fade_in = round(FADE_IN_S * model.sample_rate)
    frames = 4 * FADES * fade_in // hop
    lost = [frames // 4 <= t < frames // 2 or t in (2, frames - 2) for t in range(frames)]
    gain = received(model, torch.zeros(1, 2, frames, dtype=torch.int64), lost)[0, 0]
    assert gain[: 2 * hop].eq(1).all()
    steps = gain.diff().double()
    assert steps.max() <= 1 / fade_in + 1e-6
    assert -steps.min() <= 1 / (FADES * fade_in) + 1e-6
    inside = gain.reshape(-1, hop)[torch.tensor(lost)]
    assert (inside.diff(dim=1) <= 0).all(), "lost frames only fade out"
    outside = gain.reshape(-1, hop)[~torch.tensor(lost)]
    assert (outside.diff(dim=1) >= 0).all(), "received frames only fade in"
    start = frames // 4 * hop
    assert gain[start + FADES * fade_in - 1 : frames // 2 * hop].eq(0).all()
    assert gain[frames // 2 * hop + fade_in - 1] == 1


@pytest.mark.parametrize("network", ["causal", "spectral"])
def test_loss_causes_no_clicks(network: str) -> None:
    model = codec(network)
    _, codes, audio = whole(network, "residual", 0.41)
    lost = [t % 7 in (3, 4) for t in range(codes.shape[2])]
    concealed = received(model, codes, lost)
    assert concealed.diff().abs().max() <= 1.5 * audio.diff().abs().max()


def test_loss_before_the_first_frame_is_silent_and_blocks_stay_aligned() -> None:
    for pick in ("residual", "multiscale", "uneven strides"):
        model = codec("causal", pick)
        codes = whole("causal", pick, 0.41)[1]
        for lost in range(8):
            stream = model.stream_decoder()
            start = torch.cat([stream.lost(1) for _ in range(lost)] or [stream.lost(0)], dim=2)
            assert start.shape[2] == lost * HOP
            assert not start.any()
            rest = torch.cat([stream.push(codes[:, :, lost:]), stream.flush()], dim=2)
            assert rest.shape[2] == (codes.shape[2] - lost) * HOP
            assert rest[:, :, :FADE_IN].abs().max() <= rest.abs().max()
            assert rest[0, 0, 0].abs() <= 0.05 * rest.abs().max()


def test_fewer_codebooks_and_a_recording_that_is_lost_as_a_whole() -> None:
    model = codec("causal")
    codes = whole("causal", "residual", 0.41)[1][:, :2]
    stream = model.stream_decoder()
    outputs = [stream.lost(2), stream.push(codes[:, :, 2:5]), stream.lost(1), stream.push(codes[:, :, 6:])]
    assert torch.cat([*outputs, stream.flush()], dim=2).shape[2] == codes.shape[2] * HOP
    assert not stream.lost(3).any()
    assert not stream.flush().shape[2]
    torch.testing.assert_close(
        torch.cat([stream.push(codes), stream.flush()], dim=2), model.decode(codes), atol=1e-5, rtol=0
    )


def test_streams_of_a_batch_lose_frames_by_themselves() -> None:
    model, frames = codec("causal", "multiscale"), 40
    codes = torch.cat([whole("causal", "multiscale", 0.41)[1][:, :, :frames]] * 2)
    codes[1] = codes[1].roll(12, dims=1)
    stream = model.stream_decoder(3)
    patterns = [[t % 5 == 3 for t in range(frames)], [t in (0, 1, 17, 18, 19) for t in range(frames)]]
    outputs: list[list[Tensor]] = [[], [], []]

    def collect(audio: Tensor) -> None:
        for own, row, count in zip(outputs, audio, stream.output_lengths.tolist(), strict=True):
            own.append(row[None, :, :count])

    for t in range(frames):
        missing = [index for index in range(2) if patterns[index][t]]
        lengths = torch.tensor([*(int(index not in missing) for index in range(2)), 0])
        collect(stream.push(codes[[0, 1, 0], :, t : t + 1], lengths))
        collect(stream.lost(1, missing))
    collect(stream.flush())
    for index, lost in enumerate(patterns):
        expected = received(model, codes[index : index + 1], lost)
        torch.testing.assert_close(torch.cat(outputs[index], dim=2), expected, atol=1e-5, rtol=0)
    assert not torch.cat(outputs[2], dim=2).numel()


def test_a_state_during_a_loss_can_be_saved() -> None:
    model = codec("causal, lookahead", "multiscale")
    codes = whole("causal, lookahead", "multiscale", 0.41)[1]
    stream = model.stream_decoder()
    stream.push(codes[:, :, :9])
    stream.lost(2)
    copies = [stream.state.clone(), StreamState.from_state_dict(stream.state.state_dict())]
    expected = torch.cat([stream.push(codes[:, :, 11:]), stream.flush()], dim=2)
    for state in copies:
        other = model.stream_decoder()
        other.state = state
        assert torch.equal(torch.cat([other.push(codes[:, :, 11:]), other.flush()], dim=2), expected)


def test_a_codec_can_define_the_concealment() -> None:
    calls: list[tuple[int, int]] = []

    class Ramp(Steady):
        def conceal(self, codes: Tensor, frames: int) -> Tensor:
            calls.append((codes.shape[2], frames))
            return torch.zeros(1, codes.shape[1], frames, dtype=torch.int32)

    class Wrong(Steady):
        def conceal(self, codes: Tensor, frames: int) -> Tensor:
            return torch.zeros(1, 1, frames, dtype=torch.int64)

    stream = Ramp().stream_decoder()
    stream.push(torch.zeros(1, 2, 3, dtype=torch.int64))
    stream.lost(2)
    stream.lost(1)
    assert calls == [(3, 2), (5, 1)]
    stream = Wrong().stream_decoder()
    stream.push(torch.zeros(1, 2, 3, dtype=torch.int64))
    with pytest.raises(
        CodecError, match=r"conceals lost frames with .* \[1, 1, 2\]; needed are integers \[1, 2, 2\]"
    ):
        stream.lost(2)


def test_wrong_arguments_are_errors() -> None:
    stream = codec("causal").stream_decoder()
    for frames in (-1, 1.5, "a"):
        with pytest.raises(ShapeError, match=r"frames is"):
            stream.lost(frames)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"items contains 1"):
        stream.lost(1, [1])
    stream.push(torch.zeros(1, 3, 2, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"codes have 2 codebooks, but the recording began with 3"):
        stream.push(torch.zeros(1, 2, 2, dtype=torch.int64))


@pytest.mark.parametrize("network", ["spectral", "causal, lookahead"])
def test_whole_recordings_with_loss_equal_the_stream(network: str) -> None:
    model = codec(network, "multiscale")
    codes = whole(network, "multiscale", 0.41)[1]
    lost = torch.rand(codes.shape[2], generator=torch.Generator().manual_seed(3)) < 0.3
    audio = decode_with_loss(model, codes, lost)
    assert torch.equal(audio, received(model, codes, lost.tolist()))
    other = torch.where(lost, (codes + 1) % 32, codes)
    assert torch.equal(decode_with_loss(model, other, lost), audio), "codes of lost frames have no effect"
    with pytest.raises(ShapeError, match=r"needed are codes \[1, n, T\] and booleans \[T\]"):
        decode_with_loss(model, codes, lost[1:])


@pytest.mark.parametrize("strides", [[1, 1], [4, 2]])
def test_codecs_that_cannot_stream_conceal_whole_recordings_alike(strides: list[int]) -> None:
    class Streaming(LevelCodec):
        encoder_reach = decoder_reach = Reach(0, 0)

    codes = LevelCodec(strides=strides).encode(speech(0.4))
    for seed in range(4):
        lost = torch.rand(codes.shape[2], generator=torch.Generator().manual_seed(seed)) < 0.3
        expected = decode_with_loss(Streaming(strides=strides), codes, lost)
        assert torch.equal(decode_with_loss(LevelCodec(strides=strides), codes, lost), expected)
