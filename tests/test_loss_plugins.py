"""Losses as plugins: their inputs in training, and parameters that are trained, saved and restored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from codecvq import LossSpec, QuantizerSpec, hookimpl
from codecvq.codec import Codec
from codecvq.data.clip import Clip
from codecvq.errors import OptionError, RecipeError, UnknownName
from codecvq.losses import Loss, LossInputs
from codecvq.plugins import registry
from codecvq.quantizer import Quantized, build_quantizer
from codecvq.training import loop
from codecvq.training.checkpoint import last_checkpoint
from codecvq.training.learner import Learner
from codecvq.training.recipe import Recipe, load_recipe
from recipes import write_recipe

VQ = {"name": "residual_vq", "codebook_size": 16, "codebook_dim": 4, "num_codebooks": 2, "dropout": 0.5}
SEEN: list[LossInputs] = []
PROGRESS: list[tuple[int, int | None]] = []


class Watching(Loss):
    """Records its inputs. Its value is 0, with a gradient path to the latents."""

    uses_parts = True

    def forward(self, inputs: LossInputs) -> Tensor:
        SEEN.append(inputs)
        assert inputs.parts is not None
        return 0.0 * inputs.parts[0].mean()


class Learning(Loss):
    """Predicts the energy of the audio from the quantized latents with a learned map."""

    def __init__(self, sample_rate: int, width: int = 3) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def setup(self, codec: Codec) -> None:
        self.map = nn.Sequential(nn.Linear(codec.latent_dim, self.width), nn.Linear(self.width, 1))

    def forward(self, inputs: LossInputs) -> Tensor:
        self.steps += 1
        energy = inputs.reference.square().mean(dim=(1, 2))
        assert inputs.quantized is not None
        return (self.map(inputs.quantized.mean(dim=2))[:, 0] - energy).square().mean()


class Toned(Loss):
    """A loss of the decoded audio with a learned filter."""

    of_audio = True

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.filter = nn.Conv1d(1, 2, 8)

    def forward(self, inputs: LossInputs) -> Tensor:
        return (self.filter(inputs.decoded) - self.filter(inputs.reference)).square().mean()


class Vector(Loss):
    def __init__(self, sample_rate: int) -> None:
        super().__init__()

    def forward(self, inputs: LossInputs) -> Tensor:
        return inputs.decoded.mean(dim=(1, 2))


class Keeping(Loss):
    def __init__(self, sample_rate: int) -> None:
        super().__init__()

    def setup(self, codec: Codec) -> None:
        self.codec = codec


class WithoutBase(nn.Module):
    """A module that is not a subclass of Loss."""

    def __init__(self, sample_rate: int = 8000) -> None:
        super().__init__()

    def forward(self, inputs: LossInputs) -> Tensor:
        return inputs.decoded.square().mean()


class Plugin:
    @hookimpl
    def codecvq_losses(self) -> Iterator[LossSpec]:
        yield LossSpec(name="watching", factory=lambda sample_rate: Watching(), summary="keeps its inputs")
        for name, factory in (
            ("learning", Learning),
            ("toned", Toned),
            ("vector", Vector),
            ("keeping", Keeping),
            ("without_base", WithoutBase),
            ("commitment", WithoutBase),
        ):
            yield LossSpec(name=name, factory=factory, summary="for tests")

    @hookimpl
    def codecvq_quantizers(self) -> Iterator[QuantizerSpec]:
        yield QuantizerSpec(name="stepping", factory=stepping, summary="vq that records its progress")


def stepping(dim: int, codebook_size: int = 16) -> Any:
    quantizer = build_quantizer("vq", dim=dim, codebook_size=codebook_size)
    plain = quantizer.forward

    def forward(*args: Any, **options: Any) -> Quantized:
        if quantizer.training:
            PROGRESS.append((quantizer.progress.step, quantizer.progress.steps))
        return plain(*args, **options)

    quantizer.forward = forward
    return quantizer


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    SEEN.clear()
    PROGRESS.clear()
    origin = registry().register(Plugin(), "tests_of_losses")
    yield
    registry().unregister(origin)


def recipe_of(folder: Path, name: str = "tiny", **sections: Any) -> Recipe:
    return load_recipe(write_recipe(folder / f"{name}.yaml", **{"quantizer": VQ, **sections}))


def learner_of(recipe: Recipe) -> Learner:
    torch.manual_seed(0)
    return Learner(recipe, "codec", Accelerator(cpu=True))


def wav_of(items: int = 4) -> Tensor:
    return 0.1 * torch.randn(items, 1, 8000, generator=torch.Generator().manual_seed(0))


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def saved(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and state of the losses in the last checkpoint."""
    checkpoint = last_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    return dict(checkpoint.weights), dict(checkpoint.state)


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Learner.step

    def stop(learner: Learner, number: int, wav: Tensor, clips: Sequence[Clip]) -> None:
        if number == step:
            raise KeyboardInterrupt
        plain(learner, number, wav, clips)

    monkeypatch.setattr(Learner, "step", stop)


