"""From clips to a token dataset: read ahead, in batches of similar lengths, shard by shard.

A shard is written when all of its clips are encoded, under its final name or not at all; a later run skips
the shards that are there. So a process killed at any moment loses the shard in work and nothing else, and
several processes may share a job: each takes every n-th shard (`shard=(i, n)`), and whichever finds the last
one there writes the README, statistics and failures.

Codes don't depend on what a clip is batched with, as far as the codec's masks are right and the arithmetic is
the same; kernels may differ between batch sizes, so a code whose frame lies on the border of two codewords
may too.
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

READ_THREADS = 4  # threads; decoding audio releases the interpreter's lock
READ_AHEAD = 32  # clips


@dataclass(frozen=True)
class Progress:
    """How far a job is. Shards that an earlier run wrote count as done, but not as audio of this run."""

    clips_done: int
    clips_total: int  # of this process
    failures: int
    audio_s: float
    elapsed_s: float


@dataclass(frozen=True)
class Summary:
    """What a call of `tokenize` did, and whether the dataset is complete now."""

    folder: Path
    clips: int  # rows written in this run
    clips_there: int  # rows of this process's shards that earlier runs wrote
    failures: tuple[TokenFailure, ...]  # in this process's shards, those of earlier runs and the corpus's too
    shards_written: int
    shards_skipped: int  # that were there already
    complete: bool  # False while other processes' shards are missing
    audio_s: float
    elapsed_s: float


@dataclass
class _Counters:
    """The counters of a run."""

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
    """What was done to bring the folder to a complete token dataset of these clips; see
    `codecvq.tokens.dataset` for its form.

    Called again, it goes on where it was. A clip that cannot be read or encoded, or that the corpus could not
    use, is a line in `failures.jsonl` and holds up nothing. `batch_seconds` bounds a batch, padding counted.
    Raises TokensError where the folder holds another job's tokens, and where not a single clip could be
    tokenized; FolderInUse where another process works on the same shards.
    """
    folder = Path(folder)
    index, processes = shard
    if not 0 <= index < processes:
        raise TokensError(f"shard is {index}/{processes}, but i/n with 0 <= i < n is needed, as 0/4.")
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
    """The card that the folder goes by: the one that is there if it is of the same job, else this one,
    written first of all.
    """
    if os.path.lexists(folder / cards.CARD_NAME):
        existing = cards.read_card(folder)
        cards.check_same_job(folder, existing, card, codec)
        return existing
    if any((folder / "data").glob("[!.]*.parquet")):
        raise TokensError(
            f"{folder}/data holds shards, but there is no {cards.CARD_NAME} beside it. Give another folder."
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
    """Clips with their samples `[S]`, grouped so that `count * longest` stays below the bound; unreadable
    ones go to `failures`.

    Longest first, so that a batch too large for the memory shows at the beginning and not after hours.
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
    """Each clip with its samples or what came instead, in order; a bounded number of them is read while the
    codec works.
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
    except (
        Exception
    ) as error:  # whatever a stranger's file does to a library: it is recorded, and the rest goes on
        return clip, error
    return clip, samples if samples.size else TokensError("it has no samples")


def _encode_clips(
    codec: AudioCodec, card: Card, batch: Sequence[tuple[Clip, npt.NDArray[np.float32]]]
) -> Iterator[tuple[Clip, int, npt.NDArray[np.integer[Any]] | Exception]]:
    """Each clip of the batch with its length and its codes `[N, T]`, or with what the codec raised about
    it.
    """
    try:
        codes = _encode_batch(codec, card, [samples for _, samples in batch])
    except Exception as error:  # a stranger's codec; too much memory, a NaN in one clip: try each on its own
        if len(batch) == 1:
            yield batch[0][0], 0, error
            return
        for item in batch:
            yield from _encode_clips(codec, card, [item])
        return
    for (clip, samples), row in zip(batch, codes, strict=True):
        own = row[:, : -(-samples.size // card.hop_length)]
        problem = codes_problem(own, samples.size, card)
        yield clip, samples.size, TokensError(f"{problem}.") if problem else own


def _encode_batch(
    codec: AudioCodec, card: Card, waves: Sequence[npt.NDArray[np.float32]]
) -> npt.NDArray[np.integer[Any]]:
    """Codes `[B, N, T]` of waves `[S]` of any lengths; a codec of several channels gets the same in each."""
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
    """Writes what is said about the whole: the failures, the statistics, and last the README."""
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
            f"none of the {card.job.clips} clips could be tokenized; the first: {failures[0].error} "
            f"All are in {folder / cards.FAILURES_NAME}; remove the folder and begin anew."
        )
    stats = cards.dataset_stats(card, histograms, rows, samples, frames, len(failures))
    write_atomically(folder / cards.STATS_NAME, json.dumps(stats, indent=2) + "\n")
    clip_fields = {(clip.language, clip.licence) for shard in plan.shards for clip in shard.clips}
    languages, licenses = {language for language, _ in clip_fields}, {licence for _, licence in clip_fields}
    write_atomically(folder / cards.README_NAME, cards.readme(card, stats, languages, licenses))
