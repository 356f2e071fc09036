"""Every bundled recipe trains in `codecvq train RECIPE --smoke`; output of `codecvq recipes show`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from codecvq.cli.app import app
from codecvq.codec import load
from codecvq.data.corpus import open_corpus
from codecvq.errors import CodecvqError, CorpusError, RecipeError, RunError
from codecvq.plugins import registry
from codecvq.training.recipe import Recipe, load_recipe
from codecvq.training.smoke import STEPS, smoke_recipe, smoke_test
from recipes import write_recipe

BUNDLED = sorted(
    name
    for name, registration in registry().all("recipes").items()
    if registration.path().parent.name == "recipes"
)
TTS_24K = [f"tts-24k-{q}" for q in ("fsq", "simvq", "rotation-vq", "residual-fsq", "lfq")]


def call(*arguments: Any) -> tuple[int, str]:
    """Exit code and output of a command. User errors propagate as exceptions."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    return result.exit_code, result.output


def scalars(run: Path) -> dict[str, float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return {name: value for line in lines for name, value in json.loads(line).items()}


def small(name: str) -> Recipe:
    """The recipe with the tiny network preset: the same parts in a tenth of the time."""
    recipe = load_recipe(name, ["training.threads=1", "training.precision=fp32"])
    network = {key: value for key, value in recipe.network.items() if not key.endswith(("_width", "_blocks"))}
    return recipe.model_copy(update={"network": {**network, "preset": "tiny"}})


def test_documented_recipes_are_bundled() -> None:
    others = {
        "quickstart",
        "speech-16k",
        "speech-16k-natural",
        "speech-16k-stream",
        "encodec-24k",
        "stream-24k",
        "lm-16k-single",
        "semantic-16k",
        "tts-22k",
        "tts-44k",
    }
    assert {*others, *TTS_24K} <= set(BUNDLED)


@pytest.mark.parametrize("name", BUNDLED)
def test_every_bundled_recipe_trains(name: str, tmp_path: Path) -> None:
    recipe = small(name)
    if recipe.training.keep_best == "validation/pesq_wb":
        pytest.importorskip("pesq")
    done = smoke_test(recipe, tmp_path / "run")
    assert done is not None
    assert (done.trained.steps, done.trained.skipped) == (STEPS, 0)
    assert done.trained.failures == ()
    metrics = scalars(tmp_path / "run")
    recipe = load_recipe(name)
    assert {f"loss/{term}" for term in recipe.losses.weights()} <= metrics.keys()
    assert ("loss/adversarial" in metrics) == (recipe.discriminator is not None)
    assert metrics["validation/mel"] > 0
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lm-16k-single", "encodec-24k"])
def test_the_largest_recipes_train_at_full_size(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, ["training.threads=1"])
    smoke_test(recipe, tmp_path / "run")
    codec = load(tmp_path / "run")
    assert codec.network_config == recipe.network


@pytest.mark.parametrize("name", BUNDLED)
def test_smoke_recipes_change_only_sizes_and_lengths(name: str) -> None:
    recipe = load_recipe(name)
    smoke = smoke_recipe(recipe)
    assert (smoke.network, smoke.quantizer, smoke.losses) == (recipe.network, recipe.quantizer, recipe.losses)
    assert (smoke.corpus.name, smoke.training.workers) == (recipe.corpus.name, 0)
    assert smoke.corpus.segment_s <= recipe.corpus.segment_s
    if recipe.discriminator is not None:
        assert smoke.discriminator is not None
        assert [n["name"] for n in smoke.discriminator.networks] == [
            n["name"] for n in recipe.discriminator.networks
        ]
        assert smoke.discriminator.start_step < STEPS
    assert Recipe.model_validate(smoke.model_dump()) == smoke


def test_a_smoke_test_uses_the_given_corpus_or_raises(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "tiny.yaml")
    missing = load_recipe(path, ["corpus.name=null", f"corpus.folder={tmp_path / 'gone'}"])
    with pytest.raises(CorpusError, match="gone does not exist"):
        smoke_test(missing, tmp_path / "run")
    (tmp_path / "mine").mkdir()
    for n, clip in enumerate(open_corpus("prompts").clips[:30]):
        shutil.copy(clip.path, tmp_path / "mine" / f"{n}{clip.path.suffix}")
    mine = load_recipe(path, ["corpus.name=null", f"corpus.folder={tmp_path / 'mine'}"])
    done = smoke_test(mine, tmp_path / "run")
    assert done is not None
    assert done.corpus == "mine"
    assert 0 < len((tmp_path / "run" / "split.jsonl").read_text().splitlines()) <= 12


def test_smoke_segments_are_long_enough_for_the_discriminators(tmp_path: Path) -> None:
    section = {"networks": [{"name": "ms_stft", "windows": [8192], "filters": 1}]}
    path = write_recipe(tmp_path / "long.yaml", discriminator=section, losses={"adversarial": 1.0})
    recipe = load_recipe(path, ["corpus.segment_s=1.0"])
    assert smoke_recipe(recipe).corpus.segment_s == pytest.approx(26 * 320 / 16000), "8192 in complete frames"


class TestTrainCommand:
    def test_smoke_reports_success_and_leaves_no_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        recipe = write_recipe(tmp_path / "tiny.yaml")
        code, out = call("train", recipe, "--smoke")
        assert code == 0
        assert "works: 3 steps" in out
        assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]

    @pytest.mark.slow
    def test_smoke_with_two_processes_prints_one_report(self, tmp_path: Path) -> None:
        recipe = write_recipe(tmp_path / "tiny.yaml")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command += ["-m", "codecvq", "train", str(recipe), "--smoke", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["works"] is True

    def test_smoke_keeps_the_run_folder_given_by_run(self, tmp_path: Path) -> None:
        recipe = write_recipe(tmp_path / "tiny.yaml")
        code, out = call("train", recipe, "--smoke", "--run", tmp_path / "kept", "--json")
        report = json.loads(out[out.index("{") :])
        assert code == 0
        assert (report["works"], report["steps"], report["run"]) == (True, STEPS, str(tmp_path / "kept"))
        assert load(tmp_path / "kept").bitrate == pytest.approx(report["bitrate_bps"])

    def test_init_from_loads_initial_weights(self, tmp_path: Path) -> None:
        recipe = write_recipe(tmp_path / "tiny.yaml", training={"steps": 1})
        call("train", recipe, "--run", tmp_path / "first")
        code, _ = call("train", recipe, "--run", tmp_path / "second", "--init-from", tmp_path / "first")
        assert code == 0
        resolved = yaml.safe_load((tmp_path / "second" / "recipe.yaml").read_text())
        assert resolved["training"]["init_from"] == str(tmp_path / "first")
        wider = ["network.encoder_width=24", "--init-from", tmp_path / "first"]
        with pytest.raises(RunError, match="--init-partial"):
            call("train", recipe, *wider, "--run", tmp_path / "strict")
        assert call("train", recipe, *wider, "--init-partial", "--run", tmp_path / "partial")[0] == 0
        with pytest.raises(RecipeError, match="Add --init-from"):
            call("train", recipe, "--init-partial")
        with pytest.raises(CodecvqError, match="nowhere"):
            call("train", recipe, "--init-from", "nowhere", "--run", tmp_path / "fourth")


class TestShow:
    @pytest.mark.parametrize("name", ["quickstart", "stream-24k", "encodec-24k"])
    def test_show_prints_the_file_and_comments(self, name: str) -> None:
        code, out = call("recipes", "show", name)
        text = registry().find("recipes", name).path().read_text()
        assert code == 0
        assert out.startswith(text)
        rest = out[len(text) :].splitlines()
        assert rest
        assert all(line.startswith("#") for line in rest)
        report = "\n".join(rest)
        for part in (
            "encoder",
            "quantizer",
            "decoder",
            "whole",
            "bit/s",
            "frames per second",
            "receptive field",
        ):
            assert part in report
        assert yaml.safe_load(out) == yaml.safe_load(text)

    def test_show_prints_correct_numbers(self) -> None:
        _, out = call("recipes", "show", "stream-24k", "--json")
        report = json.loads(out)["codec"]
        assert report["bitrate_bps"] == 6000
        assert report["frame_rate_hz"] == 75
        assert report["lookahead_samples"] == 320
        assert report["lookahead_s"] == pytest.approx(1 / 75)
        assert report["parameters"] == sum(part["parameters"] for part in report["parts"].values())
        assert report["parts"]["decoder"]["multiply_adds_per_s"] > 0.5e9, (
            "the unit is multiply-adds per second"
        )

    def test_resolved_prints_all_defaults(self) -> None:
        _, out = call("recipes", "show", "tts-24k-fsq", "--resolved")
        assert yaml.safe_load(out)["optimizer"]["final_ratio"] == 0.01


def test_24k_recipes_have_the_same_training_options() -> None:
    recipes = [load_recipe(name) for name in TTS_24K]
    first = recipes[0]
    for recipe in recipes[1:]:
        assert (recipe.discriminator, recipe.losses) == (first.discriminator, first.losses)
        assert (recipe.training, recipe.optimizer) == (first.training, first.optimizer)


@pytest.mark.parametrize("name", [name for name in BUNDLED if name not in ("quickstart", "speech-16k")])
def test_descriptions_mark_estimates(name: str) -> None:
    recipe = load_recipe(name)
    if recipe.corpus.name in ("libritts", "ljspeech", "vctk"):
        assert "Estimates, not measured" in recipe.description
        assert "hours" in recipe.description
        assert "GB" in recipe.description
