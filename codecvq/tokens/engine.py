"""Tokenization of clips to a token dataset: read ahead, in batches of similar lengths, shard by shard.

A shard is written atomically after all of its clips are encoded, and a later run skips existing shards. So a
process that is killed loses only its current shard. Several processes can share a job: each takes every n-th
shard (`shard=(i, n)`). The process that completes the dataset writes the README, statistics and failures.

Codes do not depend on the other clips of a batch if the codec handles masks correctly. Kernels may round
differently between batch sizes, so a frame at equal distance from two codewords may get another code.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codecvq.codec.blocks import split_blocks
from codecvq.data.text import utf8_safe
from codecvq.errors import TokensError
from codecvq.files import write_atomically
from codecvq.plugins.third_party import contained
from codecvq.tokens import card as cards
from codecvq.tokens.card import Card, Histogram
from codecvq.tokens.columns import column_values
from codecvq.tokens.dataset import expected_shards, missing_shards, open_shard
from codecvq.tokens.locks import locked_part
from codecvq.tokens.plan import Plan, PlannedShard, check_columns, plan_job
from codecvq.tokens.rows import TokenFailure, TokenRow, codes_problem
from codecvq.tokens.shard import write_shard

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec
    from codecvq.data.corpus import Clip

READ_THREADS = 4  # decoding of audio releases the GIL
READ_AHEAD = 32  # clips


@dataclass(frozen=True)
class Progress:
    """Progress of a job. Shards of earlier runs count as done, but their audio is not included."""

    clips_done: int
    clips_total: int  # clips of this process
    failures: int
    audio_s: float
    elapsed_s: float


@dataclass(frozen=True)
class Summary:
    """The result of `tokenize`."""

    folder: Path
    clips: int  # rows that this run wrote
    clips_there: int  # rows that earlier runs wrote, in the shards of this process
    failures: tuple[TokenFailure, ...]  # in the shards of this process, including earlier runs and the corpus
    shards_written: int
    shards_skipped: int  # existing shards
    complete: bool  # False while shards of other processes are missing
    audio_s: float
    elapsed_s: float


@dataclass
class _Counters:
    """Counters of a run."""

    total: int
    report: Callable[[Progress], None] | None
    started_s: float
    rows: int = 0
    earlier: int = 0
    audio_s: float = 0.0

    def __post_init__(self) -> None:
        self.failures: list[TokenFailure] = []

    def report_progress(self) -> None:
        if self.report is not None:
            done = self.earlier + self.rows + len(self.failures)
            elapsed_s = time.monotonic() - self.started_s
            self.report(Progress(done, self.total, len(self.failures), self.audio_s, elapsed_s))


def tokenize(
    codec: AudioCodec,
    clips: Iterable[Clip],
    folder: str | Path,
    *,
    num_codebooks: int | None = None,
    shard_clips: int = 10_000,
    shard_seconds: float = 36_000.0,
    batch_seconds: float = 60.0,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Encode clips and write a token dataset to `folder`; see `codecvq.tokens.dataset` for its format.

    A repeated call resumes the job. A clip that cannot be read or encoded, or that the corpus lists as
    unusable, becomes a line in `failures.jsonl`, and the job continues. `batch_seconds` limits the audio of a
    batch, including padding. `shard=(i, n)` processes every n-th shard, starting at i.

    Raises TokensError if the folder contains tokens of another job, and if no clip could be tokenized.
    Raises FolderInUse if another process works on the same shards.
    """
    folder = Path(folder)
    index, processes = shard
    if not 0 <= index < processes:
        raise TokensError(
            f"shard is {index}/{processes}, but i/n with 0 <= i < n is needed, for example 0/4."
        )
    plan = plan_job(clips, shard_clips, shard_seconds)
    card = cards.make_card(codec, num_codebooks, plan.job)
    check_columns(card, plan)
    with locked_part(folder, index, processes, lambda: _prepare_folder(folder, card, codec)) as card:
        return _run(codec, card, plan, folder, plan.shards[index::processes], batch_seconds, progress)


