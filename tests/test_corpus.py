"""Corpora: folders, manifests and registered corpora, splits, and errors."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import codecvq.plugins
from codecvq import CorpusSpec, hookimpl
from codecvq.audio import write_audio
from codecvq.data.corpus import SPLITS, Clip, Corpus, open_corpus, split_of
from codecvq.data.split_file import write_split
from codecvq.errors import AudioError, CorpusError, UnknownName

RATE = 16000


def write_noise(path: Path, seconds: float = 0.1, rate: int = RATE) -> Path:
    """White noise at a twentieth of full scale, seeded by the name of the file."""
    rng = np.random.default_rng(list(path.name.encode()))
    return write_audio(path, rng.normal(0, 0.05, round(seconds * rate)), rate)


def clips_named(ids: list[str], **fields: str) -> tuple[Clip, ...]:
    return tuple(Clip(id=id_, path=Path(f"{id_}.wav"), **fields) for id_ in ids)


# splits


def test_hash_splits_have_five_percent_each_and_never_change():
    ids = [f"speaker{n % 50}/clip{n}" for n in range(20000)]
    counts = {split: sum(split_of(id_) == split for id_ in ids) for split in SPLITS}
    assert counts["test"] / len(ids) == pytest.approx(0.05, abs=0.005)
    assert counts["validation"] / len(ids) == pytest.approx(0.05, abs=0.005)
    # Splits must never change: sha256 of these ids is at 0.020, 0.073 and 0.440 of its range.
    assert [split_of(key) for key in ("clip-17", "clip-7", "clip-1")] == ["test", "validation", "train"]


def test_splits_are_disjoint_complete_and_independent_of_the_other_clips():
    corpus = Corpus("c", clips_named([f"c{n}" for n in range(500)]))
    parts = {which: corpus.split(which) for which in SPLITS}
    assert sorted(clip.id for part in parts.values() for clip in part) == sorted(clip.id for clip in corpus)
    fewer = Corpus("c", corpus.clips[::3])
    for which in SPLITS:
        assert list(fewer.split(which)) == [clip for clip in parts[which] if clip in fewer.clips]
    with pytest.raises(CorpusError, match="Did you mean 'validation'"):
        corpus.split("valid")  # type: ignore[arg-type]


def test_split_and_split_key_of_a_clip_override_its_hash():
    train = next(f"c{n}" for n in range(100) if split_of(f"c{n}") == "train")
    test = next(f"c{n}" for n in range(200) if split_of(f"c{n}") == "test")
    own = Clip(id=train, path=Path("a"), split="test")
    shared = Clip(id=train, path=Path("a"), split_key=test)
    corpus = Corpus("c", (own, shared))
    assert corpus.split_of(own) == corpus.split_of(shared) == "test"
    assert corpus.split_of(Clip(id=train, path=Path("a"))) == "train"


def test_a_split_by_speaker_keeps_each_speaker_in_one_split(tmp_path):
    rows = [{"path": "a.wav", "id": f"{s}-{n}", "speaker": f"s{s}"} for s in range(60) for n in range(5)]
    corpus = open_corpus(manifest=write_manifest(tmp_path, rows), split_by="speaker")
    splits_of = {s: {corpus.split_of(clip) for clip in corpus if clip.speaker == s} for s in corpus.speakers}
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert set().union(*splits_of.values()) == set(SPLITS)


def test_splits_are_written_to_a_file(tmp_path):
    write_noise(tmp_path / "audio/a.wav", 0.25)
    write_noise(tmp_path / "audio/b.wav", 0.5)
    corpus = open_corpus(folder=tmp_path / "audio")
    path = write_split(corpus, tmp_path / "run/split.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["a", "b"]
    assert [row["duration"] for row in rows] == [0.25, 0.5]
    assert [row["split"] for row in rows] == [corpus.split_of(clip) for clip in corpus]
    assert [row["audio"] for row in rows] == [clip.identity() for clip in corpus]


# folders


def test_ids_of_a_folder_corpus_are_relative_paths(tmp_path):
    for name in ("b/2.flac", "a.wav", "b/1.wav"):
        write_noise(tmp_path / name)
    (tmp_path / "readme.txt").touch()
    corpus = open_corpus(folder=tmp_path)
    assert [clip.id for clip in corpus] == ["a", "b/1", "b/2"]
    assert corpus.speakers == ()
    assert corpus.name == tmp_path.name
    assert corpus.measured().duration_s == pytest.approx(0.3)


def test_clips_are_read_as_mono_at_the_requested_rate(tmp_path):
    stereo = np.stack([np.full(4410, 0.5), np.full(4410, -0.25)])
    write_audio(tmp_path / "a.wav", stereo, 44100)
    samples = open_corpus(folder=tmp_path)[0].read(RATE)
    assert samples.shape == (1600,)
    assert samples.dtype == np.float32
    assert samples[800] == pytest.approx(0.125, abs=1e-3)


def test_an_undecodable_file_is_a_failure_and_the_corpus_opens(tmp_path):
    write_noise(tmp_path / "good.wav")
    (tmp_path / "bad.wav").write_text("no audio")
    corpus = open_corpus(folder=tmp_path).measured()
    assert [clip.id for clip in corpus] == ["good"]
    assert [failure.id for failure in corpus.failures] == ["bad"]
    assert "cannot be decoded as audio" in str(corpus.failures[0])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.touch(), "is a file"),
        (lambda folder: folder.mkdir(), "has no audio files"),
        (lambda folder: [write_noise(folder / name) for name in ("a.wav", "a.flac")], "have the id 'a'"),
    ],
    ids=["missing", "file", "empty", "same-id"],
)  # fmt: skip
def test_a_folder_without_usable_audio_is_an_error(tmp_path, make, why):
    make(tmp_path / "x")
    with pytest.raises(CorpusError, match=why):
        open_corpus(folder=tmp_path / "x")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "0 were given"),
        ({"folder": "a", "manifest": "b"}, "2 were given: a, b"),
        ({"folder": "a", "root": "b"}, "root"),
        ({"folder": "a", "split_by": "speakers"}, "Did you mean 'speaker'"),
    ],
)
def test_contradictory_options_are_an_error(options, why):
    with pytest.raises(CorpusError, match=why):
        open_corpus(**options)


# manifests


def write_manifest(
    folder: Path, rows: list[dict[str, object]], name: str = "m.jsonl", audio: bool = True
) -> Path:
    if audio:
        write_noise(folder / "a.wav", 1.0)
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("column", ["path", "audio", "audio_filepath", "file", "file_name"])
def test_json_lines_accept_common_column_names(tmp_path, column):
    row = {
        column: "a.wav",
        "text": "да",
        "speaker": "s",
        "language": "ru",
        "license": "CC0",
        "tag": [1, {"x": None}],
        "n": 3,
    }
    clip = open_corpus(manifest=write_manifest(tmp_path, [row]))[0]
    assert (clip.id, clip.text, clip.speaker, clip.language, clip.licence) == ("a", "да", "s", "ru", "CC0")
    assert clip.columns == {"tag": [1, {"x": None}], "n": 3}
    assert len(clip.read(RATE)) == RATE


@pytest.mark.parametrize(
    ("name", "delimiter", "text"), [("m.csv", ",", 'Yes, "no"'), ("m.tsv", "\t", '"Yes, ""no"""')]
)
def test_tables_are_read_with_extra_columns_as_text(tmp_path, name, delimiter, text):
    write_noise(tmp_path / "clips/deep/a.wav")  # as in Common Voice
    table = [
        ["path", "sentence", "speaker_id", "votes", "split"],
        ["deep/a.wav", '"Yes, ""no"""', "7", "12", "dev"],
    ]
    (tmp_path / name).write_text(
        "\ufeff" + "".join(delimiter.join(row) + "\r\n" for row in table), encoding="utf-8"
    )
    corpus = open_corpus(manifest=tmp_path / name)
    clip = corpus[0]
    assert (clip.id, clip.text, clip.speaker) == ("deep/a", text, "7")
    assert dict(clip.columns) == {"votes": "12"}
    assert corpus.split_of(clip) == "validation"


