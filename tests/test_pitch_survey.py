"""The pitch of recordings that are read in pieces equals that of whole recordings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import cache

import pytest
import torch
from codecvq_free_speech import bundled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from voices import HOP, RATE, glide, voice

from codecvq.api.codec import AudioCodec
from codecvq.codec import Codec, load
from codecvq.errors import NonFiniteError, ShapeError, StreamingError
from codecvq.networks.voice import best_path, survey
from codecvq.networks.voice.knots import knots
from codecvq.networks.voice.pitch import Pitch, PitchTracker
from codecvq.networks.voice.pitch_code import number_of
from codecvq.networks.voice.pitch_writer import PitchWriter
from codecvq.streaming import StreamState

TRACKER = PitchTracker(RATE, HOP).eval()
WRITER = PitchWriter(TRACKER, 2, [0, 1, 2])
SECTION, KNOT_CONTEXT = 40, 60


@pytest.fixture
def short_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections of 0.4 s, so that a second of audio has several."""
    for module in (best_path, survey):
        monkeypatch.setattr(module, "SECTION", SECTION)
    monkeypatch.setattr(survey, "KNOT_CONTEXT", KNOT_CONTEXT)


@cache
def speech(clips: int) -> torch.Tensor:
    """Audio `[1, 1, S]` of clips of all speakers, in sequence."""
    every = list(bundled.clips())
    samples = [torch.from_numpy(clip.read(RATE)) for clip in every[:: max(1, len(every) // clips)][:clips]]
    return torch.cat(samples)[None, None]


def whole(wav: torch.Tensor) -> torch.Tensor:
    """Numbers of pitch steps of a whole recording, int64 `[1, T]`."""
    pitch = TRACKER(F.pad(wav, (0, -wav.shape[2] % (2 * HOP))))
    return number_of(knots(pitch.position, pitch.voiced, 2))


def in_blocks(wav: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    """Blocks of the given sizes, again and again."""
    blocks, start, turn = [], 0, 0
    while start < wav.shape[2]:
        size = sizes[turn % len(sizes)]
        blocks.append(wav[:, :, start : start + size])
        start, turn = start + size, turn + 1
    return blocks


@given(sizes=st.lists(st.integers(0, 12000), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) > 400))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_numbers_are_those_of_the_whole_for_any_partition(short_sections: None, sizes: list[int]) -> None:
    wav = speech(2)[:, :, : 3 * RATE]
    assert wav.shape[2] > 7 * SECTION * HOP
    assert torch.equal(WRITER.survey(lambda: in_blocks(wav, sizes)), whole(wav))


def sounds() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    silence, clip = torch.zeros(1, 1, 3 * RATE), speech(1)
    sung = voice(glide(120, 240, 2.5))
    noise = 0.1 * torch.randn(1, 1, 3 * RATE, generator=generator)
    return {
        "silence": silence,
        "noise": noise,
        "voice from start to end": sung,
        "voice between silence": torch.cat([silence, sung, silence], dim=2),
        "long gaps": torch.cat([sung, silence, clip, noise, silence, sung], dim=2),
        "few voiced frames": torch.cat([silence, sung[:, :, : 8 * HOP], silence], dim=2),
        "the loudest sample is the last": torch.cat([0.01 * sung, torch.ones(1, 1, 1)], dim=2),
        "a constant tone": (torch.arange(4 * RATE) * (2 * torch.pi * 205 / RATE)).sin()[None, None],
    }


@pytest.mark.parametrize("sound", list(sounds()))
def test_numbers_are_those_of_the_whole(short_sections: None, sound: str) -> None:
    wav = sounds()[sound]
    assert torch.equal(WRITER.survey(lambda: in_blocks(wav, [5000])), whole(wav))


@pytest.mark.parametrize("frames", [1, 2, 3, SECTION - 1, SECTION, SECTION + 1, 2 * SECTION, 2 * SECTION + 1])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_every_length_has_the_numbers_of_the_whole(short_sections: None, frames: int, more: int) -> None:
    wav = speech(1)[:, :, : frames * HOP + more]
    numbers = WRITER.survey(lambda: in_blocks(wav, [777]))
    assert numbers.shape[1] == -(-wav.shape[2] // (2 * HOP))
    assert torch.equal(numbers, whole(wav))


def test_an_empty_recording_has_no_numbers() -> None:
    assert WRITER.survey(list).shape == (1, 0)
    assert WRITER.survey(lambda: [torch.zeros(1, 1, 0)]).shape == (1, 0)


@pytest.mark.parametrize("upsampling", [1, 2, 3])
@pytest.mark.parametrize("voicing", ["alternates", "random", "never"])
def test_knots_in_pieces_equal_those_of_the_whole(
    upsampling: int, voicing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If voiced and unvoiced frames of the codec alternate, knots depend on frames that are far away."""
    frames, generator = 12000, torch.Generator().manual_seed(0)
    position = 150 * torch.rand(1, frames * upsampling, generator=generator)
    voiced = {
        "alternates": torch.arange(frames * upsampling)[None] // upsampling % 2 == 0,
        "random": torch.rand(1, frames * upsampling, generator=generator) > 0.5,
        "never": torch.zeros(1, frames * upsampling, dtype=torch.bool),
    }[voicing]
    expected = knots(position, voiced, upsampling)
    parts = zip(position.split(999, dim=1), voiced.split(999, dim=1), strict=True)
    pieces = [Pitch(*part) for part in parts]
    found = torch.cat(list(survey.fitted(pieces, upsampling)), dim=1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-6)
    if (voicing, upsampling) == ("alternates", 2):
        monkeypatch.setattr(survey, "KNOT_CONTEXT", 20)
        short = torch.cat(list(survey.fitted(pieces, upsampling)), dim=1)
        assert float((short - expected).abs().max()) > 1.0, "the case depends on its context"


NETWORK = {
    "name": "spectral", "hop_length": 320, "encoder_width": 24, "encoder_blocks": 2, "decoder_width": 24,
    "decoder_blocks": 1, "num_mels": 40, "dim": 12, "phase": "source", "pitch_channels": [5, 6, 7],
    "synthesis_hop_length": 160,
}  # fmt: skip


@cache
def small_codec() -> Codec:
    torch.manual_seed(0)
    quantizer = {"name": "grouped_fsq", "num_codebooks": 3, "levels": [8, 5, 5, 5]}
    return Codec(sample_rate=RATE, network=NETWORK, quantizer=quantizer).eval()


def encoded(codec: AudioCodec, blocks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Codes of a recording that is surveyed and then pushed block by block."""
    stream = codec.stream_encoder(survey=codec.survey(lambda: iter(blocks)))
    return torch.cat([*(stream.push(block) for block in blocks), stream.flush()], dim=2)


@given(sizes=st.lists(st.integers(0, 9000), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) > 400))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_codes_are_those_of_the_whole_for_any_partition(short_sections: None, sizes: list[int]) -> None:
    wav = speech(2)[:, :, : 3 * RATE + 100]
    assert torch.equal(encoded(small_codec(), in_blocks(wav, sizes)), small_codec().encode(wav))


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 640, 641, 6400])
def test_codes_of_short_recordings_are_those_of_the_whole(samples: int) -> None:
    wav = speech(1)[:, :, 4000 : 4000 + samples]
    assert torch.equal(encoded(small_codec(), in_blocks(wav, [50])), small_codec().encode(wav))


def test_codes_of_the_bundled_codec_are_those_of_the_whole() -> None:
    codec = load("speech-16k")
    wav = speech(8)
    assert wav.shape[2] > 12 * RATE
    assert torch.equal(encoded(codec, in_blocks(wav, [12345])), codec.encode(wav))


def test_a_stream_can_start_again_and_continue_from_a_saved_state() -> None:
    wav, codec = speech(1), small_codec()
    expected = codec.encode(wav)
    stream = codec.stream_encoder(survey=codec.survey(lambda: [wav]))
    start = wav.shape[2] // 3
    stream.push(wav[:, :, : start + 77])
    stream.reset()
    before = stream.push(wav[:, :, :start])
    saved = StreamState.from_state_dict(stream.state.state_dict())
    assert torch.equal(torch.cat([before, stream.push(wav[:, :, start:]), stream.flush()], dim=2), expected)
    stream.state = saved
    assert torch.equal(torch.cat([before, stream.push(wav[:, :, start:]), stream.flush()], dim=2), expected)


def test_live_audio_is_rejected_with_the_reason() -> None:
    with pytest.raises(StreamingError, match=r"depends on the whole recording.*survey=codec\.survey"):
        small_codec().stream_encoder()


def test_the_survey_of_another_recording_is_rejected() -> None:
    codec, wav = small_codec(), speech(1)
    survey = codec.survey(lambda: [wav])
    with pytest.raises(ShapeError, match="one recording, needed is 1"):
        codec.stream_encoder(2, survey=survey)
    stream = codec.stream_encoder(survey=survey)
    stream.push(wav[:, :, :-RATE])
    with pytest.raises(ShapeError, match=r"of 91 frames, and the stream has fewer"):
        stream.flush()
    stream.push(wav[:, :, -RATE:])
    with pytest.raises(ShapeError, match="the stream has more"):
        stream.push(wav.repeat(1, 1, 5))
    causal = {"name": "spectral", "hop_length": 320, "causal": True, "encoder_width": 8, "decoder_width": 8}
    other = Codec(sample_rate=RATE, network=causal, quantizer={"name": "fsq", "levels": [5]})
    assert other.survey(lambda: pytest.fail("it reads no recording")) is None
    with pytest.raises(StreamingError, match="uses no survey"):
        other.stream_encoder(survey=survey)


def test_invalid_blocks_of_a_recording_are_rejected() -> None:
    codec = small_codec()
    with pytest.raises(ShapeError, match="blocks of 2 items"):
        codec.survey(lambda: [torch.zeros(2, 1, 100)])
    with pytest.raises(ShapeError, match="C=1"):
        codec.survey(lambda: [torch.zeros(1, 2, 100)])
    with pytest.raises(NonFiniteError, match="index 3"):
        codec.survey(lambda: [torch.tensor([[[0.0, 0, 0, float("nan")]]])])


@pytest.mark.slow
def test_ten_minutes_of_speech_have_the_numbers_of_the_whole() -> None:
    wav = speech(150).repeat(1, 1, 3)[:, :, : 600 * RATE]
    assert wav.shape[2] == 600 * RATE
    assert torch.equal(WRITER.survey(lambda: in_blocks(wav, [320, 16000, 77])), whole(wav))
    codec = load("speech-16k")
    assert torch.equal(encoded(codec, in_blocks(wav, [16000])), codec.encode(wav))


MEMORY = """
import resource, sys
import torch
from codecvq.networks.voice.pitch import PitchTracker
from codecvq.networks.voice.pitch_writer import PitchWriter

def recording():
    '''A pulse train with pauses, 10 s per block.'''
    torch.manual_seed(0)
    for turn in range(int(sys.argv[1]) // 10):
        block = 0.01 * torch.randn(1, 1, 160000)
        block[:, :, : 120000 : 80 + turn % 60] += 0.5
        yield block

numbers = PitchWriter(PitchTracker(16000, 160).eval(), 2, [0, 1, 2]).survey(recording)
assert numbers.shape[1] == int(sys.argv[1]) * 50
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length() -> None:
    def peak_mb(seconds: int) -> float:
        run = [sys.executable, "-c", MEMORY, str(seconds)]
        return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout) / 1024

    assert peak_mb(3600) < peak_mb(120) + 25
