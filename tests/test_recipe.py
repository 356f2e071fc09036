"""Recipes: errors name the key and the file and suggest a correction."""

from __future__ import annotations

from pathlib import Path

import pytest

from codecvq.errors import CodecvqError, OptionError, RecipeError
from codecvq.plugins import registry
from codecvq.training import builders
from codecvq.training.changes import differences
from codecvq.training.recipe import load_recipe
from recipes import write_recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("quantizr.levels=[5]", r"quantizr is not a key.*Did you mean 'quantizer'"),
        ("training.step=3", r"training\.step is not a key.*Did you mean 'steps'"),
        ("losses.mell=3", r"losses\.mell is not a key.*Did you mean 'mel'"),
        ("corpus.augment.gain=3", r"corpus\.augment\.gain is not a key.*Did you mean 'gain_db'"),
        ("training.steps=many", r"training\.steps is 'many'"),
        ("training.steps=0", r"training\.steps is 0.*greater than 0"),
        ("training.precision=int8", r"training\.precision is 'int8'.*'fp32'"),
        ("optimizer.betas=[1]", r"optimizer\.betas"),
        ("corpus.segment_s=-1", r"corpus\.segment_s is -1"),
        ("discriminator={networks: [{filters: 3}]}", r"discriminator\.networks.*no name.*multi_band"),
        ("losses.mel=0", r"yaml: there is no reconstruction loss.*losses\.mel to 15"),
        ("training.steps", r"is neither key=value"),
        ("training.steps.more=3", r"'steps' is 30, which has no keys"),
        ("training.steps=[", r"the value is not YAML"),
        ("training.steps=" + "9" * 400, r"has 400 digits"),
        ("training.steps=1000000000000", r"less than or equal to 1000000000"),
        ("corpus.segment_s=.inf", r"corpus\.segment_s is inf.*finite"),
        ("optimizer.betas=[0.9, 1.5]", r"optimizer\.betas.*less than 1"),
        ("channels=2", r"channels is 2: training audio is mixed to mono.*separately"),
        ("sample_rate=1", r"sample_rate is 1.*1000"),
        ("~losses.mell", r"there is no 'mell'.*Did you mean 'mel'"),
        ("losses.mel_windows=[64]", r"mel_windows is now the option windows of mel.*losses\.mel\.windows="),
        ("~discriminator.start", r"there is no 'start'\. Did you mean 'start_step'"),
        ("~training.steps=3", r"is neither key=value.*nor ~key"),
        ("~", r"is neither key=value"),
    ],
)
def test_recipe_errors_have_one_line(tmp_path: Path, override: str, message: str) -> None:
    path = write_recipe(tmp_path / "tiny.yaml")
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("quantizer.dim=8", r"quantizer\.dim cannot be set, since it is the dim of the network"),
        ("network.sample_rate=8000", r"network\.sample_rate cannot be set"),
        ("corpus.augment.gain_db=[-9, 1000]", r"gain_db is \[-9, 1000\]"),
        (
            "losses.mel.window=[64]",
            r"losses\.mel has no option 'window'; it has windows.*Did you mean 'windows'",
        ),
        ("losses.mel.windows=[64, wide]", r"losses\.mel: windows\[1\] is 'wide'"),
        ("losses.stft={windows: [64]}", r"losses\.stft is .*it must be a weight, such as stft: 1\.0, or"),
        ("losses.stft=true", r"losses\.stft is True; it must be a weight"),
        ("losses.mel=-1", r"losses\.mel is -1\.0; a weight must be 0"),
        ("losses.waveform=.nan", r"losses\.waveform is nan; a weight must be 0"),
        ("losses.balance_norm=0", r"losses\.balance_norm is 0\.0; it must be above 0"),
    ],
)
def test_invalid_options_raise_when_the_recipe_is_read(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load_recipe(write_recipe(tmp_path / "tiny.yaml"), [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains NoneType"),
        ("- a\n- b\n", "contains list"),
        ("a: [", "is not YAML"),
        ("sample_rate: 16000\n", "network is missing"),
    ],
    ids=["empty", "list", "broken", "incomplete"],
)
def test_a_file_without_a_recipe_raises(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("quikstart", "Did you mean 'quickstart'"),
        ("no/such.yaml", "does not exist"),
        ("no.yml", "does not exist"),
    ],
)
def test_an_unknown_recipe_raises_with_a_suggestion(source: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(source)


def test_overrides_are_read_as_yaml(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "tiny.yaml")
    recipe = load_recipe(
        path, ["quantizer.levels=[8, 5]", "training.steps=7", "corpus.name=null", "corpus.folder=/data"]
    )
    assert recipe.quantizer["levels"] == [8, 5]
    assert (recipe.training.steps, recipe.corpus.name, recipe.corpus.folder) == (7, None, "/data")


def test_an_override_removes_a_key(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "tiny.yaml", evaluation={"max_clips": 3})
    recipe = load_recipe(path, ["~losses.mel.bands", "~losses.mel.windows", "~evaluation"])
    assert len(recipe.losses.options()["mel"]["windows"]) == 5, "the default"
    assert recipe.evaluation.max_clips is None
    with pytest.raises(RecipeError, match=r"training\.steps is missing"):
        load_recipe(path, ["~training.steps"])


def test_numbers_in_scientific_notation_need_no_decimal_point(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "tiny.yaml", quantizer={"name": "vq"})
    recipe = load_recipe(path, ["quantizer.decay=9e-1", "optimizer.learning_rate=1e-4"])
    assert (recipe.quantizer["decay"], recipe.optimizer.learning_rate) == (0.9, 1e-4)


def test_a_resolved_recipe_loads_unchanged(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml"))
    (tmp_path / "resolved.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "resolved.yaml") == recipe


def test_differences_list_changed_keys(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "tiny.yaml")
    old, new = load_recipe(path), load_recipe(path, ["training.seed=4", "training.precision=auto"])
    assert differences(old, old) == []
    assert differences(old, new) == ["training.seed: 0 -> 4"], "auto equals the precision of the run"


def test_plugin_paths_are_relative_to_the_recipe_and_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("raise SystemExit('it ran')\n")
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", plugins=["./plugin.py", "a.module"]))
    assert recipe.plugins == [str(tmp_path / "plugin.py"), "a.module"]
    with pytest.raises(CodecvqError, match=r"plugins.*not a valid path|contains a NUL"):
        load_recipe(write_recipe(tmp_path / "tiny.yaml", plugins=["./\0.py"]))


RECIPES = sorted(registry().all("recipes"))


def test_24k_recipes_have_one_bitrate_and_differ_only_in_the_quantizer() -> None:
    recipes = [load_recipe(name) for name in RECIPES if name.startswith("tts-24k-")]
    assert {round(builders.build_codec(recipe).bitrate) for recipe in recipes} == {3000}
    for recipe in recipes[1:]:
        changed = {line.partition(":")[0].partition(".")[0] for line in differences(recipes[0], recipe)}
        assert changed <= {"description", "quantizer", "network"}
        same = {key: value for key, value in recipe.network.items() if key != "dim"}
        assert same == {key: value for key, value in recipes[0].network.items() if key != "dim"}
