"""Lazy clips equal stored clips in every corpus, split and process."""

from __future__ import annotations

import gc
import json
import multiprocessing
import pickle
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codecvq.audio import Audio, write_audio
from codecvq.data import SPLITS, Clip, ClipFailure, ClipListing, Clips, Corpus, Segments, open_corpus
from codecvq.data.shared_array import SMALL_BYTES, SharedArray
from codecvq.data.split_file import read_split, write_split
from codecvq.data.stored_clips import StoredClips, collect_clips
from codecvq.data.table_clips import TableClips
from codecvq.errors import AudioError, CorpusError

RATE = 8000
ROWS = [
    {"path": "a.wav", "id": "naïve", "text": 'line\nbreak, "quoted"', "speaker": "s1", "split": "dev"},
    {"path": "a.wav", "start": 0.25, "duration": 0.5, "channel": 0, "note": "ÄÖ"},
    {"path": "b.wav", "duration": 99, "speaker": "s2"},
    {"path": "gone.wav", "id": "gone"},
    *({"path": "a.wav", "id": f"part {n}", "start": n / 100, "end": n / 100 + 0.05} for n in range(60)),
]
COLUMNS = ["path", "id", "text", "speaker", "split", "start", "end", "duration", "channel", "note"]


def as_json(lines: str) -> bytes:
    return ("\ufeff" + lines.join(json.dumps(row, ensure_ascii=False) for row in ROWS)).encode()


def as_table(end: str) -> bytes:
    def cell(value: object) -> str:
        return '"' + str(value).replace('"', '""') + '"' if isinstance(value, str) else str(value)

    rows = [",".join(cell(row.get(column, "")) for column in COLUMNS) for row in ROWS]
    return end.join([",".join(COLUMNS), *rows]).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_audio(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, (2, RATE)), RATE)
    write_audio(tmp_path / "b.wav", np.random.default_rng(1).normal(0, 0.1, RATE), RATE)
    return tmp_path


@pytest.fixture
def lazy_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clips, "MAX_IN_MEMORY", 0)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n"], ids=repr)
@pytest.mark.parametrize(("name", "content"), [("m.jsonl", as_json), ("m.csv", as_table)])
def test_a_lazy_manifest_has_the_same_clips(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: Any, end: str
) -> None:
    (folder / name).write_bytes(content(end))
    stored = open_corpus(manifest=folder / name)
    monkeypatch.setattr(Clips, "MAX_IN_MEMORY", 0)
    lazy = open_corpus(manifest=folder / name)
    assert isinstance(lazy.lazy_clips._source, TableClips)
    assert len(lazy) == 63
    assert lazy == stored
    assert [clip.split_key for clip in lazy] == [clip.split_key for clip in stored]
    assert lazy[0].text == 'line\nbreak, "quoted"'
    assert [lazy.split(split) for split in SPLITS] == [stored.split(split) for split in SPLITS]
    measured = lazy.measured()
    assert measured == stored.measured()
    assert all(clip.measured for clip in measured)
    assert np.array_equal(measured[2].read(RATE), stored[2].read(RATE))


