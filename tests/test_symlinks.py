"""Nothing is written through links in untrusted folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_codecs import MulawCodec

from codecvq.data.corpus import open_corpus
from codecvq.errors import SymlinkError
from codecvq.evaluation import Evaluation, evaluate, prepare, write_report
from codecvq.files import path_without_links, write_atomically
from codecvq.training import loop
from codecvq.training.recipe import load_recipe
from codecvq.training.run import RunFolder
from recipes import write_recipe


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/step-00000001").mkdir()
    (tmp_path / "outside/index.html").write_text("mine")
    return tmp_path / "outside"


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("part", ["checkpoints", "codec", "best", "tensorboard", "metrics.jsonl"])
@pytest.mark.parametrize("dangling", [False, True], ids=["there", "dangling"])
def test_training_does_not_write_through_links(
    tmp_path: Path, outside: Path, part: str, dangling: bool
) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", training={"steps": 1}))
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    write_atomically(run.recipe_file, recipe.to_yaml())
    (run.path / part).symlink_to(outside / "gone" if dangling else outside)
    before = contents(outside)
    with pytest.raises(SymlinkError, match=f"run/{part} is a link to {outside}"):
        loop.train(recipe, run.path)
    assert contents(outside) == before


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    corpus, audio = open_corpus("prompts"), tmp_path_factory.mktemp("audio")
    return evaluate(MulawCodec(), corpus, prepare(["mel_distance"]), max_clips=1, audio_dir=audio)


@pytest.mark.parametrize("part", ["report", "report/audio"])
def test_reports_are_not_written_through_links(
    tmp_path: Path, outside: Path, evaluation: Evaluation, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codecvq.evaluation.report.EMBED_BYTES", 0)  # audio is in separate files
    (tmp_path / "codec" / part).parent.mkdir(parents=True)
    (tmp_path / "codec" / part).symlink_to(outside)
    before = contents(outside)
    with pytest.raises(SymlinkError, match="is a link"):
        write_report(tmp_path / "codec", evaluation)
    assert contents(outside) == before
    assert (outside / "index.html").read_text() == "mine"


def test_a_link_in_place_of_a_file_is_replaced(tmp_path: Path, outside: Path, evaluation: Evaluation) -> None:
    (tmp_path / "codec/report").mkdir(parents=True)
    (tmp_path / "codec/report/index.html").symlink_to(outside / "index.html")
    page = write_report(tmp_path / "codec", evaluation)
    assert not page.is_symlink()
    assert (outside / "index.html").read_text() == "mine"


def test_the_folder_itself_may_be_a_link(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "runs").symlink_to(outside)
    assert path_without_links(tmp_path / "runs", "report", "audio") == tmp_path / "runs/report/audio"


def test_lone_surrogates_can_be_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "ä\udc80")
    assert (tmp_path / "file").read_bytes() == "ä\\udc80".encode()
