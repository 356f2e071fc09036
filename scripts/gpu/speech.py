"""Speech in parts that are transferred one by one: `speech-1/clips.zip`, `speech-2/clips.zip`, ...

A part is an uncompressed zip of clips, one file each, and of `manifest.jsonl` with their rows. Parts contain
the training and validation clips in the order of the corpus. The joined manifests of all parts list the clips
in the order in which training draws them, with the durations of the corpus. Test clips and held-out speakers
are not packed.

The format is zip, because 14,000 single files are slow to transfer. A tar adds 0.8 kB per clip, a zip 0.1 kB.
One long Opus file per part is smaller by a hundredth, but a clip cut out of it differs from the coded clip:
the decoder restarts 80 ms earlier, and the preceding clip leaks into the first frames.

G.722 files are packed unchanged (64 kbit/s, lossless; as FLAC they have 163 kbit/s). All other clips are
coded as Opus with `opusenc`, or as FLAC if that fits.
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
#: Overhead of a zip: two headers and twice a name of about ten letters per file; its end record.
BYTES_A_FILE, BYTES_A_ZIP = 76 + 2 * 16, 22
OPUSENC = (
    "opusenc", "--quiet", "--raw", "--raw-rate", str(SAMPLE_RATE), "--raw-chan", "1",
    "--serial", "1", "--padding", "0",
)  # fmt: skip


@dataclass(frozen=True)
class CodedClip:
    """A clip as it is packed."""

    clip: Clip
    split: str
    suffix: str  # ".opus", ".flac" or ".g722"
    content: bytes


@dataclass(frozen=True)
class Part:
    """A written part."""

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
    """Write the parts below `out` and return them; each has at most `limit_bytes`.

    Raises CorpusError if the corpus has failures or does not fit into `max_parts`.
    """
    corpus = corpus.measured()
    if corpus.failures:
        raise CorpusError(f"corpus {corpus.name!r}: {corpus.failures[0]}. Repair or exclude it.")
    chosen = clips_to_pack(corpus)

    def code(clip: Clip) -> CodedClip:
        return encode_clip(clip, corpus.split_of(clip), coding, bitrate_bps)

    for stale in out.glob("speech-*"):
        shutil.rmtree(stale)
    parts = list[Part]()
    with ThreadPoolExecutor(PROCESSES) as pool:  # the threads mostly wait for opusenc, soxr and libsndfile
        for number, clips in enumerate(split_into_parts(pool.map(code, chosen), limit_bytes), start=1):
            if number > max_parts:
                raise CorpusError(
                    f"corpus {corpus.name!r}: {max_parts} parts of {limit_bytes} bytes contain "
                    f"{sum(part.clips for part in parts)} of {len(chosen)} clips. Lower the bit rate."
                )
            parts.append(write_part(out / f"speech-{number}", clips, limit_bytes))
    return parts


def clips_to_pack(corpus: Corpus) -> list[Clip]:
    """The training and validation clips in the order of the corpus."""
    clips = [clip for clip in corpus if corpus.split_of(clip) != "test"]
    for clip in clips:  # the corpora guarantee this; a leak would invalidate every later comparison
        if clip.speaker in HELD_OUT_SPEAKERS or {clip.id, clip.split_key} & HELD_OUT:
            raise CorpusError(f"clip {clip.id} is held out, but its split is {corpus.split_of(clip)!r}.")
    return clips


def encode_clip(clip: Clip, split: str, coding: Coding, bitrate_bps: int) -> CodedClip:
    """Encode a clip for transfer; it decodes to the same number of samples at 16 kHz.

    Raises CorpusError otherwise.
    """
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
    """Samples `[S]` as used in training: rounded to 16 bits and clamped."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def to_flac(samples: Int16Array) -> bytes:
    """A FLAC file of samples `[S]`, at the highest compression of libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=1.0)
    return file.getvalue()


def to_opus(samples: Int16Array, bitrate_bps: int) -> bytes:
    """An Ogg Opus file of samples `[S]` at a variable bit rate around `bitrate_bps`; reproducible.

    Raises CorpusError if opusenc is missing or fails.
    """
    command = [*OPUSENC, "--bitrate", f"{bitrate_bps / 1000:.3f}", "--framesize", "40", "-", "-"]
    try:
        return subprocess.run(
            command, input=samples.astype("<i2").tobytes(), capture_output=True, check=True
        ).stdout
    except FileNotFoundError as error:
        raise CorpusError("opusenc is not installed. apt-get install opus-tools, or use FLAC.") from error
    except subprocess.CalledProcessError as error:
        raise CorpusError(f"opusenc failed: {error.stderr.decode(errors='replace').strip()}") from error


def split_into_parts(clips: Iterable[CodedClip], limit_bytes: int) -> Iterator[list[CodedClip]]:
    """Split the clips, in order, into lists as long as the limit allows."""
    part: list[CodedClip] = []
    free = limit_bytes - BYTES_A_ZIP
    for clip in clips:
        # A third of the row's length is an upper bound of its size in the compressed manifest.
        size = len(clip.content) + BYTES_A_FILE + len(_row(clip, "")) // 3
        if size > free and part:
            yield part
            part, free = [], limit_bytes - BYTES_A_ZIP
        part.append(clip)
        free -= size
    if part:
        yield part


def write_part(folder: Path, clips: list[CodedClip], limit_bytes: int) -> Part:
    """Write a part with these clips. Raises CorpusError if it exceeds the limit."""
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
    """The suffix of a clip after unpacking."""
    return DECODED if suffix == G722 else suffix


def _add(archive: zipfile.ZipFile, name: str, content: bytes, compression: int) -> None:
    archive.writestr(zipfile.ZipInfo(name), content, compression)  # constant date of 1980: reproducible


def _row(coded_clip: CodedClip, path: str) -> str:
    """A row of the manifest.

    It has no start, so the duration, as reported by the corpus, does not cut the clip.
    """
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
    non_empty = {name: value for name, value in row.items() if value not in ("", None)}
    return json.dumps(non_empty, ensure_ascii=False) + "\n"
