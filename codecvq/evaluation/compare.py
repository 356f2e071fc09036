"""Comparison of several codecs on the same clips, with their real bit rates."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codecvq.errors import AudioError, CodecvqError, CorpusError, MissingProgram, PluginError, nearest
from codecvq.evaluation.audio_writer import AudioWriter
from codecvq.evaluation.comparison import ComparedClip, ComparedCodec, Comparison
from codecvq.evaluation.evaluate import (
    corpus_failures,
    evenly_spaced,
    metric_columns,
    package_versions,
    read_reference,
)
from codecvq.evaluation.exclusions import Exclusions
from codecvq.evaluation.machine import this_machine
from codecvq.evaluation.metrics import MetricSet, prepare
from codecvq.evaluation.packet_loss import PacketLoss
from codecvq.evaluation.pieces import PIECE_S, PieceMeasurement
from codecvq.evaluation.training_clips import TrainingClipTest, trained_clip_ids, training_clip_test
from codecvq.evaluation.transmission import (
    LossyTransmitter,
    Transmitter,
    check_transmission,
    long_transmission,
    open_transmitter,
    with_losses,
)
from codecvq.files import file_name
from codecvq.plugins.third_party import contained

if TYPE_CHECKING:
    from codecvq.data.corpus import Clip

SAMPLE_RATE = 16_000  # Hz; wideband speech, the sample rate of most metrics
GROUP = "group"  # default manifest column for groups

Progress = Callable[[str, int, int], None]  # codec name, transmissions done, total


@dataclass(kw_only=True)
class _Results(Exclusions):
    """The results of one codec, collected clip by clip."""

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
    against: str | None = None,
    audio_dir: str | Path | None = None,
    losses: Sequence[PacketLoss] = (),
    progress: Progress | None = None,
) -> Comparison:
    """Compare codecs on the same clips, all measured at one sample rate.

    The reference is the clip as mono audio at `sample_rate`. Each codec encodes it at its own sample rate,
    and its output is resampled back. Clips that a corpus lists as unusable (in its `failures`) are failures
    of every codec. A clip above 60 s is coded as a stream, or by external codecs in pieces of 60 s, and
    measured in pieces of 60 s; its values are the means over the pieces, weighted by their duration.

    Args:
        codecs: names, run folders or saved folders, each optionally with `@n` for its first n codebooks; or
            transmitters. A codec whose programs are not installed is listed in `absent` and skipped.
        corpus: the clips.
        metrics: names of metrics, or a prepared set; by default all default metrics that are available.
        data: name of the data in the result.
        group_by: "speaker", "language" or a column of the manifest; by default "group" if there is such a
            column; "" for no groups.
        max_clips: number of clips to use, spread evenly over the corpus.
        sample_rate: sample rate of the measurement, in Hz.
        device: device of the codecs.
        against: the codec for differences in later tables. It must be one of `codecs`, and has no other
            effect here.
        audio_dir: folder for the decoded audio of every codec.
        losses: losses of packets; each codec is compared at each of them, by default without loss. Lost
            frames are concealed as by `stream_decoder().lost`. External codecs take part without loss only.
        progress: called after every transmission.

    Raises CodecvqError for an unknown name, for no clips, and if no codec is installed. These checks run
    before the measurement.
    """
    import torch

    clips = evenly_spaced(corpus, max_clips)
    if not clips:
        raise CorpusError("there are no clips to compare codecs on. Give a corpus or a split that has clips.")
    ready = metrics if isinstance(metrics, MetricSet) else prepare(metrics)
    group_by = _group_by(clips, group_by)
    transmitters, absent = _open(codecs, device)
    if losses:
        transmitters, without_loss = with_losses(transmitters, losses)
        absent |= without_loss
        if not transmitters:
            raise CodecvqError(" ".join(f"{name}: {reason}" for name, reason in without_loss.items()))
    codec_infos = [(_identity(transmitter), _training_clip_test(transmitter)) for transmitter in transmitters]
    _check_against(against, transmitters, absent)
    unusable = corpus_failures(corpus)
    compared: list[ComparedCodec] = []
    for transmitter, (identity, is_training_clip) in zip(transmitters, codec_infos, strict=True):
        results = _Results(failures=list(unusable))
        audio = AudioWriter(_folder_of(transmitter, audio_dir), sample_rate)
        for count, clip in enumerate(clips, start=1):
            group = _group_of(clip, group_by)
            _add(results, transmitter, clip, group, ready, audio, count - 1)
            if progress:
                done = len(compared) * len(clips) + count
                progress(transmitter.name, done, len(transmitters) * len(clips))
        compared.append(
            ComparedCodec(
                name=transmitter.name,
                identity=identity,
                **_loss_of(transmitter),
                rows=tuple(results.rows),
                failures=tuple(results.failures),
                undefined=tuple(results.undefined),
                trained_on=trained_clip_ids(
                    transmitter.name, is_training_clip, clips, [row.id for row in results.rows]
                ),
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
        clips_given=len(clips) + len(unusable),
        columns=metric_columns(ready),
        codecs=tuple(compared),
        absent=absent,
        unavailable={missing.name: missing.reason for missing in ready.unavailable},
        versions=package_versions(ready),
        machine=this_machine(torch.device(device)),
    )


def _open(codecs: Sequence[str | Transmitter], device: str) -> tuple[list[Transmitter], dict[str, str]]:
    """Open all codecs; returns those that are installed, and the reason for each one that is not."""
    opened: list[Transmitter] = []
    absent: dict[str, str] = {}
    for codec in codecs:
        try:
            opened.append(open_transmitter(codec, device) if isinstance(codec, str) else codec)
        except MissingProgram as error:
            absent[str(codec)] = str(error)
    names = [codec.name for codec in opened]
    if duplicates := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise CodecvqError(f"codec {duplicates[0]} is given twice. Give each codec once.")
    if not opened:
        raise CodecvqError(" ".join(absent.values()) or "no codec was given. Give one or more.")
    return opened, absent


def _loss_of(transmitter: Transmitter) -> dict[str, Any]:  # Any: arguments of ComparedCodec
    if isinstance(transmitter, LossyTransmitter):
        return {"without_loss": transmitter.transmitter.name, "loss": transmitter.loss}
    return {}


def _training_clip_test(transmitter: Transmitter) -> TrainingClipTest | None:
    source = getattr(transmitter, "source", None)  # third-party transmitters have no source
    return None if source is None else training_clip_test(source)


def _folder_of(transmitter: Transmitter, audio_dir: str | Path | None) -> Path | None:
    return None if audio_dir is None else Path(audio_dir) / file_name(transmitter.name)


def _identity(transmitter: Transmitter) -> dict[str, Any]:  # Any: JSON
    """Return the identity of a transmitter as JSON data; raises PluginError if it is not JSON."""
    try:
        return dict(json.loads(json.dumps(dict(transmitter.identity), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"the identity of codec {transmitter.name!r} is not JSON ({error}). Update its plugin."
        ) from error


def _check_against(name: str | None, opened: Sequence[Transmitter], absent: Mapping[str, str]) -> None:
    if name is not None and name not in (known := [codec.name for codec in opened]):
        raise CodecvqError(
            absent.get(name)
            or f"codec {name!r} is not part of the comparison, so there are no differences to it; the codecs "
            f"are {', '.join(known)}.{nearest(name, known)}"
        )


def _group_by(clips: Sequence[Clip], column: str | None) -> str:
    if column is None:
        return GROUP if any(GROUP in clip.columns for clip in clips) else ""
    if not column:
        return ""
    known = {"speaker", "language", *(name for clip in clips for name in clip.columns)}
    if column not in known:
        raise CorpusError(f"the clips have no column {column!r} for groups; there are {sorted(known)}.")
    return column


def _group_of(clip: Clip, column: str) -> str:
    if column in ("speaker", "language"):
        return str(getattr(clip, column))
    return str(clip.columns.get(column, "")) if column else ""


def _add(
    results: _Results,
    transmitter: Transmitter,
    clip: Clip,
    group: str,
    metrics: MetricSet,
    audio: AudioWriter,
    number: int,
) -> None:
    """Add one clip to the results of a codec: a row or a failure."""
    sample_rate = audio.sample_rate
    try:
        samples = read_reference(clip, sample_rate)
    except Exception as error:  # untrusted file, third-party corpus
        return results.fail(clip.id, "read", error)
    if samples is None:
        return _add_long(results, transmitter, clip, group, metrics, audio, number)
    try:
        with contained():
            transmission = transmitter.transmit(samples, sample_rate)
        check_transmission(transmission.samples, samples)
    except Exception as error:  # third-party codec or program
        return results.fail(clip.id, "codec", error)
    audio.write(f"{number:04d}-{clip.id}", transmission.samples, clip.id, results)
    results.rows.append(
        ComparedClip(
            id=clip.id,
            group=group,
            duration_s=samples.size / sample_rate,
            payload_bits=transmission.payload_bits,
            values=results.measure(metrics, clip.id, samples, transmission.samples, sample_rate),
        )
    )
    return None


def _add_long(
    results: _Results,
    transmitter: Transmitter,
    clip: Clip,
    group: str,
    metrics: MetricSet,
    audio: AudioWriter,
    number: int,
) -> None:
    """Add a clip above `PIECE_S`: coded as a stream if the transmitter can, and measured in pieces."""
    sample_rate = audio.sample_rate
    measurement = PieceMeasurement(
        metrics, clip.id, sample_rate, results,
        lambda _, decoded: audio.write(f"{number:04d}-{clip.id}", decoded, clip.id, results),
    )  # fmt: skip
    try:
        with contained():
            transmission = long_transmission(
                transmitter, lambda: clip.read_blocks(sample_rate), sample_rate, PIECE_S
            )
            for samples, decoded in transmission.blocks():
                measurement.add(samples, decoded)
            bits = transmission.payload_bits
        values = measurement.finish()
    except (AudioError, OSError) as error:
        return results.fail(clip.id, "read", error)
    except Exception as error:  # third-party codec or program
        return results.fail(clip.id, "codec", error)
    duration_s = measurement.samples / sample_rate
    results.rows.append(
        ComparedClip(
            id=clip.id,
            group=group,
            duration_s=duration_s,
            payload_bits=bits,
            values=values,
            pieces=measurement.pieces,
        )
    )
    return None