def test_losses_receive_all_inputs_of_a_batch_in_training(tmp_path: Path) -> None:
    augment = {"gain_db": [0.0, 0.0], "polarity": 0.0}
    recipe = recipe_of(
        tmp_path,
        losses={"watching": 1.0},
        corpus={"augment": augment},
        training={"steps": 2, "accumulate": 2, "batch_size": 3, "validation_clips": 0},
    )
    loop.train(recipe, tmp_path / "run")
    assert len(SEEN) == 4, "two steps of two passes"
    assert [inputs.progress.step for inputs in SEEN] == [0, 0, 1, 1]
    assert {inputs.progress.steps for inputs in SEEN} == {2}
    for inputs in SEEN:
        assert inputs.decoded.shape == inputs.reference.shape == (3, 1, 8000)
        assert inputs.latents is not None
        assert inputs.quantized is not None
        assert inputs.parts is not None
        assert inputs.codes is not None
        shape = inputs.latents.shape
        assert (inputs.sample_rate, inputs.hop_length) == (16000, 8000 // shape[2])
        assert inputs.quantized.shape == inputs.parts[0].shape == shape == (3, 8, shape[2])
        assert inputs.codes.shape == (3, 2, shape[2])
        assert inputs.latents.requires_grad
        assert inputs.quantized.requires_grad
        assert len(inputs.clips) == 3
        for wav, clip in zip(inputs.reference[:, 0].numpy(), inputs.clips, strict=True):
            assert holds(clip.read(16000), wav), f"the audio is not a part of {clip.id}"
    texts = {clip.text for inputs in SEEN for clip in inputs.clips}
    assert len(texts) > 6, "the clips have texts"


def holds(whole: Any, piece: Any) -> bool:
    """Whether `piece` is a part of `whole`, at 16 bits. A shorter `whole` is padded with silence."""
    found, whole = piece[piece.nonzero()[0][0] : piece.nonzero()[0][-1] + 1], (whole * 32768).round()
    middle = (found[: len(whole)] * 32768).round()
    needle, stack = middle[:200].astype("int32").tobytes(), whole.astype("int32").tobytes()
    return needle in stack


def test_parts_add_up_to_the_quantized_latents(tmp_path: Path) -> None:
    learner = learner_of(recipe_of(tmp_path, losses={"watching": 1.0}))
    learner.step(0, wav_of())
    (inputs,) = SEEN
    assert inputs.parts is not None
    assert inputs.quantized is not None
    active = torch.ones(4, 2, 1) if inputs.active is None else inputs.active[:, :, :1].float()
    total = sum(part * active[:, n, :, None] for n, part in enumerate(inputs.parts))
    torch.testing.assert_close(total, inputs.quantized, atol=1e-5, rtol=1e-4)
    assert inputs.codebook_part(1) is inputs.parts[1]
    with pytest.raises(OptionError, match="latents of codebook 2 are needed, but 2 codebooks"):
        inputs.codebook_part(2)


def test_parameters_of_losses_are_saved_restored_and_not_part_of_the_codec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path, losses={"learning": {"weight": 0.5, "width": 2}}, training={"steps": 8})
    loop.train(recipe, tmp_path / "whole")
    weights, state = saved(tmp_path / "whole")
    names = {"learning.map.0.weight", "learning.map.0.bias", "learning.map.1.weight", "learning.map.1.bias"}
    assert state["losses"].keys() == {*names, "learning.steps"}
    assert int(state["losses"]["learning.steps"]) == 8
    begun = learner_of(recipe).losses.state()
    assert not any(torch.equal(begun[name], state["losses"][name]) for name in names), (
        "all parameters changed"
    )
    codec = load_file(tmp_path / "whole" / "codec" / "model.safetensors")
    assert not [name for name in {**codec, **weights} if "map" in name]
    with monkeypatch.context() as patch:
        stop_at(7, patch)
        with pytest.raises(KeyboardInterrupt):
            loop.train(recipe, tmp_path / "stopped")
    assert loop.train(recipe, tmp_path / "stopped").resumed_at == 5
    again, of_resumed = saved(tmp_path / "stopped")
    assert same(again, weights)
    assert same(of_resumed["losses"], state["losses"])


