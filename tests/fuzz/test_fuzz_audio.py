"""Hostile audio files: mutated files of every format and generated headers give audio or AudioError."""

from __future__ import annotations

import itertools
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from limits import run_limited

from codecvq.audio import duration_s, read_audio, read_blocks, resample, to_mono
from codecvq.data.corpus import open_corpus
from codecvq.errors import AudioError

CASES = 2000
SOUNDFILES = {
    "a.wav": ("WAV", "PCM_16"), "f.wav": ("WAV", "FLOAT"), "ima.wav": ("WAV", "IMA_ADPCM"),
    "gsm.wav": ("WAV", "GSM610"), "nms.wav": ("WAV", "NMS_ADPCM_16"), "a.flac": ("FLAC", "PCM_16"),
    "a.ogg": ("OGG", "VORBIS"), "a.opus": ("OGG", "OPUS"), "a.mp3": ("MP3", "MPEG_LAYER_III"),
    "a.aiff": ("AIFF", "PCM_16"), "a.au": ("AU", "G721_32"), "a.caf": ("CAF", "ALAC_16"),
    "a.sph": ("NIST", "PCM_16"), "a.w64": ("W64", "PCM_16"), "a.rf64": ("RF64", "PCM_16"),
}  # fmt: skip
CONTAINERS = {
    "a.m4a": ("ipod", "aac"),
    "a.mka": ("matroska", "aac"),
    "a.aac": ("adts", "aac"),
    "a.wma": ("asf", "wmav2"),
}
#: values of lengths, rates and channel numbers in headers
EXTREMES = [
    0,
    1,
    2,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**62,
    2**63 - 1,
    2**64 - 1,
]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One second of speech in every format, by file name."""
    folder = tmp_path_factory.mktemp("originals")
    speech = next(clip for clip in open_corpus("prompts") if (clip.duration_s or 0) > 1.5).read(8000)[:8000]
    made = {}
    for name, (form, subtype) in SOUNDFILES.items():
        with soundfile.SoundFile(folder / name, "w", 8000, 1, subtype, format=form) as file:
            file.write(speech)
        made[name] = (folder / name).read_bytes()
    for name, (container, codec) in CONTAINERS.items():
        made[name] = _with_ffmpeg(folder / name, speech, container, codec)
    raw = np.rint(speech * 32767).astype("<i2").tobytes()
    return made | {"a.sln": raw, "a.g722": raw[:4000], "none.wav": b"", "text.wav": b"RIFF is a word.\n" * 9}


def _with_ffmpeg(path: Path, speech: np.ndarray, container: str, codec: str) -> bytes:
    import av

    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=16000, layout="mono", bit_rate=48000)
        frame = av.AudioFrame.from_ndarray(resample(speech, 8000, 16000)[None], format="fltp", layout="mono")
        frame.sample_rate = 16000
        for block in [frame, None]:
            output.mux(stream.encode(block))
    return path.read_bytes()


def _mutated(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice([0, 1, 1, 2, 4, 16])):
        at = rng.randrange(len(data)) if data else 0
        if rng.random() < 0.6:  # changes of the header reach most code
            at = rng.randrange(min(200, len(data))) if data else 0
        kind = rng.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            width, order = rng.choice([1, 2, 4, 8]), rng.choice(["<", ">"])
            value = rng.choice(EXTREMES) % 2 ** (8 * width)
            data[at : at + width] = struct.pack(order + {1: "B", 2: "H", 4: "I", 8: "Q"}[width], value)
        elif kind == 2:
            del data[at : at + rng.choice([1, 7, 500, 10**6])]
        elif kind == 3:
            data[at:at] = data[rng.randrange(len(data) + 1) :][: rng.choice([4, 100, 5000])]
        elif kind == 4:
            data += rng.choice(others)
        else:
            data[at:at] = rng.randbytes(rng.choice([1, 16, 300]))
    return bytes(data)


def _generated(rng: random.Random) -> tuple[str, bytes]:
    """A header with random numbers, and a short random body."""
    wild = lambda width: rng.choice([*EXTREMES, rng.getrandbits(8 * width), 16, 1, 8000]) % 2 ** (8 * width)  # noqa: E731
    body = rng.randbytes(rng.choice([0, 1, 100, 3000]))
    if rng.random() < 0.5:
        tag = rng.choice([1, 2, 3, 6, 7, 0x11, 0x31, 0x40, 0x55, 0xFFFE, wild(2)])
        fmt = struct.pack(
            "<HHIIHH", tag, wild(2), wild(4), wild(4), wild(2), rng.choice([4, 8, 16, 24, 32, 64, wild(2)])
        )
        chunks = b"WAVEfmt " + struct.pack("<I", rng.choice([16, len(fmt), wild(4)])) + fmt
        chunks += rng.choice([b"", b"fact" + struct.pack("<II", 4, wild(4))])
        chunks += b"data" + struct.pack("<I", rng.choice([len(body), wild(4)])) + body
        return rng.choice(["x.wav", "x.m4a"]), rng.choice([b"RIFF", b"RIFX", b"RF64"]) + struct.pack(
            "<I", wild(4)
        ) + chunks
    if rng.random() < 0.5:
        info = struct.pack(">HH", wild(2), wild(2)) + rng.randbytes(6) + rng.randbytes(8) + bytes(16)
        return "x.flac", b"fLaC\x80\x00\x00\x22" + info + body
    header = struct.pack(
        ">IIIIII",
        0x2E736E64,
        rng.choice([24, wild(4)]),
        wild(4),
        rng.choice([1, 3, 6, 23, wild(4)]),
        wild(4),
        wild(4),
    )
    return "x.au", header + body


def _check(message: str) -> None:
    assert message.isprintable(), repr(message)


def _use(path: Path, rng: random.Random) -> None:
    """Use an audio file in every way. Only AudioError may be raised."""
    for attempt in range(3):
        try:
            if attempt == 0:
                length_s = duration_s(path)
                assert 0 <= length_s < 1e7, f"{length_s} s in {path.stat().st_size} bytes"
                continue
            part = (
                {}
                if attempt == 1
                else {
                    "start_s": rng.choice([0, 0.1, 0.9, 1e4, 1e300]),
                    "duration_s": rng.choice([1e-9, 0.3, 1e9]),
                }
            )
            audio = read_audio(path, **part)
            assert audio.samples.dtype == np.float32
            assert audio.samples.ndim == 2
            assert audio.samples.size
            assert np.isfinite(audio.samples).all()
            blocks = [block.samples for block in read_blocks(path, block_s=0.1, **part)]
            assert np.array_equal(np.concatenate(blocks, axis=1), audio.samples)
            resample(to_mono(audio.samples)[: audio.sample_rate], audio.sample_rate, 16000)
        except AudioError as error:
            _check(str(error))


@pytest.mark.slow
def test_hostile_audio_is_read_or_raises_audio_error(originals: dict[str, bytes], tmp_path: Path) -> None:
    for read in originals:  # loads all libraries before limits are set
        (tmp_path / read).write_bytes(originals[read])
        _use(tmp_path / read, random.Random(0))
    names = sorted(originals)

    def case(seed: int) -> None:
        rng = random.Random(seed)
        if seed % 4 == 3:
            name, content = _generated(rng)
        else:
            name = names[seed % len(names)]
            content = _mutated(originals[name], list(originals.values()), rng)
            if rng.random() < 0.1:
                name = f"other{Path(rng.choice(names)).suffix}"
        path = tmp_path / name
        path.write_bytes(content)
        _use(path, rng)

    problems = run_limited(case, CASES)
    assert not problems, "\n".join(problems)


@pytest.mark.slow
def test_unmodified_files_are_read(originals: dict[str, bytes], tmp_path: Path) -> None:
    lengths = {}
    for name, content in originals.items():
        (tmp_path / name).write_bytes(content)
        if name not in ("none.wav", "text.wav"):
            lengths[name] = read_audio(tmp_path / name).duration_s
    assert all(0.45 < length < 1.2 for length in lengths.values()), lengths
    assert len(set(itertools.chain(SOUNDFILES, CONTAINERS)) & set(lengths)) == len(SOUNDFILES) + len(
        CONTAINERS
    )
