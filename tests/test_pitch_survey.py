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

from codecvq.networks.voice import best_path, survey
from codecvq.networks.voice.knots import knots
from codecvq.networks.voice.pitch import Pitch, PitchTracker
from codecvq.networks.voice.pitch_code import number_of
from codecvq.networks.voice.pitch_writer import PitchWriter

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
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_numbers_are_those_of_the_whole_for_any_partition(short_sections: None, sizes: list[int]) -> None:
    wav = speech(2)[:, :, : 3 * RATE]
    assert wav.shape[2] > 7 * SECTION * HOP
    assert torch.equal(WRITER.survey(in_blocks(wav, sizes)), whole(wav))


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
    assert torch.equal(WRITER.survey(in_blocks(wav, [5000])), whole(wav))


@pytest.mark.parametrize("frames", [1, 2, 3, SECTION - 1, SECTION, SECTION + 1, 2 * SECTION, 2 * SECTION + 1])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_every_length_has_the_numbers_of_the_whole(short_sections: None, frames: int, more: int) -> None:
    wav = speech(1)[:, :, : frames * HOP + more]
    numbers = WRITER.survey(in_blocks(wav, [777]))
    assert numbers.shape[1] == -(-wav.shape[2] // (2 * HOP))
    assert torch.equal(numbers, whole(wav))


def test_an_empty_recording_has_no_numbers() -> None:
    assert WRITER.survey([]).shape == (1, 0)
    assert WRITER.survey([torch.zeros(1, 1, 0)]).shape == (1, 0)


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


@pytest.mark.slow
def test_ten_minutes_of_speech_have_the_numbers_of_the_whole() -> None:
    wav = speech(150).repeat(1, 1, 3)[:, :, : 600 * RATE]
    assert wav.shape[2] == 600 * RATE
    assert torch.equal(WRITER.survey(in_blocks(wav, [320, 16000, 77])), whole(wav))


MEMORY = """
import resource, sys
import torch
from codecvq.networks.voice.pitch import PitchTracker
from codecvq.networks.voice.pitch_writer import PitchWriter

class Recording:
    '''A pulse train with pauses, 10 s per block.'''

    def __iter__(self):
        torch.manual_seed(0)
        for turn in range(int(sys.argv[1]) // 10):
            block = 0.01 * torch.randn(1, 1, 160000)
            block[:, :, : 120000 : 80 + turn % 60] += 0.5
            yield block

numbers = PitchWriter(PitchTracker(16000, 160).eval(), 2, [0, 1, 2]).survey(Recording())
assert numbers.shape[1] == int(sys.argv[1]) * 50
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length() -> None:
    def peak_mb(seconds: int) -> float:
        run = [sys.executable, "-c", MEMORY, str(seconds)]
        return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout) / 1024

    assert peak_mb(3600) < peak_mb(120) + 25
