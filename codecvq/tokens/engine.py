"""Tokenization of clips to a token dataset: read ahead, in batches of similar lengths, shard by shard.

A clip that is longer than a batch is encoded by itself while it is read, so the memory is bounded.

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
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codecvq.codec.blocks import split_blocks
from codecvq.codec.recordings import encode_blocks
from codecvq.data.text import utf8_safe
from codecvq.errors import TokensError
from codecvq.files import write_atomically
from codecvq.plugins.third_party import contained
from codecvq.tokens import card as cards
from codecvq.tokens.card import Card, Histogram
from codecvq.tokens.columns import column_values
from codecvq.tokens.dataset import expected_shards, missing_shards, open_shard
from codecvq.tokens.locks import locked_part
from codecvq.tokens.parts import Part, batches
from codecvq.tokens.plan import Plan, PlannedShard, check_columns, plan_job
from codecvq.tokens.rows import TokenFailure, TokenRow, codes_dtype, codes_problem, size_problem
from codecvq.tokens.shard import write_shard

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec
    from codecvq.data.corpus import Clip


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
    earlier: int = 0  # rows of earlier runs
    done: int = 0  # clips of complete shards
    audio_s: float = 0.0

    def __post_init__(self) -> None:
        self.failures: list[TokenFailure] = []

    def add_shard(self, shard: PlannedShard, failures: Sequence[TokenFailure]) -> None:
        self.done += len(shard.clips) + len(shard.failures)
        self.failures += failures

    def report_progress(self, done_in_shard: Collection[str] = ()) -> None:
        if self.report is not None:
            elapsed_s = time.monotonic() - self.started_s
            done = self.done + len(done_in_shard)
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
    max_seconds: float | None = None,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Encode clips and write a token dataset to `folder`; see `codecvq.tokens.dataset` for its format.

    A repeated call resumes the job. A clip that cannot be read or encoded, or that the corpus lists as
    unusable, becomes a line in `failures.jsonl`, and the job continues. `batch_seconds` limits the audio of a
    batch, including padding. `shard=(i, n)` processes every n-th shard, starting at i.

    With `max_seconds`, clips above this length are cut at silences into rows with the ids `ID#0001`,
    `ID#0002`, …; `start_s` of `source` is the start of the piece in its file. Otherwise each clip is one row.

    Raises TokensError if the folder contains tokens of another job, and if no clip could be tokenized.
    Raises FolderInUse if another process works on the same shards.
    """
    folder = Path(folder)
    index, processes = shard
    if not 0 <= index < processes:
        raise TokensError(
            f"shard is {index}/{processes}, but i/n with 0 <= i < n is needed, for example 0/4."
        )
    plan = plan_job(clips, shard_clips, shard_seconds, max_seconds)
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
            counters.add_shard(planned, existing.failures)
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
    rows: dict[str, list[TokenRow]] = {}  # by the id of the clip
    errors: dict[str, Exception] = {}
    for batch in batches(shard.clips, card.sample_rate, batch_seconds, card.job.max_seconds, errors):
        for part, row in _encode_parts(codec, card, batch):
            if isinstance(row, Exception):
                errors.setdefault(part.clip.id, row)
            else:
                rows.setdefault(part.clip.id, []).append(row)
        counters.report_progress(rows.keys() | errors.keys())
    in_order = [row for clip in shard.clips if clip.id not in errors for row in rows.get(clip.id, ())]
    failures = (_failure(clip, errors[clip.id]) for clip in shard.clips if clip.id in errors)
    failed = [*shard.failures, *failures]
    write_shard(path, card, plan.columns, in_order, failed)
    counters.add_shard(shard, failed)
    counters.rows += len(in_order)
    counters.audio_s += sum(row.num_samples for row in in_order) / card.sample_rate
    counters.report_progress()


def _encode_parts(
    codec: AudioCodec, card: Card, batch: Sequence[Part]
) -> Iterator[tuple[Part, TokenRow | Exception]]:
    """Yield each part of the batch with its row, or with an exception.

    If the batch fails, encodes each part separately.
    """
    try:
        waves = [part.samples for part in batch if part.samples is not None]
        if not waves:
            yield batch[0], _row(card, batch[0], *_encode_long(codec, card, batch[0].clip))
            return
        codes = _encode_batch(codec, card, waves)
    except Exception as error:  # for example out of memory, or NaN in one clip
        if len(batch) == 1:
            yield batch[0], error
            return
        for part in batch:
            yield from _encode_parts(codec, card, [part])
        return
    for part, wave, row in zip(batch, waves, codes, strict=True):
        yield part, _row(card, part, row[:, : -(-wave.size // card.hop_length)], wave.size)


def _row(card: Card, part: Part, codes: npt.NDArray[np.integer[Any]], samples: int) -> TokenRow | Exception:
    """Return the row of a part, or an exception if the codec returned invalid codes."""
    if problem := codes_problem(codes, samples, card):
        return TokensError(f"{problem}.")
    clip, values = part.clip, column_values(part.clip)
    if part.piece:
        values.pop("text", None)  # the text of the whole clip
    start_s = clip.start_s + part.first_sample / card.sample_rate
    source = {"path": utf8_safe(str(clip.path)), "start_s": float(start_s)}
    return TokenRow(part.id, codes, samples, source, values)


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


def _encode_long(
    codec: AudioCodec, card: Card, clip: Clip
) -> tuple[npt.NDArray[np.unsignedinteger[Any]], int]:
    """Return the codes `[N, T]` of a clip, encoded while it is read, and its number of samples."""
    samples, collected = 0, []

    def blocks() -> Iterator[npt.NDArray[np.float32]]:
        nonlocal samples
        samples = 0
        for block in clip.read_blocks(card.sample_rate):
            samples += block.size
            yield np.broadcast_to(block, (1, card.channels, block.size)).copy()

    dtype, frames = codes_dtype(card.codebook_sizes), 0
    with contained():
        for codes in encode_blocks(codec, blocks, num_codebooks=len(card.codebook_sizes)):
            frames += codes.shape[2]
            if problem := codes_problem(codes[0], codes.shape[2] * card.hop_length, card):
                raise TokensError(f"{problem}.")
            if problem := size_problem(frames * len(card.codebook_sizes)):
                raise TokensError(f"{problem}.")
            collected.append(codes[0].astype(dtype))
    return np.concatenate(collected, axis=1), samples


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
