"""The causal source-filter network: the current pitch, windows of the source, latency, and streams."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from codecvq_free_speech import bundled
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from voices import HOP, RATE, glide, voice

from codecvq.codec import Codec
from codecvq.networks.interface import AudioWithLosses
from codecvq.networks.spectral.framing import AheadFraming
from codecvq.networks.voice.best_path import best_path
from codecvq.networks.voice.causal_pitch_writer import CausalPitchWriter, forward_scores
from codecvq.networks.voice.causal_source import CausalSource
from codecvq.networks.voice.grid import STEPS, grid_size, hz_of
from codecvq.networks.voice.pitch import PitchTracker
from codecvq.networks.voice.pitch_code import decode
from codecvq.networks.voice.source import noise, pulses_at
from codecvq.streaming import StreamState

WRITER = CausalPitchWriter(RATE, 2 * HOP, 2, 1, 3 * HOP, [0, 1, 2])
NETWORK = {
    "name": "spectral", "causal": True, "lookahead_frames": 1, "phase": "source", "dim": 12,
    "pitch_channels": [5, 6, 9], "synthesis_hop_length": HOP, "detail_window_length": 512,
    "encoder_width": 16, "encoder_blocks": 1, "decoder_width": 24, "decoder_blocks": 2,
}  # fmt: skip
QUANTIZER = {"name": "grouped_fsq", "num_codebooks": 3, "levels": [8, 5, 5, 5], "dropout": 0.5}


@cache
def codec(**changes: Any) -> Codec:
    torch.manual_seed(0)
    return Codec(sample_rate=RATE, network={**NETWORK, **changes}, quantizer=QUANTIZER).eval()


@cache
def speech(clips: int) -> torch.Tensor:
    """Audio `[1, 1, S]` of clips of all speakers, in sequence."""
    every = list(bundled.clips())
    samples = [torch.from_numpy(clip.read(RATE)) for clip in every[:: max(1, len(every) // clips)][:clips]]
    return torch.cat(samples)[None, None]


def written(wav: torch.Tensor) -> torch.Tensor:
    """The written pitch `[B, T]`, as a position of the grid."""
    frames = wav.shape[2] // WRITER.hop_length
    values = WRITER(torch.zeros(len(wav), frames, 3), wav, None).tanh()
    return decode(values)[0]


# Pitch


@pytest.mark.parametrize(("low", "high"), [(80.0, 160.0), (300.0, 150.0)])
def test_the_written_pitch_follows_a_glide(low: float, high: float) -> None:
    hz = glide(low, high, 1.0)
    found = hz_of(written(voice(hz))[0])[3:-2]
    moments = torch.arange(len(found)) * 2 * HOP + 6 * HOP + 400  # middles of the last synthesis windows
    error = (found / hz[moments]).log2().abs() * STEPS
    assert float(error.max()) < (3 if low < 110 or high < 110 else 1)


def test_the_pitch_of_speech_is_that_of_the_offline_tracker() -> None:
    wav = speech(12)
    wav = wav[:, :, : wav.shape[2] // (2 * HOP) * 2 * HOP]
    position = written(wav)[0, :-1]
    pitch = PitchTracker(RATE, HOP).eval()(wav)
    at = torch.arange(len(position)) * 2 + 2  # frames of the tracker in the middle of the last windows
    expected, voiced = pitch.position[0, at], pitch.voiced[0, at]
    steady = voiced & pitch.voiced[0, at - 1]
    distance = (position - expected).abs()
    assert float((distance[voiced] < 2).float().mean()) > 0.9
    assert float((distance[steady] < 2).float().mean()) > 0.94
    assert float((distance[steady] > 8).float().mean()) < 0.03, "octave errors"


def test_unvoiced_frames_hold_the_last_pitch() -> None:
    torch.manual_seed(0)
    tone = voice(torch.full((RATE // 2,), 200.0))
    wav = torch.cat([tone, torch.zeros(1, 1, RATE // 4), 0.001 * torch.randn(1, 1, RATE // 4)], dim=2)
    position = written(wav)[0]
    assert float((position[10:] - position[20]).abs().max()) < 2


def test_forward_scores_rank_the_best_paths() -> None:
    torch.manual_seed(0)
    strengths = torch.rand(2, 9, grid_size() + 1)
    scores = forward_scores(strengths, torch.zeros(2, grid_size() + 1))
    assert torch.equal(scores.amax(dim=2), torch.zeros(2, 9))
    for frames in (1, 5, 9):
        path = best_path(strengths[:, :frames], None)
        assert scores[:, frames - 1].argmax(dim=1).tolist() == path[:, -1].tolist()


# Source and synthesis


def test_windows_of_a_constant_pitch_are_those_of_one_signal() -> None:
    frames, length = 20, 3 * HOP
    source = CausalSource(length, HOP, RATE)
    first = torch.zeros(1, dtype=torch.int64)
    noises = source.noise_windows(frames, first, 0)
    assert torch.equal(noises[0], noise(frames * HOP + 2 * HOP, 0, first.device).unfold(0, length, HOP))
    position = torch.full((1, frames), 60.3)
    windows, _ = source.step(position, torch.ones(1, frames), noises, source.start(first.device))
    rate = hz_of(position[0, 0]) / RATE
    start = length // 2 - HOP  # the source starts one hop before the first middle
    cycles = rate.double() * (torch.arange(frames * HOP + length) - start + 1)
    signal = pulses_at(cycles, rate.expand(len(cycles)))
    expected = signal.unfold(0, length, HOP)[:frames]
    torch.testing.assert_close(windows[0, 4:], expected[4:], atol=1e-3, rtol=0)
    unvoiced, _ = source.step(position, torch.zeros(1, frames), noises, source.start(first.device))
    torch.testing.assert_close(unvoiced[:, 1:], noises[:, 1:], atol=1e-6, rtol=0)


def test_consecutive_windows_share_their_past() -> None:
    torch.manual_seed(0)
    source = CausalSource(3 * HOP, HOP, RATE)
    position, voiced = 40 + 30 * torch.rand(2, 12), (torch.rand(2, 12) > 0.3).float()
    noises = source.noise_windows(12, torch.zeros(2, dtype=torch.int64), 7)
    windows, _ = source.step(position, voiced, noises, source.start(noises.device))
    half = windows.shape[2] // 2
    torch.testing.assert_close(windows[:, 1:, : half - HOP], windows[:, :-1, HOP:half])


def test_overlap_add_restores_windows_of_a_signal() -> None:
    torch.manual_seed(0)
    framing, wav = AheadFraming(480, 160), torch.randn(2, 4800)
    frames = F.pad(wav, (0, 320)).unfold(1, 480, 160)
    zero = torch.zeros(1, dtype=torch.int64)
    restored, _ = framing.overlap_add(framing.spectra(frames), zero, torch.zeros(1, 320))
    torch.testing.assert_close(restored[:, 0, 160:], wav[:, 160:], atol=1e-4, rtol=0)
    assert bool((restored[:, 0].abs() <= wav.abs() + 1e-4).all()), "it fades in"


# Latency and streams


def test_the_latency_is_40_ms() -> None:
    model = codec()
    assert model.latency_ms == 40
    torch.manual_seed(0)
    wav = 0.1 * torch.randn(1, 1, 8000)
    latents = model.encode_latents(wav, sample_rate=RATE)
    changed = wav.clone()
    changed[..., 4000:] = 0.1 * torch.randn(1, 1, 4000)
    other = model.encode_latents(changed, sample_rate=RATE)
    first = int((latents != other).any(dim=1)[0].nonzero()[0])
    assert first * 320 <= 4000 < first * 320 + 640, "frame t depends on samples up to (t + 2) * 320"
    codes = model.encode(wav, sample_rate=RATE)
    other_codes = codes.clone()
    other_codes[:, :, 12:] = 999 - codes[:, :, 12:]
    audio, other_audio = model.decode(codes), model.decode(other_codes)
    assert int((audio != other_audio)[0, 0].nonzero()[0]) >= 12 * 320
    assert not torch.equal(audio[..., 12 * 320 : 13 * 320], other_audio[..., 12 * 320 : 13 * 320])


def partition(sizes: list[int], total: int) -> list[int]:
    """Sizes that sum up to `total`: those given, again and again."""
    parts, turn = [], 0
    while sum(parts) < total:
        parts.append(min(sizes[turn % len(sizes)], total - sum(parts)))
        turn += 1
    return parts


@settings(max_examples=12, deadline=None)
@example(sizes=[1], samples=350, depth=3)
@given(
    sizes=st.lists(st.integers(100, 2500), min_size=1, max_size=6),
    samples=st.integers(1, 9000),
    depth=st.sampled_from([1, 2, 3]),
)
def test_streams_equal_the_whole_for_any_partition(sizes: list[int], samples: int, depth: int) -> None:
    model, wav = codec(), speech(6)[:, :, 20000 : 20000 + samples]
    codes = model.encode(wav, sample_rate=RATE, num_codebooks=depth)
    encoder = model.stream_encoder(num_codebooks=depth)
    parts = [encoder.push(block) for block in wav.split(partition(sizes, samples), dim=2)]
    assert torch.equal(torch.cat([*parts, encoder.flush()], dim=2), codes)
    decoder = model.stream_decoder()
    blocks = codes.split(partition([1 + size % 7 for size in sizes], codes.shape[2]), dim=2)
    audio = torch.cat([*(decoder.push(block) for block in blocks), decoder.flush()], dim=2)
    torch.testing.assert_close(audio, model.decode(codes), atol=1e-6, rtol=0)


def test_streams_without_pitch_channels_equal_the_whole() -> None:
    model, wav = codec(pitch_channels=None), speech(6)[:, :, 20000:26000]
    codes = model.encode(wav, sample_rate=RATE)
    encoder, decoder = model.stream_encoder(), model.stream_decoder()
    parts = [encoder.push(block) for block in wav.split(500, dim=2)]
    assert torch.equal(torch.cat([*parts, encoder.flush()], dim=2), codes)
    audio = torch.cat([decoder.push(block) for block in codes.split(3, dim=2)], dim=2)
    torch.testing.assert_close(audio, model.decode(codes), atol=1e-6, rtol=0)


def test_streams_of_a_batch_join_and_leave_independently() -> None:
    model, wav = codec(), speech(6)
    recordings = [wav[:, :, start : start + 4000] for start in (20000, 30000)]
    wholes = [model.encode(each, sample_rate=RATE) for each in recordings]
    encoder = model.stream_encoder(batch=2)
    late = torch.zeros(1, 1, 1000)
    encoder.push(torch.cat([recordings[0][:, :, :1000], late]), torch.tensor([1000, 0]))
    encoder.push(torch.cat([recordings[0][:, :, 1000:3000], recordings[1][:, :, :2000]]))
    saved = encoder.state.state_dict()
    encoder.push(0.1 * torch.randn(2, 1, 700))
    encoder.state = StreamState.from_state_dict({name: saved[name] for name in sorted(saved)})
    ends = torch.cat([F.pad(recordings[0][:, :, 3000:], (0, 1000)), recordings[1][:, :, 2000:]])
    rest = [encoder.push(ends, torch.tensor([1000, 2000]))]
    counts = [encoder.output_lengths.tolist()]
    rest.append(encoder.flush())
    counts.append(encoder.output_lengths.tolist())
    for index, whole in enumerate(wholes):
        tail = torch.cat(
            [part[index, :, : count[index]] for part, count in zip(rest, counts, strict=True)], dim=1
        )
        assert torch.equal(tail, whole[0, :, -tail.shape[1] :])


def test_padding_does_not_change_the_output() -> None:
    model, wav = codec(), speech(6)[:, :, 20000:28000]
    codes = model.encode(wav[:, :, :5000], sample_rate=RATE)
    padded = torch.cat([wav, F.pad(wav[:, :, :5000], (0, 3000), value=0.3)])
    together = model.encode(padded, sample_rate=RATE, lengths=torch.tensor([8000, 5000]))
    assert torch.equal(together[1:, :, : codes.shape[2]], codes)
    audio = model.decode(together, lengths=torch.tensor([8000, 5000]))
    torch.testing.assert_close(audio[1:, :, :5000], model.decode(codes)[:, :, :5000], atol=1e-6, rtol=0)


def test_training_returns_losses_and_gradients_of_all_weights() -> None:
    torch.manual_seed(0)
    decoder = Codec(sample_rate=RATE, network=NETWORK, quantizer=QUANTIZER).train().network.decoder
    target = speech(6)[:, :, 20000:29600]
    latents = torch.randn(1, 12, 30).tanh()
    latents[:, [5, 6, 9]] = WRITER(torch.zeros(1, 30, 3), target, None).transpose(1, 2).tanh()
    result = decoder(latents, None, target)
    assert isinstance(result, AudioWithLosses)
    assert result.losses.keys() == {"voicing", "pitch", "added"}
    (result.wav.square().mean() + sum(result.losses.values())).backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


@pytest.mark.parametrize("hop", [200, 320, 640])
@pytest.mark.parametrize("step", [1, 2, 5])
@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_any_hop_and_lookahead_work(hop: int, step: int, lookahead: int) -> None:
    model = codec(
        hop_length=hop, synthesis_hop_length=hop // step, lookahead_frames=lookahead, window_length=2560
    )
    for samples in (1, hop, 3 * hop + 1):
        wav = speech(6)[:, :, 20000 : 20000 + samples]
        codes = model.encode(wav, sample_rate=RATE)
        assert codes.shape[2] == -(-samples // hop)
        assert torch.isfinite(model.decode(codes)).all()