def _run(
    codec: AudioCodec,
    card: Card,
    plan: Plan,
    folder: Path,
    shards: Sequence[PlannedShard],
    batch_seconds: float,
    progress: Callable[[Progress], None] | None,
) -> Summary:
    counters = _Counters(
        sum(len(planned.clips) + len(planned.failures) for planned in shards), progress, time.monotonic()
    )
    written = 0
    for planned in shards:
        path = folder / "data" / planned.name
        if path.exists():
            existing = open_shard(path, card)
            counters.earlier += len(existing)
            counters.failures += existing.failures
            counters.report_progress()
            continue
        _tokenize_shard(codec, card, plan, planned, path, batch_seconds, counters)
        written += 1
    complete = not missing_shards(folder, card)
    if complete:
        _finish(folder, card, plan)
    return Summary(
        folder, counters.rows, counters.earlier, tuple(counters.failures), written, len(shards) - written,
        complete, counters.audio_s, time.monotonic() - counters.started_s,
    )  # fmt: skip


def _prepare_folder(folder: Path, card: Card, codec: AudioCodec) -> Card:
    """Return the card of the folder: the stored one, or `card` after writing it to a new folder.

    Raises TokensError if the stored card belongs to another job, or if there are shards without a card.
    """
    if os.path.lexists(folder / cards.CARD_NAME):
        existing = cards.read_card(folder)
        cards.check_same_job(folder, existing, card, codec)
        return existing
    if any((folder / "data").glob("[!.]*.parquet")):
        raise TokensError(
            f"{folder}/data contains shards, but {folder} has no {cards.CARD_NAME}. Give another folder."
        )
    (folder / "data").mkdir(parents=True, exist_ok=True)
    write_atomically(folder / cards.CARD_NAME, card.to_json())
    return card


def _tokenize_shard(
    codec: AudioCodec,
    card: Card,
    plan: Plan,
    shard: PlannedShard,
    path: Path,
    batch_seconds: float,
    counters: _Counters,
) -> None:
    rows: dict[str, TokenRow] = {}
    failures: dict[str, TokenFailure] = {}
    for batch in _batches(shard.clips, card.sample_rate, batch_seconds, failures):
        for clip, length, result in _encode_clips(codec, card, batch):
            if isinstance(result, Exception):
                failures[clip.id] = _failure(clip, result)
                continue
            source = {"path": utf8_safe(str(clip.path)), "start_s": float(clip.start_s)}
            rows[clip.id] = TokenRow(clip.id, result, length, source, column_values(clip))
            counters.rows += 1
            counters.audio_s += length / card.sample_rate
        counters.report_progress()
    in_order = [rows[clip.id] for clip in shard.clips if clip.id in rows]
    failed = [*shard.failures, *(failures[clip.id] for clip in shard.clips if clip.id in failures)]
    write_shard(path, card, plan.columns, in_order, failed)
    counters.failures += failed
    counters.report_progress()


def _batches(
    clips: Sequence[Clip], sample_rate: int, batch_seconds: float, failures: dict[str, TokenFailure]
) -> Iterator[list[tuple[Clip, npt.NDArray[np.float32]]]]:
    """Yield batches of clips with their samples `[S]`; `count * longest` stays within `batch_seconds`.

    Clips that cannot be read are added to `failures`. The longest clips come first, so that a batch that
    exceeds the memory fails at the start and not after hours.
    """
    batch: list[tuple[Clip, npt.NDArray[np.float32]]] = []
    longest = 0
    for clip, samples in _read_ahead(sorted(clips, key=lambda clip: -(clip.duration_s or 0.0)), sample_rate):
        if isinstance(samples, Exception):
            failures[clip.id] = _failure(clip, samples)
            continue
        if batch and max(longest, samples.size) * (len(batch) + 1) > batch_seconds * sample_rate:
            yield batch
            batch, longest = [], 0
        batch.append((clip, samples))
        longest = max(longest, samples.size)
    if batch:
        yield batch


