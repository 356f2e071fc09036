"""Corpus readers: selection by source, clips and failures, and errors of third-party readers."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from codecvq import Clip, ReaderSpec, hookimpl
from codecvq.audio import write_audio
from codecvq.cli.app import app
from codecvq.data import AudioFile, ClipFailure, ClipListing, Clips, open_corpus
from codecvq.errors import CorpusError, OptionError, UnknownName
from codecvq.plugins import registry
from codecvq.testing import reader_checks, run_checks
from codecvq.training.builders import recipe_corpus
from codecvq.training.recipe import load_recipe
from recipes import write_recipe

RATE = 8000


def noise(path: Path) -> Path:
    rng = np.random.default_rng(list(path.name.encode()))
    return write_audio(path, rng.normal(0, 0.1, 400), RATE)


@pytest.fixture
def register_readers() -> Iterator[Callable[..., None]]:
    """A function that registers readers in a plugin until the test ends."""
    origins = []

    def register(*specs: ReaderSpec, name: str = "third_party") -> None:
        plugin = types.ModuleType(name)

        @hookimpl
        def codecvq_readers() -> Iterator[ReaderSpec]:
            yield from specs

        plugin.codecvq_readers = codecvq_readers  # type: ignore[attr-defined]
        origins.append(registry().register(plugin, name))

    yield register
    for origin in origins:
        registry().unregister(origin)


# metadata.csv


@pytest.fixture
def ljspeech(tmp_path: Path) -> Path:
    for n in range(4):
        noise(tmp_path / "LJ" / "wavs" / f"LJ00{n}.wav")
    return tmp_path / "LJ"


@pytest.fixture
def audio_folder(tmp_path: Path) -> Path:
    for n in range(4):
        noise(tmp_path / "hf" / "data" / f"{n}.wav")
    return tmp_path / "hf"


@pytest.mark.parametrize("max_in_memory", [0, 100], ids=["lazy", "in memory"])
def test_ljspeech_layout_is_detected(
    ljspeech: Path, monkeypatch: pytest.MonkeyPatch, max_in_memory: int
) -> None:
    monkeypatch.setattr(Clips, "MAX_IN_MEMORY", max_in_memory)
    (ljspeech / "metadata.csv").write_text('LJ000|Dr. "X"|Doctor "X"\r\nLJ001|two fields\n\nLJ002.wav|a|b')
    corpus = open_corpus(source=ljspeech)
    assert (corpus.name, len(corpus), corpus.failures) == ("LJ", 3, ())
    assert [clip.id for clip in corpus] == ["LJ000", "LJ001", "LJ002"]
    assert [clip.text for clip in corpus] == ['Doctor "X"', "two fields", "b"]
    assert [dict(clip.columns) for clip in corpus] == [{"raw_text": 'Dr. "X"'}, {}, {"raw_text": "a"}]
    assert all(clip.read(RATE).size == 400 for clip in corpus)
    assert open_corpus(source=ljspeech / "metadata.csv") == corpus
    assert len(open_corpus(folder=ljspeech)) == 4  # `folder` ignores the metadata


@pytest.mark.parametrize("max_in_memory", [0, 100], ids=["lazy", "in memory"])
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_audio_folder_layout_is_detected(
    audio_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, max_in_memory: int
) -> None:
    monkeypatch.setattr(Clips, "MAX_IN_MEMORY", max_in_memory)
    content = {
        "metadata.csv": 'file_name,transcription,mood\ndata/0.wav,"a, b\nc",good\ndata/1.wav,d,bad\n',
        "metadata.jsonl": '{"file_name": "data/0.wav", "transcription": "a, b\\nc", "mood": "good"}\n'
        '{"file_name": "data/1.wav", "transcription": "d", "mood": "bad"}\n',
    }
    (audio_folder / name).write_text(content[name])
    corpus = open_corpus(source=audio_folder)
    assert [(clip.id, clip.text, dict(clip.columns)) for clip in corpus] == [
        ("data/0", "a, b\nc", {"mood": "good"}),
        ("data/1", "d", {"mood": "bad"}),
    ]
    assert corpus.name == "hf"
    by_id = {clip.id: clip.split_key for clip in open_corpus(folder=audio_folder)}
    assert [clip.split_key for clip in corpus] == [by_id[clip.id] for clip in corpus]


@pytest.mark.parametrize("max_in_memory", [0, 100], ids=["lazy", "in memory"])
def test_invalid_metadata_rows_are_reported_and_the_others_are_read(
    ljspeech: Path, monkeypatch: pytest.MonkeyPatch, max_in_memory: int
) -> None:
    monkeypatch.setattr(Clips, "MAX_IN_MEMORY", max_in_memory)
    lines = [
        b"LJ000|a", b"only", b"|x|y", b"a|b|c|d", b"../../secret|a", b"LJ\xff1|a", b"LJ009|a", b"LJ\x000|a",
        b"LJ003|z",
    ]  # fmt: skip
    noise(ljspeech.parent / "secret.wav")
    (ljspeech / "metadata.csv").write_bytes(b"\n".join(lines))
    corpus = open_corpus(source=ljspeech)
    assert [clip.id for clip in corpus] == ["LJ000", "LJ003"]
    errors = [failure.error for failure in corpus.failures]
    assert [
        next(f"line {n}" for n in range(2, 9) if f"line {n}" in f"{failure.id} {failure.error}")
        for failure in corpus.failures
    ] == ["line 2", "line 3", "line 4", "line 5", "line 6", "line 7", "line 8"]
    assert "is not id|text" in errors[0]
    assert "is outside of the folder of the metadata file" in errors[3]
    assert "not UTF-8" in errors[4]
    assert "does not exist" in errors[5]


def test_files_outside_of_the_audio_folder_are_not_read(audio_folder: Path) -> None:
    outside = noise(audio_folder.parent / "secret.wav")
    rows = [
        "data/0.wav",
        "../secret.wav",
        str(outside),
        "data/../../secret.wav",
        "~/x.wav",
        "data/../data/1.wav",
    ]
    (audio_folder / "metadata.csv").write_text("\n".join(["file_name", *rows]))
    corpus = open_corpus(source=audio_folder)
    assert [clip.path.name for clip in corpus] == ["0.wav", "1.wav"]
    assert all("outside of the folder" in failure.error for failure in corpus.failures)
    assert len(corpus.failures) == 4


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "", "x|y|z|w\n", "{}"], ids=repr)
def test_a_metadata_file_with_another_layout_is_ignored(audio_folder: Path, content: str) -> None:
    (audio_folder / "metadata.csv").write_text(content)
    assert [clip.id for clip in open_corpus(source=audio_folder)] == [f"data/{n}" for n in range(4)]
    with pytest.raises(CorpusError, match="with a supported layout"):
        open_corpus(source=audio_folder, reader="metadata")


def test_duplicate_ids_and_too_long_lines_raise(ljspeech: Path) -> None:
    (ljspeech / "metadata.csv").write_text("LJ000|a\nLJ001|b\nLJ000|c\n")
    with pytest.raises(CorpusError, match="lines 1 and 3 have the same id 'LJ000'"):
        open_corpus(source=ljspeech)
    (ljspeech / "metadata.csv").write_bytes(b"LJ000|a\n" + b"x" * (1 << 25))
    with pytest.raises(CorpusError, match="more than 16 MiB"):
        open_corpus(source=ljspeech)


# Selection of the reader


def test_the_source_selects_the_reader(ljspeech: Path, tmp_path: Path) -> None:
    assert open_corpus(source=ljspeech).name == "LJ"
    assert len(open_corpus(source=ljspeech)) == 4
    (tmp_path / "m.jsonl").write_text('{"path": "LJ/wavs/LJ001.wav"}\n')
    assert [clip.id for clip in open_corpus(source=tmp_path / "m.jsonl")] == ["LJ/wavs/LJ001"]
    assert open_corpus(source="prompts") == open_corpus("prompts")
    assert open_corpus(source="codecvq/prompts").name == "codecvq/prompts"
    with pytest.raises(UnknownName, match="Did you mean 'prompts'"):
        open_corpus(source="promts")
    with pytest.raises(CorpusError, match="is neither a folder nor a manifest"):
        open_corpus(source=ljspeech / "wavs" / "LJ001.wav")
    with pytest.raises(CorpusError, match=r"does not exist\. Give a folder of audio"):
        open_corpus(source=tmp_path / "nowhere" / "x")
    with pytest.raises(CorpusError, match=r"root .* is the location of a registered corpus"):
        open_corpus(source=ljspeech, root=tmp_path)
    with pytest.raises(CorpusError, match="need a source, but none is given"):
        open_corpus(folder=ljspeech, reader="metadata")
    with pytest.raises(UnknownName, match=r"no reader named 'fodler'.*Did you mean 'folder'"):
        open_corpus(source=ljspeech, reader="fodler")
    with pytest.raises(OptionError, match="reader 'folder' has no option 'depth'"):
        open_corpus(source=ljspeech, reader="folder", options={"depth": 2})


def test_plugin_readers_receive_source_and_options(
    register_readers: Callable[..., None], tmp_path: Path
) -> None:
    def read(source: str, count: int = 2) -> Iterator[Clip | ClipFailure]:
        yield from (Clip(id=f"{source}#{n}", path=tmp_path / "a.wav") for n in range(count))
        yield ClipFailure("lost", Path(source), "it is gone")

    register_readers(
        ReaderSpec(name="tape", factory=read, matches=lambda source: source.startswith("tape://"))
    )
    corpus = open_corpus(source="tape://1")
    assert (corpus.name, len(corpus)) == ("tape://1", 2)
    assert [failure.id for failure in corpus.failures] == ["lost"]
    recipe = {"name": None, "source": "tape://2", "options": {"count": 5}}
    section = load_recipe(write_recipe(tmp_path / "tiny.yaml", corpus=recipe)).corpus
    assert len(recipe_corpus(section)) == 5
    named = section.model_copy(update={"source": "2", "reader": "third_party/tape"})
    assert [clip.id for clip in recipe_corpus(named)][-1] == "2#4"


def test_two_matching_readers_raise(register_readers: Callable[..., None], ljspeech: Path) -> None:
    def folder_reader(name: str, **more: Any) -> ReaderSpec:
        clip = Clip(id=name, path=ljspeech)
        return ReaderSpec(
            name=name, factory=lambda source: [clip], matches=lambda source: source.endswith("LJ"), **more
        )

    register_readers(folder_reader("one"))
    assert [clip.id for clip in open_corpus(source=ljspeech)] == ["one"]  # takes precedence over `folder`
    register_readers(folder_reader("two"), name="others")
    with pytest.raises(CorpusError, match=r"can be read by third_party/one and others/two.*--reader one"):
        open_corpus(source=ljspeech)
    assert [clip.id for clip in open_corpus(source=ljspeech, reader="two")] == ["two"]


def test_errors_of_third_party_readers_name_the_reader(
    register_readers: Callable[..., None], ljspeech: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*arguments: object) -> Any:
        raise KeyError("x")

    register_readers(
        ReaderSpec(name="broken", factory=fails, matches=fails),
        ReaderSpec(name="text", factory=lambda source: "clips"),
        ReaderSpec(name="numbers", factory=lambda source: [1]),
        ReaderSpec(
            name="nothing", factory=lambda source: ClipListing((), (ClipFailure("a", ljspeech, "why"),))
        ),
        ReaderSpec(name="quits", factory=lambda source: exit(3)),
        ReaderSpec(name="twice", factory=lambda source: [Clip(id="a", path=ljspeech)] * 2),
    )
    assert len(open_corpus(source=ljspeech)) == 4
    assert "reader broken of third_party was not tried: KeyError" in caplog.text
    for name, message in {
        "broken": "failed with .*KeyError",
        "text": "returned 'clips', but clips are needed",
        "numbers": "returned int, but a Clip is needed",
        "nothing": "found no clips in .*The first failure: a: why",
        "twice": "two clips have the id 'a'",
    }.items():
        with pytest.raises(CorpusError, match=message):
            open_corpus(source=ljspeech, reader=name)
    with pytest.raises(Exception, match="tried to end the process"):
        open_corpus(source=ljspeech, reader="quits")


# Conformance checks of readers


def broken_checks(name: str, source: object, **options: Any) -> dict[str, str]:
    outcomes = list(run_checks(reader_checks(name, str(source), **options)))
    return {o.check.short_name: o.found for o in outcomes if o.state == "broken"}


def test_built_in_readers_pass_all_checks(ljspeech: Path, audio_folder: Path, tmp_path: Path) -> None:
    (ljspeech / "metadata.csv").write_text("LJ000|a\nLJ001|b\nLJ009|gone\n")
    (tmp_path / "m.csv").write_text("path,start,duration\nLJ/wavs/LJ001.wav,,\nLJ/wavs/LJ002.wav,0.01,0.02\n")
    for name, source in {
        "metadata": ljspeech, "folder": audio_folder, "manifest": tmp_path / "m.csv", "corpus": "prompts",
    }.items():  # fmt: skip
        assert broken_checks(name, source) == {}, name


def test_each_broken_check_of_a_reader_is_reported(
    register_readers: Callable[..., None], ljspeech: Path
) -> None:
    files = sorted((ljspeech / "wavs").iterdir())
    shuffled = iter(range(10**6))

    def unpicklable() -> None:
        pass

    class InconsistentSource(AudioFile):
        def length_s(self) -> float:
            return 2 * super().length_s()

        def read(self, **part: Any) -> Any:
            return super().read()

        def fingerprint(self) -> str:
            return "0" * 32

    def clips(**fields: Any) -> list[Clip]:
        return [Clip(id=path.stem, path=path, **fields) for path in files]

    def reader(name: str, factory: Callable[..., Any], **more: Any) -> ReaderSpec:
        def read(source: str) -> Any:
            if not Path(source).name == "LJ":
                raise CorpusError(f"{source!r} is not there.")
            return factory()

        return ReaderSpec(name=name, factory=read, **more)

    register_readers(
        reader("good", clips, matches=lambda source: source.endswith("LJ")),
        reader("other_order", lambda: clips()[:: 1 - 2 * (next(shuffled) % 2)]),
        reader("same_ids", lambda: clips() + clips()),
        reader("other_split", lambda: clips(split="dev")),
        reader("no_pickle", lambda: clips(columns={"f": unpicklable})),
        reader("no_audio", lambda: [Clip(id="a", path=Path("gone.wav"))]),
        reader("lying", lambda: [Clip(id=p.stem, path=p, source=InconsistentSource(p)) for p in files]),
        reader("all_match", clips, matches=lambda source: True),
        ReaderSpec(name="anything", factory=lambda source: clips()),
        ReaderSpec(name="crashes", factory=lambda source: clips() if source.endswith("LJ") else 1 // 0),
    )
    assert broken_checks("good", ljspeech) == {}
    assert [*broken_checks("other_order", ljspeech)] == ["order"]
    assert [*broken_checks("same_ids", ljspeech)] == ["ids"]
    assert [*broken_checks("other_split", ljspeech)] == ["ids"]
    assert [*broken_checks("no_pickle", ljspeech)] == ["pickling"]
    assert [*broken_checks("no_audio", ljspeech)] == ["audio"]
    assert [*broken_checks("lying", ljspeech)] == ["pickling", "partial_reads", "durations", "identity"]
    assert [*broken_checks("all_match", ljspeech)] == ["unknown_sources"]
    assert [*broken_checks("anything", ljspeech)] == ["unknown_sources"]
    assert "ZeroDivisionError" in broken_checks("crashes", ljspeech)["unknown_sources"]
    assert [*broken_checks("good", "elsewhere")] == ["clips"]  # the other checks need clips


def test_the_command_checks_a_reader_with_a_source(ljspeech: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["plugins", "check", "folder", f"source={ljspeech}"])
    assert done.exit_code == 0, done.output
    assert "unknown_sources" in done.output
    assert "10 checks, 0 broken" in done.output
    done = runner.invoke(app, ["plugins", "check", "folder"])
    assert done.exit_code != 0
    assert "need a source" in str(done.exception)