def test_start_selects_a_part_and_a_duration_alone_is_metadata(tmp_path):
    rows: list[dict[str, object]] = [
        {"path": "a.wav", "start": 0.25, "duration": 0.5},
        {"path": "a.wav", "start": 0, "duration": 0.25},
        {"path": "a.wav", "start": 0.75},
        {"path": "a.wav", "duration": 1.02},
    ]
    corpus = open_corpus(manifest=write_manifest(tmp_path, rows))
    whole = corpus[3].read(RATE)
    assert [clip.id for clip in corpus] == ["a@0.25", "a@0", "a@0.75", "a"]
    assert [clip.duration_s for clip in corpus] == [0.5, 0.25, None, 1.02]
    assert [clip.duration_s for clip in corpus.measured()] == [0.5, 0.25, 0.25, 1.02]
    assert len(whole) == RATE
    for clip, (start, end) in zip(corpus, [(4000, 12000), (0, 4000), (12000, 16000)], strict=False):
        assert np.array_equal(clip.read(RATE), whole[start:end])
        assert np.array_equal(clip.read(RATE), corpus.measured()[corpus.clips.index(clip)].read(RATE))


def test_missing_files_are_failures_and_the_other_clips_remain(tmp_path):
    corpus = open_corpus(
        manifest=write_manifest(tmp_path, [{"path": "a.wav"}, {"path": "gone.wav", "id": "g"}])
    )
    assert [clip.id for clip in corpus] == ["a"]
    assert [failure.id for failure in corpus.failures] == ["g"]
    assert "line 2 of m.jsonl" in corpus.failures[0].error


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("m.jsonl", '{"path": "a.wav"}\n{"path": "b', "line 2, is damaged (Unterminated string"),
        ("m.jsonl", '["a.wav"]\n', "line 1, is damaged (it is not an object)"),
        ("m.jsonl", '{"wav": "a.wav"}\n', "no column has the path of the audio. The columns are 'wav'"),
        ("m.jsonl", '{"path": "a.wav"}\n\n{"path": "a.wav"}\n', "lines 1 and 3 have the same id 'a'"),
        ("m.jsonl", '{"path": "a.wav", "duration": "long"}\n', "duration is 'long'"),
        ("m.jsonl", '{"path": "a.wav", "start": -1}\n', "start is -1"),
        ("m.jsonl", '{"path": "a.wav", "duration": 0}\n', "duration is 0 s"),
        ("m.jsonl", '{"path": "a.wav", "split": "tset"}\n', "Did you mean 'test'"),
        ("m.jsonl", "", "it has no rows"),
        (
            "m.jsonl",
            '{"path": "gone.wav"}\n',
            "none of its 1 files can be used. The first error: line 1 of m.jsonl: the file",
        ),
        ("m.csv", "path,text\na.wav\n", "line 2: the row has fewer columns"),
        ("m.csv", 'path,text\na.wav,"open\n', "Repair the quotes"),
    ],
)
def test_errors_of_a_broken_manifest_name_line_and_cause(tmp_path, name, content, why):
    write_noise(tmp_path / "a.wav")
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError) as caught:
        open_corpus(manifest=tmp_path / name)
    assert why in str(caught.value)
    assert name.removesuffix(".jsonl").removesuffix(".csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_binary_or_missing_manifest_is_an_error(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(b'{"path": "\xff.wav"}\n')
    with pytest.raises(CorpusError, match="not UTF-8"):
        open_corpus(manifest=tmp_path / "m.jsonl")
    with pytest.raises(CorpusError, match="does not exist"):
        open_corpus(manifest=tmp_path / "n.jsonl")


# speakers


def test_speakers_are_selected_and_excluded_by_name(tmp_path):
    rows: list[dict[str, object]] = [
        {"path": "a.wav", "id": f"{s}{n}", "speaker": s} for s in ("ann", "bob", "cy") for n in "12"
    ]
    manifest = write_manifest(tmp_path, rows)
    assert open_corpus(manifest=manifest, speakers=["ann", "cy"]).speakers == ("ann", "cy")
    assert open_corpus(manifest=manifest, exclude_speakers=["bob"]).speakers == ("ann", "cy")
    with pytest.raises(CorpusError, match=r"no speaker 'anne'. Did you mean 'ann'"):
        open_corpus(manifest=manifest, speakers=["anne"])
    with pytest.raises(CorpusError, match="has no clips left"):
        open_corpus(manifest=manifest, exclude_speakers=["ann", "bob", "cy"])


def test_a_split_by_speaker_needs_speakers(tmp_path):
    write_noise(tmp_path / "a.wav")
    with pytest.raises(CorpusError, match="has no speaker"):
        open_corpus(folder=tmp_path, split_by="speaker")
    with pytest.raises(CorpusError, match="the clips have no speakers"):
        open_corpus(folder=tmp_path, exclude_speakers=["ann"])


# registered


@pytest.fixture
def registered() -> Iterator[codecvq.plugins.Registry]:
    """The registry with a plugin whose corpora are good, missing, empty and broken."""

    def good(root: Path | None = None) -> list[Clip]:
        return [Clip(id="a", path=(root or Path("/usual")) / "a.wav", speaker="s")]

    def missing(root: Path | None = None) -> list[Clip]:
        raise CorpusError("nothing at /usual.")

    def broken(root: Path | None = None) -> list[Clip]:
        raise KeyError("x")

    plugin = types.ModuleType("third_party")

    @hookimpl
    def codecvq_corpora():
        for name, factory in (
            ("good", good),
            ("missing", missing),
            ("empty", lambda root: []),
            ("broken", broken),
        ):
            yield CorpusSpec(name=name, factory=factory, install="apt-get install it")

    plugin.codecvq_corpora = codecvq_corpora  # type: ignore[attr-defined]
    registry = codecvq.plugins.registry()
    origin = registry.register(plugin, "third_party")
    yield registry
    registry.unregister(origin)


@pytest.mark.usefixtures("registered")
def test_a_registered_corpus_is_opened_by_name(tmp_path):
    assert open_corpus("good")[0].path == Path("/usual/a.wav")
    assert open_corpus("third_party/good", root=tmp_path)[0].path == tmp_path / "a.wav"


@pytest.mark.usefixtures("registered")
def test_several_names_give_one_corpus_and_repeated_names_count_once(registered):
    class Another:
        @hookimpl
        def codecvq_corpora(self):
            yield CorpusSpec(name="more", factory=lambda root: [Clip(id="b", path=Path("/b.wav"))])

    origin = registered.register(Another(), "others")
    try:
        corpus = open_corpus(["good", "more"])
    finally:
        registered.unregister(origin)
    assert corpus.name == "good+more"
    assert [clip.id for clip in corpus] == [open_corpus("good")[0].id, "b"]
    with pytest.raises(CorpusError, match="contain a duplicate"):
        open_corpus(["good", "good"])
    with pytest.raises(CorpusError, match="exactly one of"):
        open_corpus(["good", "more"], folder="/somewhere")


@pytest.mark.usefixtures("registered")
def test_the_error_of_a_missing_registered_corpus_says_how_to_get_it():
    with pytest.raises(CorpusError, match=r"'missing': nothing at /usual\. To get it: apt-get install it"):
        open_corpus("missing")
    with pytest.raises(CorpusError, match=r"'empty' has no clips.*apt-get"):
        open_corpus("empty")
    with pytest.raises(CorpusError, match=r"'broken' of third_party failed: KeyError"):
        open_corpus("broken")
    with pytest.raises(UnknownName, match="Did you mean 'good'"):
        open_corpus("goood")


def test_a_clip_with_a_deleted_file_raises_audio_error(tmp_path):
    with pytest.raises(AudioError, match="does not exist"):
        Clip(id="a", path=tmp_path / "a.wav").read(RATE)