def test_modules_of_losses_do_not_change_the_random_numbers_of_the_codec(tmp_path: Path) -> None:
    plain = learner_of(recipe_of(tmp_path, "plain"))
    other = learner_of(recipe_of(tmp_path, "other", losses={"learning": 1e-30}))
    assert same(plain.codec.state_dict(), other.codec.state_dict())
    torch.manual_seed(0)
    plain.step(0, wav_of())
    other.step(0, wav_of())
    codes = [learner.usage.counts[1] for learner in (plain, other)]
    assert torch.equal(*codes), "dropout drew the same depths"


@pytest.mark.parametrize("balance", [False, True])
def test_parameters_of_losses_have_gradients_with_and_without_the_balancer(
    tmp_path: Path, balance: bool
) -> None:
    losses = {"mel": 1.0, "toned": 2.0, "learning": 3.0, "balance": balance}
    learner = learner_of(recipe_of(tmp_path, losses=losses, training={"accumulate": 2, "batch_size": 2}))
    before = {name: weight.detach().clone() for name, weight in learner.parameters.items()}
    assert {name.split(".")[1] for name in learner.losses.parameters} == {"toned", "learning"}
    learner.step(0, wav_of())
    toned, learning = (learner.losses.modules[name] for name in ("toned", "learning"))
    wanted = [weight.grad for weight in (toned.filter.weight, *learning.parameters())]
    assert all(grad is not None and bool(grad.abs().sum() > 0) for grad in wanted)
    moved = [name for name, weight in learner.parameters.items() if not torch.equal(weight, before[name])]
    assert set(learner.losses.parameters) - set(moved) <= {"losses.toned.filter.bias"}, "its gradient is zero"
    assert any(name.startswith("encoder") for name in moved)


def test_the_balancer_does_not_change_losses_of_latents(tmp_path: Path) -> None:
    """The gradient of a loss that does not depend on the decoded audio is not balanced."""
    grads = {}
    for balance in (False, True):
        # mel has a negligible share of 1e-12
        losses = {"mel": 1e-12, "learning": 3.0, "balance": balance, "balance_norm": 1e-12}
        learner = learner_of(recipe_of(tmp_path, losses=losses, quantizer={"name": "fsq", "levels": [5, 5]}))
        learner.step(0, wav_of())
        grads[balance] = {name: each.grad for name, each in learner.codec.encoder.named_parameters()}
    for name, grad in grads[False].items():
        torch.testing.assert_close(grads[True][name], grad, atol=1e-8, rtol=1e-3)
    assert any(bool(grad.abs().sum() > 0) for grad in grads[True].values())


def test_a_module_that_does_not_subclass_loss_works(tmp_path: Path) -> None:
    learner = learner_of(recipe_of(tmp_path, losses={"without_base": 1.0}))
    learner.step(0, wav_of())
    assert learner.step_metrics.take_means()["loss/without_base"] > 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vector", r"loss 'vector' returned a tensor \[4\]; a 0-d tensor is needed"),
        ("keeping", r"loss 'keeping' contains parameters of the codec"),
        ("commitment", r"'commitment' is both a loss of the recipe and a loss of the quantizer"),
    ],
)
def test_an_unusable_loss_is_an_error(tmp_path: Path, name: str, says: str) -> None:
    quantizer = {"name": "vq", "codebook_size": 16}
    recipe = recipe_of(tmp_path, losses={name: 1.0}, quantizer=quantizer)
    with pytest.raises(OptionError, match=says):
        learner_of(recipe).step(0, wav_of())


