"""Opus (RFC 6716) through the programs of opus-tools; the bit rate is counted from the packets.

An Ogg file adds pages around the packets, which are a tenth of the file at 6 kbit/s. A call does not transmit
them, so only the packets count. Network headers do not count either: they are the same for every codec.
Settings: tuned for speech, highest complexity, 20 ms frames. Names without a suffix use the variable rate
that they state; `opus-6` uses a hard constant rate, as calls do.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codecvq.audio import read_audio, resample, to_mono, write_audio
from codecvq.errors import CodecError
from codecvq.evaluation import Transmission, align
from codecvq_baselines.programs import require_programs, run_program, version_of

HEADER_PACKETS = 2  # OpusHead and OpusTags; speech follows
PAGE_HEADER_BYTES = 27  # before the table of segments


@dataclass(frozen=True)
class Setting:
    """The options passed to `opusenc`."""

    kbps: int
    frame_ms: int = 20
    rate: str = "--vbr"


class Opus:
    """Opus at one setting."""

    def __init__(self, name: str, setting: Setting) -> None:
        require_programs(name, ("opusenc", "opusdec"), "opus-tools")
        self.name, self.setting = name, setting
        version_command = ["opusenc", "--version"]
        self.identity = {
            "name": name,
            "libopus": version_of(version_command, r"using libopus ([\w.-]+)"),
            "opus-tools": version_of(version_command, r"opus-tools ([\w.-]+)"),
            **dataclasses.asdict(setting),
        }

    def transmit(self, samples: np.ndarray, sample_rate: int) -> Transmission:
        """See `codecvq.evaluation.transmission.Transmitter`."""
        with tempfile.TemporaryDirectory() as folder:
            original, coded, decoded = (Path(folder, name) for name in ("in.wav", "coded.opus", "out.wav"))
            write_audio(original, samples, sample_rate)
            s = self.setting
            run_program([
                "opusenc", "--quiet", "--speech", "--comp", "10", s.rate, "--bitrate", str(s.kbps),
                "--framesize", str(s.frame_ms), original, coded,
            ])  # fmt: skip
            run_program(["opusdec", "--quiet", coded, decoded])  # writes at the sample rate of the input
            bits = 8 * sum(list(packet_sizes(coded.read_bytes()))[HEADER_PACKETS:])
            audio = read_audio(decoded)
            decoded_samples = resample(to_mono(audio.samples), audio.sample_rate, sample_rate)
        return Transmission(align(samples, decoded_samples, sample_rate), bits)


def packet_sizes(ogg: bytes) -> Iterator[int]:
    """Yield the size in bytes of every packet of an Ogg stream, in order.

    A page has a table with one byte per segment. A packet consists of segments of 255 bytes and a shorter
    last one. It continues on the next page if its last segment here has 255 bytes (RFC 3533, section 6).

    Raises CodecError for a damaged or incomplete page.
    """
    offset, packet = 0, 0
    while offset < len(ogg):
        header = ogg[offset : offset + PAGE_HEADER_BYTES]
        segments = header[-1]  # the header's last byte is the number of segments
        table = ogg[offset + PAGE_HEADER_BYTES :][:segments]
        end = offset + PAGE_HEADER_BYTES + segments + sum(table)
        if not header.startswith(b"OggS") or len(header) < PAGE_HEADER_BYTES or end > len(ogg):
            raise CodecError(
                f"opusenc wrote an incomplete Ogg page at byte {offset} of {len(ogg)}. Run it again."
            )
        for segment in table:
            packet += segment
            if segment < 255:
                yield packet
                packet = 0
        offset = end


def opus_6() -> Opus:
    """6 kbit/s, constant rate: 15 bytes per packet of 20 ms."""
    return Opus("opus-6", Setting(6, rate="--hard-cbr"))


def opus_6_60ms() -> Opus:
    """About 6 kbit/s, variable rate, in packets of 60 ms: better quality at three times the delay."""
    return Opus("opus-6-60ms", Setting(6, frame_ms=60))


def opus_8() -> Opus:
    """About 8 kbit/s, variable rate."""
    return Opus("opus-8", Setting(8))


def opus_12() -> Opus:
    """About 12 kbit/s, variable rate."""
    return Opus("opus-12", Setting(12))


def opus_16() -> Opus:
    """About 16 kbit/s, variable rate."""
    return Opus("opus-16", Setting(16))
