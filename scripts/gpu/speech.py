"""Speech in parts that travel one by one: `speech-1/clips.zip`, `speech-2/clips.zip`, ...

A part is an uncompressed zip of clips, each a file of its own, and of `manifest.jsonl` with their rows. Parts
hold clips of training and validation in the order of the corpus, so that the manifests of all parts, joined,
list the clips in the order in which training draws them; their durations are those of the corpus, too. Test
clips and held-out speakers stay at home.

Why a zip: 14,000 single files are slow to transfer. A tar adds 0.8 kB a clip, a zip 0.1 kB. One long Opus
file a part is smaller by a hundredth, but a clip that is cut out of it is not the clip that was coded: the
decoder begins anew 80 ms before, and the neighbour is heard in the first frames.

What is G.722 travels as it is (64 kbit/s, lossless; as FLAC it is 163), everything else as Opus by `opusenc`,
or as FLAC where that fits.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile
from codecvq_free_speech.held_out import HELD_OUT, HELD_OUT_SPEAKERS

from codecvq.data import Clip, Corpus
from codecvq.errors import CorpusError
from codecvq.files import atomic_file
from scripts.gpu.unpack import CLIPS, DECODED, G722, MANIFEST

Coding = Literal["opus", "flac"]
Int16Array = npt.NDArray[np.int16]

SAMPLE_RATE = 16000  # Hz
PROCESSES = 2
#: What a zip adds: two headers and a name of about ten letters, twice; its end.
BYTES_A_FILE, BYTES_A_ZIP = 76 + 2 * 16, 22
OPUSENC = (
    "opusenc", "--quiet", "--raw", "--raw-rate", str(SAMPLE_RATE), "--raw-chan", "1",
    "--serial", "1", "--padding", "0",
)  # fmt: skip


@dataclass(frozen=True)
class CodedClip:
    """A clip as it travels."""

    clip: Clip
    split: str
    suffix: str  # ".opus", ".flac" or ".g722"
    content: bytes


@dataclass(frozen=True)
class Part:
    """A folder that was written, and what is in it."""

    folder: Path
    clips: int
    duration_s: float


def pack_speech(
    corpus: Corpus,
    out: Path,
    *,
    coding: Coding = "opus",
    bitrate_bps: int = 30000,
    limit_bytes: int = 30 << 20,
    max_parts: int = 5,
) -> list[Part]:
    """The parts written below `out`, each at most `limit_bytes`. Raises CorpusError where they do not fit."""
    corpus = corpus.measured()
    if corpus.failures:
        raise CorpusError(f"corpus {corpus.name!r}: {corpus.failures[0]}. Repair it, or leave it out.")
    chosen = clips_to_pack(corpus)

    def code(clip: Clip) -> CodedClip:
        return encode_clip(clip, corpus.split_of(clip), coding, bitrate_bps)

    for stale in out.glob("speech-*"):
        shutil.rmtree(stale)
    parts = list[Part]()
    with ThreadPoolExecutor(PROCESSES) as pool:  # the threads wait for opusenc, soxr and libsndfile
        for number, clips in enumerate(split_into_parts(pool.map(code, chosen), limit_bytes), start=1):
            if number > max_parts:
                raise CorpusError(
                    f"corpus {corpus.name!r}: {max_parts} parts of {limit_bytes} bytes hold "
                    f"{sum(part.clips for part in parts)} of {len(chosen)} clips. Lower the bit rate."
                )
            parts.append(write_part(out / f"speech-{number}", clips, limit_bytes))
    return parts


def clips_to_pack(corpus: Corpus) -> list[Clip]:
    """The clips of training and validation, in the order of the corpus."""
    clips = [clip for clip in corpus if corpus.split_of(clip) != "test"]
    for clip in clips:  # the corpora see to it; an error here would spoil every later comparison
        if clip.speaker in HELD_OUT_SPEAKERS or {clip.id, clip.split_key} & HELD_OUT:
            raise CorpusError(f"clip {clip.id} is held out, but its split is {corpus.split_of(clip)!r}.")
    return clips


def encode_clip(clip: Clip, split: str, coding: Coding, bitrate_bps: int) -> CodedClip:
    """The clip as it travels; what is decoded from it has the clip's number of samples at 16 kHz."""
    whole = clip.start_s == 0 and (clip.open_end or clip.duration_s is None)
    if clip.path.suffix.lower() == G722 and whole:
        return CodedClip(clip, split, G722, clip.path.read_bytes())
    samples = to_int16(clip.read(SAMPLE_RATE))
    content = to_flac(samples) if coding == "flac" else to_opus(samples, bitrate_bps)
    info = soundfile.info(io.BytesIO(content))
    if (info.frames, info.samplerate) != (len(samples), SAMPLE_RATE):
        raise CorpusError(
            f"clip {clip.id}: {len(samples)} samples at {SAMPLE_RATE} Hz came back from {coding} as "
            f"{info.frames} at {info.samplerate} Hz."
        )
    return CodedClip(clip, split, f".{coding}", content)