def test_progress_counts_optimizer_steps_with_accumulate_and_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"steps": 7, "accumulate": 2, "batch_size": 2, "validation_clips": 0}
    recipe = recipe_of(tmp_path, quantizer={"name": "stepping"}, training=training)
    with monkeypatch.context() as patch:
        stop_at(6, patch)
        with pytest.raises(KeyboardInterrupt):
            loop.train(recipe, tmp_path / "run")
    assert [(step, 7) for step in range(6) for _ in range(2)] == PROGRESS
    PROGRESS.clear()
    assert loop.train(recipe, tmp_path / "run").resumed_at == 5
    assert [(step, 7) for step in (5, 6) for _ in range(2)] == PROGRESS


def test_total_steps_follow_from_the_time_budget(tmp_path: Path) -> None:
    learner = learner_of(recipe_of(tmp_path, quantizer={"name": "stepping"}, training={"minutes": 1.0}))
    learner.step(0, wav_of())
    learner.step_budget.steps = 123  # as `fit` would
    learner.step(1, wav_of())
    assert PROGRESS == [(0, 10_000), (1, 123)]


def test_the_example_of_distillation_trains_the_first_codebook(tmp_path: Path) -> None:
    file = Path(__file__).parents[1] / "plugins/example/papers/distillation.py"
    origin = registry().load(file)
    try:
        recipe = recipe_of(
            tmp_path,
            quantizer={**VQ, "dropout": 0.0},
            losses={"mel": 1.0, "first_codebook": 20.0},
            training={"steps": 20, "validation_clips": 0},
            optimizer={"warmup_steps": 2, "learning_rate": 1e-2},
        )
        loop.train(recipe, tmp_path / "run")
    finally:
        registry().unregister(origin)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss/first_codebook"] < 0.97 * rows[0]["loss/first_codebook"]
    assert set(saved(tmp_path / "run")[1]["losses"]) == {
        "first_codebook.projection.weight",
        "first_codebook.projection.bias",
    }


class TestRecipes:
    def test_a_loss_is_a_weight_or_a_mapping_with_options(self, tmp_path: Path) -> None:
        recipe = recipe_of(tmp_path, losses={"learning": {"weight": 2, "width": 5}, "toned": 1, "stft": 0})
        assert recipe.losses.weights() == {"mel": 15.0, "learning": 2.0, "toned": 1.0}
        assert recipe.losses.options()["learning"] == {"width": 5}
        assert load_recipe(rewritten(recipe, tmp_path)) == recipe, "a written recipe is read back unchanged"

    def test_an_override_of_the_weight_preserves_the_options(self, tmp_path: Path) -> None:
        path = write_recipe(tmp_path / "tiny.yaml")
        recipe = load_recipe(path, ["losses.mel=3", "losses.stft=1", "losses.stft.windows=[64]"])
        assert recipe.losses.weights() == {"mel": 3.0, "stft": 1.0}
        assert recipe.losses.options()["mel"]["windows"] == [256, 1024]
        assert recipe.losses.options()["stft"] == {"windows": [64]}
        fewer = load_recipe(path, ["~losses", "losses.mel.windows=[64]", "losses.mel.bands=[8]"])
        assert fewer.losses.options()["mel"]["bands"] == [8]

    def test_unknown_losses_and_options_are_an_error_when_the_recipe_is_read(self, tmp_path: Path) -> None:
        path = write_recipe(tmp_path / "tiny.yaml")
        with pytest.raises(RecipeError, match=r"losses\.learnin is not a key.*Did you mean 'learning'"):
            load_recipe(path, ["losses.learnin=1"])
        with pytest.raises(OptionError, match=r"losses\.learning has no option 'wide'"):
            load_recipe(path, ["losses.learning={weight: 1, wide: 3}"])

    def test_a_recipe_with_a_loss_of_an_unloaded_plugin_can_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text("raise SystemExit('it ran')\n")
        recipe = recipe_of(tmp_path, losses={"of_mine": {"weight": 1.0, "depth": 2}}, plugins=["./mine.py"])
        assert recipe.losses.options()["of_mine"] == {"depth": 2}
        with pytest.raises(UnknownName, match="no loss named 'of_mine'"):
            learner_of(recipe)

    def test_a_run_of_version_010_resumes(self, tmp_path: Path) -> None:
        """Recipes of version 0.1.0 have loss options as keys of the section, including all defaults."""
        losses = {"loudness": 2.0, "stft": {"weight": 1.0, "windows": [512]}}
        recipe = recipe_of(tmp_path, losses=losses, training={"steps": 2, "checkpoint_every": 2})
        loop.train(recipe, tmp_path / "run")
        text = (tmp_path / "run" / "recipe.yaml").read_text()
        begin, end = text.index("losses:"), text.index("discriminator:")
        (tmp_path / "run" / "recipe.yaml").write_text(f"{text[:begin]}{VERSION_010}{text[end:]}")
        longer = recipe.model_copy(update={"training": recipe.training.model_copy(update={"steps": 4})})
        assert loop.train(longer, tmp_path / "run").resumed_at == 2
        other = load_recipe(tmp_path / "tiny.yaml", ["losses.mel.floor=1e-2", "training.steps=4"])
        with pytest.raises(Exception, match=r"losses\.mel\.floor: 1e-05 -> 0\.01"):
            loop.train(other, tmp_path / "run")