def _read_ahead(
    clips: Sequence[Clip], sample_rate: int
) -> Iterator[tuple[Clip, npt.NDArray[np.float32] | Exception]]:
    """Yield each clip with its samples or the exception of reading, in order.

    Threads read up to `READ_AHEAD` clips while the codec encodes.
    """
    waiting: deque[tuple[Clip, Future[npt.NDArray[np.float32]]]] = deque()
    with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="codecvq-read") as pool:
        try:
            for clip in clips:
                waiting.append((clip, pool.submit(clip.read, sample_rate)))
                if len(waiting) >= READ_AHEAD:
                    yield _result(*waiting.popleft())
            while waiting:
                yield _result(*waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()


def _result(
    clip: Clip, future: Future[npt.NDArray[np.float32]]
) -> tuple[Clip, npt.NDArray[np.float32] | Exception]:
    try:
        samples = future.result()
    except Exception as error:  # untrusted files can cause any error; record it and continue
        return clip, error
    return clip, samples if samples.size else TokensError("it has no samples")


def _encode_clips(
    codec: AudioCodec, card: Card, batch: Sequence[tuple[Clip, npt.NDArray[np.float32]]]
) -> Iterator[tuple[Clip, int, npt.NDArray[np.integer[Any]] | Exception]]:
    """Yield each clip of the batch with its length and its codes `[N, T]`, or with an exception.

    If the batch fails, encodes each clip separately.
    """
    try:
        codes = _encode_batch(codec, card, [samples for _, samples in batch])
    except Exception as error:  # for example out of memory, or NaN in one clip
        if len(batch) == 1:
            yield batch[0][0], 0, error
            return
        for item in batch:
            yield from _encode_clips(codec, card, [item])
        return
    for (clip, samples), row in zip(batch, codes, strict=True):
        clip_codes = row[:, : -(-samples.size // card.hop_length)]
        problem = codes_problem(clip_codes, samples.size, card)
        yield clip, samples.size, TokensError(f"{problem}.") if problem else clip_codes


def _encode_batch(
    codec: AudioCodec, card: Card, waves: Sequence[npt.NDArray[np.float32]]
) -> npt.NDArray[np.integer[Any]]:
    """Return codes `[B, N, T]` of mono waveforms `[S]`, copied to all channels of the codec."""
    import torch

    lengths = [wave.size for wave in waves]
    padded = np.zeros((len(waves), card.channels, max(lengths)), dtype=np.float32)
    for row, wave in zip(padded, waves, strict=True):
        row[:, : wave.size] = wave
    with contained(), torch.inference_mode():
        codes = codec.encode(
            torch.from_numpy(padded).to(codec.device),
            lengths=torch.tensor(lengths, device=codec.device),
            num_codebooks=len(card.codebook_sizes),
        )
    return codes.cpu().numpy()


def _failure(clip: Clip, error: Exception) -> TokenFailure:
    text = str(error) or type(error).__name__
    return TokenFailure(clip.id, utf8_safe(str(clip.path)), utf8_safe(" ".join(text.split())))


def _finish(folder: Path, card: Card, plan: Plan) -> None:
    """Write the files about the whole dataset: failures, statistics, and last the README.

    Raises TokensError if the dataset has no row.
    """
    histograms = [Histogram(size) for size in card.codebook_sizes]
    samples = frames = 0
    rows = dict.fromkeys(card.job.shards, 0)
    failures: list[TokenFailure] = []
    for shard in (open_shard(path, card) for path in expected_shards(folder, card)):
        failures += shard.failures
        rows[shard.split] += len(shard)
        for row in shard.rows():
            samples, frames = samples + row.num_samples, frames + row.num_frames
            for histogram, codes in zip(
                histograms, split_blocks(row.codes, card.frames_per_code), strict=True
            ):
                histogram.add(codes)
    lines = [json.dumps(vars(failure), ensure_ascii=False) + "\n" for failure in failures]
    write_atomically(folder / cards.FAILURES_NAME, "".join(lines))
    if not any(rows.values()):
        raise TokensError(
            f"none of the {card.job.clips} clips could be tokenized; first error: {failures[0].error} "
            f"All errors are in {folder / cards.FAILURES_NAME}; remove the folder and start again."
        )
    stats = cards.dataset_stats(card, histograms, rows, samples, frames, len(failures))
    write_atomically(folder / cards.STATS_NAME, json.dumps(stats, indent=2) + "\n")
    clip_fields = {(clip.language, clip.licence) for shard in plan.shards for clip in shard.clips}
    languages, licenses = {language for language, _ in clip_fields}, {licence for _, licence in clip_fields}
    write_atomically(folder / cards.README_NAME, cards.readme(card, stats, languages, licenses))