@pytest.mark.usefixtures("lazy_clips")
def test_speakers_slices_and_splits_reference_the_same_table(folder: Path) -> None:
    (folder / "m.jsonl").write_bytes(as_json("\n"))
    corpus = open_corpus(manifest=folder / "m.jsonl", exclude_speakers=["s1"])
    assert "naïve" not in [clip.id for clip in corpus]
    assert list(corpus.clips[::7]) == list(corpus)[::7]
    file = write_split(corpus, folder / "split.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows[:20]:
        row["split"] = "test"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recorded = read_split(file)
    stored = recorded.apply(corpus)
    assert [stored.split_of(clip) for clip in stored] == [row["split"] for row in rows]
    assert list(stored.split("test")) == [clip for clip in stored if stored.split_of(clip) == "test"]
    assert [recorded.ids.get(row["id"]) for row in rows] == [row["split"] for row in rows]
    assert recorded.ids.get("another") is None


@pytest.mark.usefixtures("lazy_clips")
def test_a_deleted_manifest_stays_readable_and_a_changed_one_is_an_error(folder: Path) -> None:
    manifest = folder / "m.jsonl"
    manifest.write_bytes(as_json("\n"))
    corpus = open_corpus(manifest=manifest)
    before = list(corpus)
    manifest.rename(folder / "old.jsonl")
    manifest.write_text("something else\n")
    assert list(corpus) == before
    with (folder / "old.jsonl").open("ab") as file:  # appended rows are allowed
        file.write(b"\n{}\n")
    assert list(corpus) == before
    (folder / "old.jsonl").write_bytes(b"\n" + as_json("\n"))
    with pytest.raises(CorpusError, match="was changed since it was opened"):
        list(corpus)


@pytest.mark.usefixtures("lazy_clips")
def test_clips_of_a_reader_are_stored_in_a_file_that_is_deleted_with_them(folder: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Own(Clip):
        pass

    failure = ClipFailure("x", folder, "why")
    clips = [Clip(id=str(n), path=folder / "a.wav", columns={"n": [n, {"k": None}]}) for n in range(300)]
    listing = collect_clips(iter([*clips[:5], failure, *clips[5:]]))
    assert isinstance(listing.clips, Clips)
    source = listing.clips._source
    assert isinstance(source, StoredClips)
    assert (list(listing.clips), listing.failures) == (clips, (failure,))
    assert source[-1] == clips[-1]
    path = source._file.path
    assert path.stat().st_mode & 0o077 == 0
    del source, listing
    assert not path.exists()
    with pytest.raises(CorpusError, match="clip 'o' cannot be stored"):
        collect_clips([Own(id="o", path=folder)])  # a local class, which other processes cannot import
    with pytest.raises(CorpusError, match="returned str, but a Clip is needed"):
        collect_clips([*clips, "clip"])  # type: ignore[list-item]


@pytest.mark.usefixtures("lazy_clips")
def test_duplicate_ids_are_found_anywhere(folder: Path) -> None:
    rows = [{"path": "a.wav", "id": f"{n}"} for n in range(3000)]
    rows[2900]["id"] = "17"
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(CorpusError, match="lines 18 and 2901 have the same id '17'"):
        open_corpus(manifest=folder / "m.jsonl")


def test_ids_with_equal_hashes_are_different_ids(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codecvq.data.columns.id_hash", lambda text: 1)
    monkeypatch.setattr("codecvq.data.table_clips.id_hash", lambda text: 1)
    (folder / "m.jsonl").write_text('{"path": "a.wav"}\n{"path": "b.wav"}\n')
    assert [clip.id for clip in open_corpus(manifest=folder / "m.jsonl")] == ["a", "b"]


def _ids(corpus: Corpus, segments: Segments, queue: Any) -> None:
    queue.put(([clip.id for clip in corpus], segments.batch(3)))


@pytest.mark.usefixtures("lazy_clips")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_has_the_same_clips(folder: Path, method: str) -> None:
    (folder / "m.jsonl").write_bytes(as_json("\n"))
    corpus = open_corpus(manifest=folder / "m.jsonl")
    segments = Segments(corpus, RATE, 0.05, 4, seed=1)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_ids, args=(corpus, segments, queue))
    process.start()
    ids, batch = queue.get(timeout=100)
    process.join()
    assert ids == [clip.id for clip in corpus]
    assert np.array_equal(batch, segments.batch(3))


def test_a_large_array_is_shared_with_other_processes_as_a_file() -> None:
    values = np.arange(10 * SMALL_BYTES, dtype=np.int64)
    array = SharedArray(values)
    sent = pickle.dumps(array)
    assert len(sent) < 1000
    assert pickle.dumps(array) == sent  # every pickle refers to the same file
    there = pickle.loads(sent)
    assert np.array_equal(there.values, values)
    assert isinstance(there.values, np.memmap)
    path = Path(there.values.filename)
    del array
    assert not path.exists()


@dataclass(frozen=True)
class Tone:
    """An audio source without a file."""

    hertz: float

    def read(
        self, *, start_s: float = 0.0, duration_s: float | None = None, longest_s: float = 3600
    ) -> Audio:
        if self.hertz < 0:
            raise AudioError("no such tone.")
        length_s = self.length_s() - start_s if duration_s is None else duration_s
        times = start_s + np.arange(round(length_s * RATE)) / RATE
        return Audio(np.sin(2 * np.pi * self.hertz * times)[None].astype(np.float32), RATE)

    def length_s(self) -> float:
        return 100.0

    def fingerprint(self) -> str:
        return f"{self.hertz:032.0f}"


def test_audio_sources_without_files_are_measured_read_and_segmented(tmp_path: Path) -> None:
    clips = [Clip(id=f"{n}", path=Path(f"box/{n}.wav"), source=Tone(100.0 * n)) for n in range(1, 40)]
    corpus = Corpus("tones", (*clips, replace(clips[0], id="bad", source=Tone(-1))))
    measured = corpus.measured()
    assert measured.duration_s == 4000
    part = replace(clips[0], start_s=10.0, duration_s=0.5)
    assert np.allclose(part.read(RATE), clips[0].read(RATE)[80000:84000], atol=1e-4)
    segments = Segments(measured, RATE, 0.05, 200, seed=1)
    assert np.abs(segments.batch(0)).max() > 0.9
    assert {failure.id for failure in segments.failures} <= {"bad"}
    recorded = read_split(write_split(measured, tmp_path / "split.jsonl"))
    renamed = [replace(clip, id="other", path=Path("else")) for clip in measured]
    assert [recorded.split_of_recording(clip) for clip in renamed] == [
        corpus.split_of(clip) for clip in measured
    ]


def test_a_sequence_of_clips_is_indexed_once_per_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    from codecvq.data.stored_clips import to_listing

    monkeypatch.setattr(Clips, "MAX_IN_MEMORY", 10)
    made: list[int] = []

    class Source(list[int]):
        def __getitem__(self, index: Any) -> Any:
            made.append(index)
            return Clip(id=str(index), path=Path("a.wav"))

        def __iter__(self) -> Iterator[Any]:
            return (self[index] for index in range(len(self)))

    listing = to_listing(ClipListing(Source(range(100))))
    assert made == list(range(100))
    assert listing.clips[7].id == "7"
    assert made[100:] == [7]


@pytest.mark.slow
@pytest.mark.usefixtures("lazy_clips")
def test_a_row_of_a_manifest_takes_less_than_forty_bytes(folder: Path) -> None:
    rows = 10_000
    with (folder / "m.jsonl").open("w") as file:
        for n in range(rows):
            row = {"path": "a.wav", "id": f"utterance {n}", "text": "said " * 20, "speaker": f"{n % 100}"}
            file.write(json.dumps(row) + "\n")
    open_corpus("prompts").measured().split("train")  # imports
    gc.collect()
    tracemalloc.start()
    try:
        corpus = open_corpus(manifest=folder / "m.jsonl")
        gc.collect()
        opened, _ = tracemalloc.get_traced_memory()
        train = corpus.measured().split("train")
        gc.collect()
        both, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(train) > 0.85 * rows
    # `isinstance` asks an object for its `__class__`, which a dead weak proxy of another test refuses.
    clips = [one for one in gc.get_objects() if issubclass(type(one), Clip)]
    assert not [clip for clip in clips if clip.path.parent == folder]
    assert opened / rows < 40
    assert both / rows < 60  # measured durations and the rows of the split
    assert most / rows < 1000  # blocks of clips are processed; a single Clip needs more