VERSION_010 = """losses:
  mel: 15.0
  mel_windows: [256, 1024]
  mel_bands: [20, 80]
  mel_floor: 1.0e-05
  stft: 1.0
  complex_stft: 0.0
  stft_windows: [512]
  waveform: 0.0
  loudness: 2.0
  similarity: 0.0
  spread: 0.0
  adversarial: 0.0
  feature_matching: 0.0
  balance: false
  balance_norm: 1.0
"""


def rewritten(recipe: Recipe, folder: Path) -> Path:
    (folder / "resolved.yaml").write_text(recipe.to_yaml())
    return folder / "resolved.yaml"


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """Gradients of loss modules are averaged over processes."""
    file = tmp_path / "learned_loss.py"
    file.write_text(PLUGIN_FILE)
    for name, batch in (("one", 4), ("two", 2)):
        losses = {"stepwise": 5.0, "distillation": {"weight": 1.0, "teacher": "mfcc", "codebook": 0}}
        write_recipe(
            tmp_path / f"{name}.yaml",
            quantizer={**VQ, "dropout": 0.0},  # each process draws its own dropout depths
            losses=losses,
            training={"batch_size": batch, "steps": 6, "validation_clips": 0},
            plugins=["learned_loss.py"],
        )
    train = ["-m", "codecvq", "train", "--plugin", str(file)]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for name, program in (("one", [sys.executable]), ("two", two)):
        command = [*program, *train, str(tmp_path / f"{name}.yaml"), "-r", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        assert done.returncode == 0, done.stderr
    ours, theirs = (saved(tmp_path / name)[1]["losses"] for name in ("one", "two"))
    assert len(ours) == 4
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=2e-4, rtol=1e-2)
    logged = [
        json.loads((tmp_path / n / "metrics.jsonl").read_text().splitlines()[-1]) for n in ("one", "two")
    ]
    for name in ("loss/stepwise", "loss/distillation"):
        assert logged[0][name] == pytest.approx(logged[1][name], rel=1e-3), name


PLUGIN_FILE = '''
import torch
from codecvq import LossSpec, hookimpl
from codecvq.losses import Loss


class Stepwise(Loss):
    """Has other initial weights in each process, unless they are synchronized."""

    def __init__(self, sample_rate):
        super().__init__()
        import os
        rank = int(os.environ.get("RANK", "0"))
        self.map = torch.nn.Linear(8, 1)
        with torch.no_grad():
            self.map.weight += rank

    def forward(self, inputs):
        return (self.map(inputs.quantized.mT) - 1).square().mean()


@hookimpl
def codecvq_losses():
    yield LossSpec(name="stepwise", factory=Stepwise, summary="for a test")
'''
