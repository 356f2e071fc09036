"""Initial weights from another run: what is loaded, and what raises."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from adversarial_runs import BAND, PERIOD, VQ, recipe_at, same, weights

from codecvq.errors import RunError
from codecvq.training import loop
from codecvq.training.checkpoint import last_checkpoint


def test_training_starts_with_weights_and_discriminators_of_another_run(tmp_path: Path) -> None:
    loop.train(recipe_at(tmp_path / "first.yaml"), tmp_path / "first")
    frozen = {"init_from": str(tmp_path / "first"), "steps": 1}
    recipe = recipe_at(
        tmp_path / "second.yaml", training=frozen, optimizer={"learning_rate": 1e-12, "weight_decay": 0.0}
    )
    loop.train(recipe, tmp_path / "second")
    before = weights(tmp_path / "first")
    for name, tensor in weights(tmp_path / "second").items():
        if "codebook" not in name and "usage" not in name:  # moving averages change without a learning rate
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-9, msg=name)
    first, second = (last_checkpoint(tmp_path / run / "checkpoints") for run in ("first", "second"))
    assert first is not None
    assert second is not None
    assert same(first.state["adversary"]["networks"], second.state["adversary"]["networks"])


def test_mismatched_weights_raise_or_are_skipped_with_init_partial(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop.train(recipe_at(tmp_path / "first.yaml"), tmp_path / "first")
    other = {**VQ, "codebook_size": 32}
    start = {"init_from": str(tmp_path / "first"), "steps": 1}
    recipe = recipe_at(tmp_path / "second.yaml", quantizer=other, training=start)
    with pytest.raises(RunError, match=r"codebook is \[16, 4\] instead of \[32, 4\].*init_partial"):
        loop.train(recipe, tmp_path / "strict")
    recipe = recipe_at(tmp_path / "third.yaml", quantizer=other, training={**start, "init_partial": True})
    with caplog.at_level(logging.WARNING):
        loop.train(recipe, tmp_path / "strict")  # the error left no files
    assert "start from new random weights" in caplog.text


def test_weights_of_another_sample_rate_raise_and_the_filterbank_is_not_loaded(
    tmp_path: Path,
) -> None:
    loop.train(recipe_at(tmp_path / "first.yaml", training={"steps": 1}), tmp_path / "first")
    start = {"init_from": str(tmp_path / "first"), "steps": 1}
    slower = {"sample_rate": 8000, "corpus": {"segment_s": 0.4}, "optimizer": {"learning_rate": 1e-12}}
    recipe = recipe_at(tmp_path / "strict.yaml", training=start, **slower)
    with pytest.raises(RunError, match=r"sample_rate is 16000 instead of 8000.*init_partial"):
        loop.train(recipe, tmp_path / "strict")
    recipe = recipe_at(tmp_path / "partial.yaml", training={**start, "init_partial": True}, **slower)
    loop.train(recipe, tmp_path / "partial")
    recipe = recipe_at(tmp_path / "fresh.yaml", training={"steps": 1}, **slower)
    loop.train(recipe, tmp_path / "fresh")
    first, initialized, fresh = (weights(tmp_path / name) for name in ("first", "partial", "fresh"))
    assert torch.equal(initialized["encoder.front.mel"], fresh["encoder.front.mel"])
    assert not torch.equal(first["encoder.front.mel"], fresh["encoder.front.mel"])
    torch.testing.assert_close(initialized["encoder.project.weight"], first["encoder.project.weight"])


def test_mismatched_discriminators_raise_or_are_skipped_with_init_partial(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = ({"networks": networks, "start_step": 9} for networks in ([BAND], [BAND, PERIOD]))
    loop.train(
        recipe_at(tmp_path / "first.yaml", training={"steps": 1}, discriminator=one), tmp_path / "first"
    )
    start = {"init_from": str(tmp_path / "first"), "steps": 1}
    recipe = recipe_at(tmp_path / "strict.yaml", training=start, discriminator=two)
    message = r"the discriminators of .*first .*1\.\S+ is missing.*init_partial.*first/codec"
    with pytest.raises(RunError, match=message):
        loop.train(recipe, tmp_path / "strict")
    start["init_from"] = str(tmp_path / "first" / "codec")  # as the message proposes, without discriminators
    loop.train(recipe_at(tmp_path / "without.yaml", training=start, discriminator=two), tmp_path / "without")
    start = {"init_from": str(tmp_path / "first"), "steps": 1, "init_partial": True}
    recipe = recipe_at(tmp_path / "partial.yaml", training=start, discriminator=two)
    loop.train(recipe, tmp_path / "partial")
    assert "the discriminators of" in caplog.text
    first, initialized = (last_checkpoint(tmp_path / run / "checkpoints") for run in ("first", "partial"))
    assert first is not None
    assert initialized is not None
    theirs, ours = (run.state["adversary"]["networks"] for run in (first, initialized))
    assert theirs.keys() < ours.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