def to_int16(samples: npt.NDArray[np.float32]) -> Int16Array:
    """Samples `[S]` as training sees them: 16 bits, clamped."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def to_flac(samples: Int16Array) -> bytes:
    """A FLAC file of samples `[S]`, as small as libsndfile makes it."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=1.0)
    return file.getvalue()


def to_opus(samples: Int16Array, bitrate_bps: int) -> bytes:
    """An Ogg Opus file of samples `[S]`, at a variable bit rate around that; the same bytes each time."""
    command = [*OPUSENC, "--bitrate", f"{bitrate_bps / 1000:.3f}", "--framesize", "40", "-", "-"]
    try:
        return subprocess.run(
            command, input=samples.astype("<i2").tobytes(), capture_output=True, check=True
        ).stdout
    except FileNotFoundError as error:
        raise CorpusError("opusenc is not installed. apt-get install opus-tools, or take FLAC.") from error
    except subprocess.CalledProcessError as error:
        raise CorpusError(f"opusenc failed: {error.stderr.decode(errors='replace').strip()}") from error


def split_into_parts(clips: Iterable[CodedClip], limit_bytes: int) -> Iterator[list[CodedClip]]:
    """The clips, in their order, in lists as long as the limit allows."""
    part: list[CodedClip] = []
    free = limit_bytes - BYTES_A_ZIP
    for clip in clips:
        # the manifest is compressed; its rows as they are, a third of that again, are more than it takes
        size = len(clip.content) + BYTES_A_FILE + len(_row(clip, "")) // 3
        if size > free and part:
            yield part
            part, free = [], limit_bytes - BYTES_A_ZIP
        part.append(clip)
        free -= size
    if part:
        yield part


def write_part(folder: Path, clips: list[CodedClip], limit_bytes: int) -> Part:
    """The part with these clips. Raises CorpusError where it is larger than the limit."""
    rows = []
    with atomic_file(folder / CLIPS) as path, zipfile.ZipFile(path, "w") as archive:
        for number, clip in enumerate(clips):
            _add(archive, f"{number:05}{clip.suffix}", clip.content, zipfile.ZIP_STORED)
            rows.append(_row(clip, f"{folder.name}/{number:05}{unpacked_suffix(clip.suffix)}"))
        _add(archive, MANIFEST, "".join(rows).encode(), zipfile.ZIP_DEFLATED)
    size = (folder / CLIPS).stat().st_size
    if size > limit_bytes:
        raise CorpusError(f"{folder / CLIPS} has {size} bytes, more than {limit_bytes}.")
    return Part(folder, len(clips), sum(clip.clip.duration_s or 0.0 for clip in clips))


def unpacked_suffix(suffix: str) -> str:
    """The suffix of a clip once it is unpacked."""
    return DECODED if suffix == G722 else suffix


def _add(archive: zipfile.ZipFile, name: str, content: bytes, compression: int) -> None:
    archive.writestr(zipfile.ZipInfo(name), content, compression)  # of 1980: no clock in it


def _row(coded_clip: CodedClip, path: str) -> str:
    """A manifest's line. It has no start, so the duration cuts nothing: it is what the corpus says."""
    clip = coded_clip.clip
    row: Mapping[str, Any] = {  # Any: JSON values
        **clip.columns,
        "id": clip.id,
        "path": path,
        "text": clip.text,
        "speaker": clip.speaker,
        "language": clip.language,
        "split": coded_clip.split,
        "duration": clip.duration_s,
        "licence": clip.licence,
    }
    kept = {name: value for name, value in row.items() if value not in ("", None)}
    return json.dumps(kept, ensure_ascii=False) + "\n"
