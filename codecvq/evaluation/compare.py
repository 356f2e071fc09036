"""Several codecs over the same clips, each at its real rate: yours, pretrained ones, and those of others."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codecvq.errors import CodecvqError, CorpusError, MissingProgram
from codecvq.evaluation.comparison import ComparedClip, ComparedCodec, Comparison
from codecvq.evaluation.evaluate import columns_of, spread, versions_of
from codecvq.evaluation.left_out import LeftOut
from codecvq.evaluation.machine import this_machine
from codecvq.evaluation.metrics import MetricSet, prepare
from codecvq.evaluation.transmission import Transmitter, open_transmitter

if TYPE_CHECKING:
    from codecvq.training.corpus import Clip

SAMPLE_RATE = 16_000  # Hz, of most measures, and of the wideband that codecs for speech are compared in
GROUP = "group"  # the column of a manifest that groups its clips if none is named

Progress = Callable[[str, int, int], None]  # codec, transmissions done, transmissions in all


@dataclass(kw_only=True)
class _Findings(LeftOut):
    """What has been found of one codec so far."""

    rows: list[ComparedClip] = field(default_factory=list)


def compare(
    codecs: Sequence[str | Transmitter],
    corpus: Iterable[Clip],
    metrics: Iterable[str] | MetricSet | None = None,
    *,
    data: str = "",
    group_by: str | None = None,
    max_clips: int | None = None,
    sample_rate: int = SAMPLE_RATE,
    device: str = "cpu",
    audio_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """The comparison of codecs over the same clips, all measured at one sample rate.

    `codecs` are names, run folders, saved folders, each with `@n` for its first n codebooks; or transmitters.
    The reference is the clip as mono audio at `sample_rate`; every codec takes it at its own rate, and what
    it gives is brought back. `group_by` is "speaker", "language" or a column of the manifest, by default
    "group" where there is one; "" for no groups. A codec whose programs are not installed is listed in
    `absent`, and the others go on. `audio_dir` gets what every codec makes of every clip.

    Raises CodecvqError for a name that is nobody's, for no clips, and when no codec is installed.
    """
    import torch

    clips = spread(list(corpus), max_clips)
    if not clips:
        raise CorpusError(
            "there is no clip to compare codecs on. Give a corpus, or a split of it, that has some."
        )
    ready = metrics if isinstance(metrics, MetricSet) else prepare(metrics)
    group_by = _group_by(clips, group_by)
    transmitters, absent = _open(codecs, device)
    folder = None if audio_dir is None else Path(audio_dir)
    compared: list[ComparedCodec] = []
    for transmitter in transmitters:
        found = _Findings()
        for place, clip in enumerate(clips, start=1):
            group = _group_of(clip, group_by)
            _add(found, transmitter, clip, group, ready, sample_rate, folder)
            if progress:
                done = len(compared) * len(clips) + place
                progress(transmitter.name, done, len(transmitters) * len(clips))
        compared.append(
            ComparedCodec(
                name=transmitter.name,
                identity=transmitter.identity,
                rows=tuple(found.rows),
                failures=tuple(found.failures),
                undefined=tuple(found.undefined),
            )
        )
    if not any(codec.rows for codec in compared):
        first = compared[0].failures[0]
        raise CodecvqError(
            f"none of the clips could be coded; the first, {first.clip!r}, failed with "
            f"{compared[0].name} ({first.stage}): {first.reason}"
        )
    return Comparison(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        data=data,
        sample_rate=sample_rate,
        group_by=group_by,
        clips_given=len(clips),
        columns=columns_of(ready),
        codecs=tuple(compared),
        absent=absent,
        unavailable={missing.name: missing.reason for missing in ready.unavailable},
        versions=versions_of(ready),
        machine=this_machine(torch.device(device)),
    )


def _open(codecs: Sequence[str | Transmitter], device: str) -> tuple[list[Transmitter], dict[str, str]]:
    """Every codec that is there, and why others are not; a wrong name is found before all measuring."""
    opened: list[Transmitter] = []
    absent: dict[str, str] = {}
    for codec in codecs:
        try:
            opened.append(open_transmitter(codec, device) if isinstance(codec, str) else codec)
        except MissingProgram as error:
            absent[str(codec)] = str(error)
    names = [codec.name for codec in opened]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise CodecvqError(f"codec {twice[0]} is named twice. Name each codec once.")
    if not opened:
        raise CodecvqError(" ".join(absent.values()) or "no codec was named. Name one or more.")
    return opened, absent


def _group_by(clips: Sequence[Clip], column: str | None) -> str:
    if column is None:
        return GROUP if any(GROUP in clip.columns for clip in clips) else ""
    if not column:
        return ""
    known = {"speaker", "language", *(name for clip in clips for name in clip.columns)}
    if column not in known:
        raise CorpusError(f"the clips have no column {column!r} to group them by; there are {sorted(known)}.")
    return column


def _group_of(clip: Clip, column: str) -> str:
    if column in ("speaker", "language"):
        return str(getattr(clip, column))
    return str(clip.columns.get(column, "")) if column else ""


def _add(
    found: _Findings,
    transmitter: Transmitter,
    clip: Clip,
    group: str,
    metrics: MetricSet,
    sample_rate: int,
    folder: Path | None,
) -> None:
    """Add one clip to what was found of a codec: a row, or a failure."""
    try:
        samples = np.asarray(clip.read(sample_rate), dtype=np.float32)
    except Exception as error:  # a file may be anything, and a corpus may be a stranger's
        return found.fail(clip.id, "read", error)
    try:
        sent = transmitter.transmit(samples, sample_rate)
        _check(sent.samples, samples)
    except Exception as error:  # a stranger's codec, or a program that ends without a word
        return found.fail(clip.id, "codec", error)
    if folder is not None:
        _write(folder / _file_name(transmitter.name), clip.id, sent.samples, sample_rate)
    found.rows.append(
        ComparedClip(
            id=clip.id,
            group=group,
            duration_s=samples.size / sample_rate,
            payload_bits=sent.payload_bits,
            values=found.measure(metrics, clip.id, samples, sent.samples, sample_rate),
        )
    )
    return None


def _check(decoded: np.ndarray, samples: np.ndarray) -> None:
    if decoded.size != samples.size:
        raise CodecvqError(f"decoded to {decoded.size} samples, the original has {samples.size}")
    if not np.isfinite(decoded).all():
        raise CodecvqError("decoded to NaN or infinity")


def _write(folder: Path, clip: str, samples: np.ndarray, sample_rate: int) -> None:
    from codecvq.audio import write_audio

    folder.mkdir(parents=True, exist_ok=True)
    write_audio(folder / f"{_file_name(clip)}.flac", samples, sample_rate)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._@-]+", "_", name)[-120:]
