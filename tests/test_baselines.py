"""Baseline codecs: bit rates computed by hand, delays, and errors of missing programs."""

from __future__ import annotations

import math
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from codecvq_baselines import codec2, codecvq_codecs, opus, original

from codecvq.data.corpus import open_corpus
from codecvq.errors import CodecError, MissingProgram
from codecvq.evaluation.alignment import align, delay_samples, remove_delay
from codecvq.plugins import registry

RATE = 16_000
NAMES = [spec.name for spec in codecvq_codecs()]
needs_opus = pytest.mark.skipif(shutil.which("opusenc") is None, reason="opus-tools is not installed")
needs_codec2 = pytest.mark.skipif(shutil.which("c2enc") is None, reason="codec2 is not installed")


def page(segments: list[int]) -> bytes:
    """An Ogg page with these segments."""
    header = struct.pack("<4sBBqIIIB", b"OggS", 0, 0, 0, 1, 0, 0, len(segments))
    return header + bytes(segments) + bytes(sum(segments))


def speech(seconds: float = 2.0) -> np.ndarray:
    clip = next(c for c in open_corpus("prompts") if (c.duration_s or 0) > seconds)
    return clip.read(RATE)[: int(seconds * RATE)]


@pytest.mark.parametrize(
    ("pages", "sizes"),
    [
        ([[19], [60]], [19, 60]),
        ([[15, 15, 15]], [15, 15, 15]),
        ([[255, 0, 7]], [255, 7]),  # a multiple of 255 ends with an empty segment
        ([[255, 255, 3, 0]], [513, 0]),
        ([[10, 255], [255, 4, 8]], [10, 514, 8]),  # a packet that continues in the next page
    ],
)
def test_packet_sizes_follow_from_the_page_tables(pages: list[list[int]], sizes: list[int]) -> None:
    assert list(opus.packet_sizes(b"".join(map(page, pages)))) == sizes


@pytest.mark.parametrize("damaged", [b"RIFF" + bytes(60), page([15, 15])[:-1], page([15])[:20]])
def test_an_incomplete_page_is_an_error(damaged: bytes) -> None:
    with pytest.raises(CodecError, match="incomplete Ogg page"):
        list(opus.packet_sizes(page([19]) + damaged))


@pytest.mark.parametrize("delay", [0, 1, 37, 2400])
def test_a_delay_within_the_search_range_is_found_to_the_sample(delay: int) -> None:
    reference = np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    late = np.concatenate([np.zeros(delay, np.float32), 0.3 * reference])
    assert delay_samples(reference, late, 2400) == delay
    np.testing.assert_array_equal(align(reference, late, RATE), (0.3 * reference).astype(np.float32))


def test_alignment_returns_the_length_of_the_reference_and_pads_with_silence() -> None:
    reference = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    for decoded in (reference[:1000], np.zeros(7000, np.float32), reference[:0]):
        assert align(reference, decoded, RATE).shape == reference.shape
    assert delay_samples(reference, np.zeros(7000, np.float32), 100) == 0
    assert delay_samples(reference, np.concatenate([np.zeros(500, np.float32), reference]), 100) <= 100
    assert remove_delay(np.arange(5.0), 3, 4).tolist() == [3, 4, 0, 0]
    assert remove_delay(np.arange(5.0), 9, 2).tolist() == [0, 0]


def test_the_original_is_the_clip_at_16_bits() -> None:
    clip = speech(0.5)  # read from 16-bit FLAC
    sent = original.Original().transmit(clip, RATE)
    np.testing.assert_array_equal(sent.samples, clip)
    assert sent.payload_bits == 16 * clip.size
    assert np.abs(original.Original().transmit(3 * clip, RATE).samples).max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_returns_as_many_samples_and_a_bitrate_near_its_nominal_one(name: str) -> None:
    factory = registry().find("codecs", name).load()
    try:
        codec = factory()
    except MissingProgram as error:
        pytest.skip(str(error))
    assert codec.name == name == codec.identity["name"]
    clip = speech(1.0)
    sent = codec.transmit(clip, RATE)
    assert sent.samples.shape == clip.shape
    assert sent.samples.dtype == np.float32
    nominal = {"original": 256.0, "codec2-3200": 3.2, "codec2-1300": 1.3, "codec2-700c": 0.7}.get(
        name, float(name.split("-")[1]) if name.startswith("opus") else 0
    )
    assert 0.6 * nominal < sent.payload_bits / 1000 < 1.5 * nominal
    assert delay_samples(clip, sent.samples, 2400) < 800 or name.startswith("codec2")


@needs_opus
def test_opus_at_a_constant_rate_has_15_bytes_per_packet_and_no_delay() -> None:
    clip = speech(2.0)
    sent = opus.opus_6().transmit(clip, RATE)
    packets = sent.payload_bits / 8 / 15
    assert packets == int(packets)
    assert 100 <= packets <= 102  # 2 s and the lookahead of the encoder
    assert delay_samples(clip, sent.samples, 2400) == 0
    again = opus.opus_6().transmit(clip, RATE)
    np.testing.assert_array_equal(sent.samples, again.samples)


@needs_opus
def test_opus_accepts_clips_at_other_sample_rates() -> None:
    clip = speech(1.0)
    sent = opus.opus_8().transmit(clip, 24_000)  # the same samples at a higher rate
    assert sent.samples.shape == clip.shape
    assert delay_samples(clip, sent.samples, 3600) <= 1


@needs_codec2
@pytest.mark.parametrize(
    ("make", "frame_bits", "frame_s"),
    [(codec2.codec2_3200, 64, 0.02), (codec2.codec2_1300, 52, 0.04), (codec2.codec2_700c, 28, 0.04)],
)
def test_codec2_counts_the_bits_of_its_mode_and_encodes_the_whole_clip(
    make, frame_bits: int, frame_s: float
) -> None:
    for seconds in (1.0, 1.05, 0.01):
        clip = speech(1.5)[: int(seconds * RATE)]
        sent = make().transmit(clip, RATE)
        assert sent.payload_bits == frame_bits * math.ceil(seconds / frame_s - 1e-9)
        assert sent.samples.shape == clip.shape
        assert np.any(sent.samples[-80:]), "the end of the clip is not coded"


@pytest.mark.parametrize(
    ("make", "program", "package"),
    [(opus.opus_6, "opusenc", "opus-tools"), (codec2.codec2_3200, "c2enc", "codec2")],
)
def test_a_missing_program_is_an_error_that_names_its_package(
    make, program: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgram, match=f"{program}.*apt-get install {package}"):
        make()


def test_the_error_output_of_a_failing_program_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codecvq_baselines.programs import run_program

    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\necho one; echo the reason >&2; exit 3\n")
    program.chmod(0o755)
    with pytest.raises(CodecError, match="code 3: the reason"):
        run_program([program])
