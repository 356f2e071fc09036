"""Evaluation of a codec on a corpus: encodes, decodes and measures each clip."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codecvq.errors import AudioError, CodecvqError, CorpusError
from codecvq.evaluation.audio_writer import AudioWriter
from codecvq.evaluation.bitrate import CodeCounter, FileBytes, file_bytes, rates
from codecvq.evaluation.exclusions import Exclusions
from codecvq.evaluation.interval import Mean, mean_of
from codecvq.evaluation.machine import this_machine
from codecvq.evaluation.metrics import MetricSet, prepare
from codecvq.evaluation.pieces import PIECE_S, PieceMeasurement
from codecvq.evaluation.result import ClipRow, Column, Evaluation, Failure
from codecvq.evaluation.training_clips import TrainingClipTest, trained_clip_ids
from codecvq.evaluation.transcoding import Transcoding, now
from codecvq.plugins.third_party import contained

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec
    from codecvq.data.corpus import Clip

Progress = Callable[[int, int, str], None]  # clips done, total, id of the last clip


@dataclass(frozen=True)
class _Reconstruction:
    codes: np.ndarray  # [N, T]
    decoded: np.ndarray  # [S]
    encode_s: float
    decode_s: float


@dataclass(kw_only=True)
class _Results(Exclusions):
    """The results, collected clip by clip; the only mutable state of an evaluation."""

    counter: CodeCounter
    rows: list[ClipRow] = field(default_factory=list)


def evaluate(
    codec: AudioCodec,
    corpus: Iterable[Clip],
    metrics: Iterable[str] | MetricSet | None = None,
    max_clips: int | None = None,
    audio_dir: str | Path | None = None,
    progress: Progress | None = None,
    is_training_clip: TrainingClipTest | None = None,
) -> Evaluation:
    """Evaluate a codec on clips; each clip is encoded and decoded separately and as a whole.

    A clip above 60 s is encoded and decoded as a stream, with the same codes, and measured in pieces of 60 s.
    Its values are the means over the pieces, weighted by their duration.

    The reference of every metric is the clip as mono audio at the codec's sample rate, so the loss of
    resampling does not count. Signals are not aligned. A clip that fails is listed in `failures` of the
    result, and the evaluation continues.

    Args:
        codec: the codec.
        corpus: the clips. Clips that a corpus lists as unusable (in its `failures`) are failures here too.
        metrics: names of metrics, or a prepared set; by default all default metrics that are available.
        max_clips: number of clips to use, spread evenly over the corpus.
        audio_dir: folder for the original and decoded audio.
        progress: called after every clip.
        is_training_clip: returns whether the codec was trained on a clip; `training_clip_test` creates this
            function for a run folder. Clips with the result True are listed in `trained_on` of the result.

    Raises CodecvqError if there are no clips, or if no clip could be evaluated.
    """
    clips = evenly_spaced(corpus, max_clips)
    if not clips:
        raise CorpusError("there are no clips to evaluate. Give a corpus or a split that has clips.")
    ready = metrics if isinstance(metrics, MetricSet) else prepare(metrics)
    audio = AudioWriter(None if audio_dir is None else Path(audio_dir), codec.sample_rate)
    results = _Results(
        counter=CodeCounter(codec.codebook_sizes, codec.strides), failures=corpus_failures(corpus)
    )
    given = len(clips) + len(results.failures)
    for done, clip in enumerate(clips, start=1):
        _evaluate_clip(codec, clip, ready, results, audio)
        if progress:
            progress(done, len(clips), clip.id)
    if not results.rows:
        first = results.failures[0]
        raise CodecvqError(
            f"none of {given} clips could be evaluated; the first, {first.clip!r}, failed "
            f"({first.stage}): {first.reason}"
        ) from results.first_error
    trained_on = trained_clip_ids(codec.name, is_training_clip, clips, [row.id for row in results.rows])
    return replace(_build_evaluation(codec, ready, results, given, audio.folder), trained_on=trained_on)


def corpus_failures(corpus: Iterable[Clip]) -> list[Failure]:
    """Return the clips that a corpus lists as unusable, as failures of the stage "read"."""
    return [Failure(failure.id, "read", failure.error) for failure in getattr(corpus, "failures", ())]


def read_reference(clip: Clip, sample_rate: int) -> np.ndarray | None:
    """Read the samples `[S]` of a clip, or return None for a long clip, which is measured in pieces.

    Raises CorpusError for an empty clip, and any error of reading.
    """
    samples = clip.read_short(sample_rate, PIECE_S)
    if samples is not None and not samples.size:
        raise CorpusError(f"{clip.path} has no samples")
    return samples


def evenly_spaced(corpus: Iterable[Clip], max_clips: int | None) -> list[Clip]:
    """Return at most `max_clips` clips at even distances; the first clips would often be of one speaker."""
    clips = getattr(corpus, "clips", None) or list(corpus)  # a corpus creates only the selected clips
    if max_clips is None or max_clips >= len(clips):
        return list(clips)
    if max_clips < 1:
        raise CorpusError(f"max_clips is {max_clips}, but 1 or more is needed.")
    return [clips[i * len(clips) // max_clips] for i in range(max_clips)]


def _evaluate_clip(
    codec: AudioCodec, clip: Clip, metrics: MetricSet, results: _Results, audio: AudioWriter
) -> None:
    """Add one clip to the results: a row or a failure."""
    try:
        samples = read_reference(clip, codec.sample_rate)
    except Exception as error:  # untrusted file, third-party corpus
        return results.fail(clip.id, "read", error)
    if samples is None:
        return _evaluate_long_clip(codec, clip, metrics, results, audio)
    try:
        with contained():
            if not results.rows:
                _reconstruct(codec, samples)  # warm-up: allocation and compilation are not timed
            result = _reconstruct(codec, samples)
    except Exception as error:  # third-party quantizer or network, or out of memory
        return results.fail(clip.id, "codec", error)
    if result.decoded.size != samples.size:
        problem = f"decoded to {result.decoded.size} samples, the original has {samples.size}"
        return results.fail(clip.id, "length", CodecvqError(problem))
    if not np.isfinite(result.decoded).all():
        return results.fail(clip.id, "finite", CodecvqError("decoded to NaN or infinity"))
    results.counter.add(result.codes)
    results.rows.append(_row(codec, clip, samples, result, metrics, results, audio))
    return None


def _row(
    codec: AudioCodec,
    clip: Clip,
    samples: np.ndarray,
    result: _Reconstruction,
    metrics: MetricSet,
    results: _Results,
    audio: AudioWriter,
) -> ClipRow:
    """Measure a decoded clip, write its audio, and return its row."""
    rate = codec.sample_rate
    original, decoded = _write_audio(clip, samples, result.decoded, results, audio)
    return ClipRow(
        id=clip.id,
        path=str(clip.path),
        text=clip.text,
        speaker=clip.speaker,
        language=clip.language,
        duration_s=samples.size / rate,
        num_samples=samples.size,
        num_frames=result.codes.shape[-1],
        encode_s=result.encode_s,
        decode_s=result.decode_s,
        values=results.measure(metrics, clip.id, samples, result.decoded, rate),
        files=_files(codec, clip.id, result.codes, samples.size, results),
        original_audio=original,
        decoded_audio=decoded,
    )


def _write_audio(
    clip: Clip, original: np.ndarray, decoded: np.ndarray, results: _Results, audio: AudioWriter
) -> tuple[str, str]:
    """Write both signals, and return the names of the files."""
    stem = f"{len(results.rows):04d}-{clip.id}"
    return (
        audio.write(f"{stem}.original", original, clip.id, results),
        audio.write(f"{stem}.decoded", decoded, clip.id, results),
    )


def _evaluate_long_clip(
    codec: AudioCodec, clip: Clip, metrics: MetricSet, results: _Results, audio: AudioWriter
) -> None:
    """Add a clip above `PIECE_S` to the results: a row or a failure.

    The codec encodes and decodes it as a stream, and the metrics measure pieces of it.
    """
    files = ("", "")

    def write_first(original: np.ndarray, decoded: np.ndarray) -> None:
        nonlocal files
        files = _write_audio(clip, original, decoded, results, audio)

    measurement = PieceMeasurement(metrics, clip.id, codec.sample_rate, results, write_first)
    try:
        with contained():
            coding = Transcoding(codec, lambda: clip.read_blocks(codec.sample_rate))
            for reference, decoded in coding.blocks():
                measurement.add(reference, decoded)
        values = measurement.finish()
    except (AudioError, OSError) as error:
        return results.fail(clip.id, "read", error)
    except Exception as error:  # third-party quantizer or network, or out of memory
        return results.fail(clip.id, "codec", error)
    codes = coding.codes()
    results.counter.add(codes)
    results.rows.append(
        ClipRow(
            id=clip.id,
            path=str(clip.path),
            text=clip.text,
            speaker=clip.speaker,
            language=clip.language,
            duration_s=measurement.samples / codec.sample_rate,
            num_samples=measurement.samples,
            num_frames=codes.shape[1],
            encode_s=coding.encode_s,
            decode_s=coding.decode_s,
            values=values,
            pieces=measurement.pieces,
            files=_files(codec, clip.id, codes, measurement.samples, results),
            original_audio=files[0],
            decoded_audio=files[1],
        )
    )
    return None


def _reconstruct(codec: AudioCodec, samples: np.ndarray) -> _Reconstruction:
    """Encode and decode samples `[S]`, and measure the time of both."""
    import torch

    wav = (
        torch.from_numpy(samples).to(codec.device).expand(1, codec.channels, -1)
    )  # mono, copied to every channel
    with torch.inference_mode():
        start = now(codec.device)
        codes = codec.encode(wav)  # [1, N, T]
        middle = now(codec.device)
        decoded = codec.decode(codes, num_samples=samples.size)  # [1, C, S]
        end = now(codec.device)
    if codes.ndim != 3 or codes.shape[1] != len(codec.codebook_sizes):
        raise CodecvqError(
            f"encoded to codes of shape {list(codes.shape)}, not [1, {len(codec.codebook_sizes)}, T]"
        )
    mono = decoded[0].float().mean(dim=0).cpu().numpy()
    return _Reconstruction(codes[0].cpu().numpy(), mono, middle - start, end - middle)


def _files(
    codec: AudioCodec, clip: str, codes: np.ndarray, num_samples: int, results: _Results
) -> FileBytes | None:
    try:
        return file_bytes(codec, codes, num_samples)
    except Exception as error:  # codes of a third-party quantizer
        results.fail(clip, "file", error)
        return None


def _build_evaluation(
    codec: AudioCodec, metrics: MetricSet, results: _Results, clips_given: int, folder: Path | None
) -> Evaluation:
    """Build the evaluation from the results."""
    rows = results.rows
    columns = metric_columns(metrics)
    names = [column.name for column in columns]
    duration_s = sum(row.duration_s for row in rows)
    files = [(row.files, row.duration_s) for row in rows if row.files]
    return Evaluation(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        codec=identity(codec),
        columns=columns,
        rows=tuple(rows),
        means=means(rows, names),
        groups={kind: _group_means(rows, kind, names) for kind in ("speaker", "language")},
        bitrate=rates(
            results.counter,
            float(codec.frame_rate),
            duration_s,
            [f for f, _ in files],
            sum(s for _, s in files),
        ),
        encode_rtf=sum(row.encode_s for row in rows) / duration_s,
        decode_rtf=sum(row.decode_s for row in rows) / duration_s,
        clips_given=clips_given,
        failures=tuple(results.failures),
        undefined=tuple(results.undefined),
        unavailable={missing.name: missing.reason for missing in metrics.unavailable},
        versions=package_versions(metrics),
        machine=this_machine(codec.device),
        audio_dir=folder,
    )


def metric_columns(metrics: MetricSet) -> tuple[Column, ...]:
    """Return the columns of all metrics, in the order of the tables."""
    return tuple(
        Column(
            name=name,
            metric=metric.name,
            unit=metric.spec.unit,
            higher_is_better=metric.spec.higher_is_better,
            summary=metric.spec.summary,
            reference=metric.spec.reference,
        )
        for metric in metrics.ready
        for name in metric.spec.columns
    )


def means(rows: Sequence[ClipRow], columns: Iterable[str]) -> dict[str, Mean]:
    """Return the mean of each column over the clips that have a value."""
    return {name: mean_of([row.values[name] for row in rows if name in row.values]) for name in columns}


def _group_means(rows: Sequence[ClipRow], kind: str, columns: Sequence[str]) -> dict[str, dict[str, Mean]]:
    """Return the means per speaker or language; empty if there is only one group."""
    groups: dict[str, list[ClipRow]] = {}
    for row in rows:
        groups.setdefault(getattr(row, kind), []).append(row)
    return (
        {group: means(members, columns) for group, members in sorted(groups.items())}
        if len(groups) > 1
        else {}
    )


def identity(codec: AudioCodec) -> Mapping[str, Any]:  # Any: JSON
    """Return the identity of a codec as JSON data: names, rates, hashes of weights and codebooks."""
    return {
        "name": codec.name,
        "sample_rate": codec.sample_rate,
        "hop_length": codec.hop_length,
        "frame_rate": str(codec.frame_rate),  # exact fraction
        "channels": codec.channels,
        "num_codebooks": codec.num_codebooks,
        "codebook_sizes": list(codec.codebook_sizes),
        "strides": list(codec.strides),
        "bitrate_bps": codec.bitrate,
        "quantizer": dict(codec.quantizer_info),
        "weights_sha256": codec.weights_sha256,
        "codebooks_sha256": codec.codebooks_sha256,
    }


def package_versions(metrics: MetricSet) -> dict[str, str]:
    """Return distribution -> version of all packages that can affect the results."""
    import torch

    from codecvq import __version__

    packages = {name: version for metric in metrics.ready for name, version in metric.packages.items()}
    shared = {name: importlib.metadata.version(name) for name in ("numpy", "soxr", "soundfile")}
    return {"codecvq": __version__, "torch": torch.__version__, **shared, **packages}
