"""Training with frozen parts of a codec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adversarial_runs import recipe_at, same, weights

import codecvq
from codecvq.codec import load
from codecvq.errors import RecipeError
from codecvq.training import loop
from codecvq.training.recipe import load_recipe
from recipes import write_recipe

QUANTIZERS: dict[str, dict[str, Any]] = {
    "residual_vq": {"codebook_size": 16, "codebook_dim": 4, "num_codebooks": 2, "dropout": 0.5},
    "simvq": {"codebook_size": 16},
    "grouped_fsq": {"levels": [5, 5], "num_codebooks": 4, "dropout": 0.5},
    "lfq": {"bits": 4},
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_codes_and_their_hash_stay_the_same_while_only_the_decoder_learns(tmp_path: Path, name: str) -> None:
    quantizer = {"name": name, **QUANTIZERS[name]}
    loop.train(recipe_at(tmp_path / "tiny.yaml", quantizer=quantizer), tmp_path / "first")
    frozen = {"init_from": str(tmp_path / "first"), "freeze": ["encoder", "quantizer"], "average": 0.9}
    recipe = recipe_at(tmp_path / "tiny.yaml", quantizer=quantizer, training=frozen)
    loop.train(recipe, tmp_path / "second")
    before, after = load(tmp_path / "first"), load(tmp_path / "second")
    assert before.codebooks_sha256 == after.codebooks_sha256
    wav = 0.1 * torch.randn(2, 1, 8000, generator=torch.Generator().manual_seed(0))
    codes = before.encode(wav)
    assert torch.equal(codes, after.encode(wav))
    assert not torch.equal(before.decode(codes), after.decode(codes))
    own, theirs = weights(tmp_path / "first"), weights(tmp_path / "second")
    learned = {n for n in own if not torch.equal(own[n], theirs[n])}
    assert learned
    assert all(n.startswith("decoder.") for n in learned)


def test_the_encoder_learns_with_a_frozen_decoder(tmp_path: Path) -> None:
    loop.train(recipe_at(tmp_path / "tiny.yaml"), tmp_path / "first")
    training = {"init_from": str(tmp_path / "first"), "freeze": ["decoder"]}
    loop.train(recipe_at(tmp_path / "tiny.yaml", training=training), tmp_path / "second")
    own, theirs = weights(tmp_path / "first"), weights(tmp_path / "second")
    parts = {part: [n for n in own if n.startswith(part)] for part in ("encoder.", "decoder.")}
    assert all(torch.equal(own[n], theirs[n]) for n in parts["decoder."])
    assert not any(torch.equal(own[n], theirs[n]) for n in parts["encoder."] if "weight" in n)


def test_a_training_with_frozen_parts_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.train(recipe_at(tmp_path / "tiny.yaml"), tmp_path / "first")
    training = {"init_from": str(tmp_path / "first"), "freeze": ["encoder", "quantizer"]}
    recipe = recipe_at(tmp_path / "tiny.yaml", training=training)
    loop.train(recipe, tmp_path / "whole")
    plain = loop.Trainer.save

    def killed(trainer: loop.Trainer, step: int, required: bool = False) -> bool:
        plain(trainer, step, required)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Trainer, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        loop.train(recipe, tmp_path / "stopped")
    monkeypatch.undo()
    assert loop.train(recipe, tmp_path / "stopped").resumed_at == 5
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


def test_a_frozen_codebook_is_not_initialized_from_data() -> None:
    quantizer = codecvq.build_quantizer("vq", dim=4, codebook_size=8)
    quantizer.freeze()
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    latents = torch.randn(1, 4, 50, requires_grad=True)
    out = quantizer(latents)
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())
    out.latents.sum().backward()
    assert latents.grad is not None
    assert bool(latents.grad.any())


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"freeze": ["encoder"]}, "init_from is not set"),
        ({"freeze": ["encoder", "decoder"], "init_from": "speech-16k"}, "there is nothing to train"),
        ({"freeze": ["decodr"], "init_from": "speech-16k"}, r"training\.freeze"),
    ],
)
def test_invalid_freeze_options_are_an_error(tmp_path: Path, training: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write_recipe(tmp_path / "tiny.yaml", training=training))
