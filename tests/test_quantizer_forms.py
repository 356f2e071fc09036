"""Options of the forms: stages that differ, beam search, one generator for all; other layouts; warnings."""

from __future__ import annotations

import copy
import itertools
import logging
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import codecvq
from codecvq.errors import OptionError, ShapeError
from codecvq.quantizer import ChannelsLast, Quantizer, grouped, nearest_candidates, residual
from codecvq.quantizer.dropout import draw_depths
from codecvq.quantizer.estimators import GainMonitor


def make(name: str, **options: Any) -> Quantizer:
    torch.manual_seed(0)
    return codecvq.build_quantizer(name, **{"dim": 4, **options})


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Stages that differ


def test_stages_have_options_of_their_own() -> None:
    stages = [{"codebook_size": 32, "codebook_dim": 2}, {}, {"decay": 0.5}]
    quantizer = make("residual_vq", codebook_size=8, stages=stages)
    assert quantizer.codebook_sizes == (32, 8, 8)
    assert [stage.code_dim for stage in quantizer.stages] == [2, 4, 4]
    assert [stage.decay for stage in quantizer.stages] == [0.99, 0.99, 0.5]
    latents = normal(2, 4, 50)
    quantizer(latents)
    quantizer.eval()
    codes = quantizer.encode(latents)
    assert int(codes[:, 0].max()) > 8 > int(codes[:, 1:].max())
    assert torch.equal(quantizer.decode(codes), quantizer(latents).latents)
    assert quantizer.config["stages"] == stages


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"stages": 3}, "needed is a valid list"),
        ({"stages": []}, "needed is a list"),
        ({"stages": [{"codebook_size": 8}], "num_codebooks": 2}, "num_codebooks is 2, and stages has 1"),
        ({"stages": [{"codebook_size": 8}, {}], "shared": True}, "share one codebook"),
        ({"stages": [{"dim": 8}, {}]}, "same dim"),
        ({"stages": [{"codebook_sise": 8}, {}]}, "Did you mean 'codebook_size'"),
        ({"num_codebooks": 2, "beam": 0}, "beam is 0"),
    ],
)
def test_stages_that_cannot_work_are_told(options: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        make("residual_vq", **options)


def test_a_stage_of_one_grid_has_no_options_of_its_own() -> None:
    with pytest.raises(OptionError, match="share one grid"):
        make("residual_lfq", bits=4, stages=[{"temperature": 2.0}, {}])


def test_a_grid_is_no_stage_beside_others() -> None:
    stages = [{"name": "vq", "codebook_size": 4}, {"name": "fsq", "levels": [5, 4]}]
    with pytest.raises(OptionError, match="stages of FSQ refine one grid"):
        make("residual", of=stages)


def test_stages_project_each_as_it_needs() -> None:
    """The first stage may have the latents' own dimension, and others not."""
    quantizer = make("residual_vq", codebook_size=8, stages=[{}, {"codebook_dim": 2}])
    latents = normal(2, 4, 30).requires_grad_()
    quantizer(latents)
    quantizer(latents).latents.sum().backward()
    assert all(p.grad is not None for p in quantizer.stages[1].parameters())


# Beam search


def candidates_of(codebook: Tensor, vectors: Tensor, count: int) -> Tensor:
    return torch.cdist(vectors.double(), codebook.double()).argsort(dim=1)[:, :count]


def test_candidates_are_the_nearest_in_order() -> None:
    vectors, codebook = normal(200, 5) + 50, normal(40, 5, seed=2) + 50
    assert torch.equal(nearest_candidates(vectors, codebook, 7), candidates_of(codebook, vectors, 7))
    assert nearest_candidates(vectors[:0], codebook, 7).shape == (0, 7)


@pytest.mark.parametrize("name", ["residual_vq", "residual_simvq"])
def test_a_beam_that_covers_all_sums_finds_the_best(name: str) -> None:
    quantizer = make(name, codebook_size=4, num_codebooks=3, beam=64)
    latents = normal(2, 4, 25)
    quantizer(latents)
    quantizer.eval()
    books = [stage.codewords().detach() for stage in quantizer.stages]
    sums = torch.stack([sum(words) for words in itertools.product(*books)])  # [64, D]
    best = torch.cdist(latents.transpose(1, 2).flatten(0, 1), sums).min(dim=1).values
    found = (quantizer(latents).latents - latents).norm(dim=1).flatten()
    torch.testing.assert_close(found, best, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"codebook_dim": 3}, {"distance": "cosine"}, {"shared": True}])
def test_a_wider_beam_is_nearer_and_keeps_the_promises(options: dict[str, Any]) -> None:
    greedy = make("residual_vq", codebook_size=16, num_codebooks=4, **options)
    wide = make("residual_vq", codebook_size=16, num_codebooks=4, beam=8, **options)
    latents = normal(4, 4, 50)
    for quantizer in (greedy, wide):
        torch.manual_seed(1)
        quantizer(latents)
    assert torch.equal(greedy.stage(0).codebook, wide.stage(0).codebook)  # training takes the nearest
    greedy.eval()
    wide.eval()
    codes = wide.encode(latents)
    assert torch.equal(wide.decode(codes), wide(latents).latents)
    assert torch.equal(wide.encode(latents, num_codebooks=2), codes[:, :2])
    if not options.get("distance"):
        with torch.no_grad():
            errors = [float((each(latents).latents - latents).square().mean()) for each in (wide, greedy)]
        assert errors[0] < errors[1]


def test_beam_search_needs_candidates() -> None:
    with pytest.raises(OptionError, match="lists no candidates"):
        make("residual_lfq", bits=4, num_codebooks=2, beam=4)


# Randomness


@pytest.mark.parametrize("name", ["residual_vq", "grouped_vq", "grouped_residual_vq"])
def test_one_generator_decides_all_draws(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        options = {"num_groups": 2} if name == "grouped_residual_vq" else {}
        quantizer = make(name, codebook_size=8, num_codebooks=2, **options)
        quantizer.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(len(states))  # of no influence
        quantizer(normal(2, 4, 100))
        states.append(torch.cat([t.flatten().float() for t in quantizer.state_dict().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_a_copy_draws_on_its_own() -> None:
    quantizer = make("residual_fsq", levels=[3] * 4, num_codebooks=4, dropout=1.0)
    quantizer.generator = torch.Generator().manual_seed(1)
    twin = copy.deepcopy(quantizer)
    assert twin.generator is twin.stage(0).generator is not quantizer.generator
    assert torch.equal(twin(normal(16, 4, 2)).codes, quantizer(normal(16, 4, 2)).codes)


# Vectors [..., D]


@pytest.mark.parametrize("shape", [(4,), (7, 4), (2, 7, 4), (2, 3, 5, 4), (0, 4), (2, 0, 4)], ids=str)
def test_vectors_of_any_shape_with_channels_last(shape: tuple[int, ...]) -> None:
    quantizer = make("residual_fsq", levels=[5] * 4, num_codebooks=3).eval()
    last, vectors = ChannelsLast(quantizer), normal(*shape)
    needed = quantizer.encode(vectors.reshape(-1, 4).T[None])[0].T.reshape(*shape[:-1], 3)
    out = last(vectors)
    assert torch.equal(out.codes, needed)
    assert torch.equal(last.encode(vectors), needed)
    assert torch.equal(last.encode(vectors, num_codebooks=2), needed[..., :2])
    assert out.latents.shape == vectors.shape
    assert torch.equal(last.decode(needed), out.latents)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("residual_fsq", {"levels": [3] * 4}),
        ("residual_vq", {"dim": 8, "codebook_size": 4}),
        ("grouped_fsq", {"dim": 8, "levels": [5, 5]}),
        ("grouped_residual_vq", {"dim": 8, "codebook_size": 4, "num_groups": 2}),
    ],
)
def test_dropout_leaves_the_depths_that_are_listed_as_often_as_they_are(
    name: str, options: dict[str, Any]
) -> None:
    seen: Counter[int] = Counter()

    def watch(*args: Any) -> torch.Tensor:
        depths = draw_depths(*args)
        seen.update(depths.tolist())
        return depths

    quantizer = make(name, **options, num_codebooks=4, dropout=1.0, dropout_depths=[1, 3, 3])
    latents = torch.randn(600, quantizer.dim, 1)
    with pytest.MonkeyPatch.context() as patch:
        for module in (grouped, residual):
            patch.setattr(module, "draw_depths", watch)
        quantizer(latents)
    assert set(seen) == {1, 3}
    assert seen[3] / seen.total() == pytest.approx(2 / 3, abs=0.06)
    with pytest.raises(OptionError, match=r"dropout_depths is \[5\]; .* 1 to 4"):
        make(name, **options, num_codebooks=4, dropout=1.0, dropout_depths=[5])


def test_channels_last_with_a_mask_and_dropout() -> None:
    last = ChannelsLast(make("residual_fsq", levels=[3] * 4, num_codebooks=4, dropout=1.0))
    mask = torch.arange(5) < torch.tensor([5, 2])[:, None]
    vectors = 10 * torch.ones(2, 5, 4)
    out = last(vectors, mask)
    assert not bool(out.latents[~mask].any())
    depths = (out.codes > 0).sum(dim=2)
    assert depths[0].unique().numel() == 1
    with pytest.raises(ShapeError, match="mask"):
        last(vectors, mask[0])
    with pytest.raises(ShapeError, match="D=4"):
        last(torch.zeros(2, 4, 5))


# Warnings


@pytest.mark.parametrize(("length", "warned"), [(30.0, True), (0.01, True), (1.0, False)])
def test_codewords_far_longer_or_shorter_than_latents_are_warned_of_once(
    length: float, warned: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GainMonitor, "STEPS", 5)
    quantizer = make("vq", codebook_size=8, estimator="rotation", init="random", decay=0.999999)
    quantizer.codebook.mul_(length)
    quantizer.dead_code_threshold = 0.0
    with caplog.at_level(logging.WARNING, "codecvq"):
        for step in range(3 * GainMonitor.STEPS * GainMonitor.CHECKS):
            quantizer(torch.nn.functional.normalize(normal(1, 4, 4, seed=step), dim=1))
    assert len(caplog.records) == int(warned)
    if warned:
        assert "rotation" in caplog.text


def test_straight_through_is_never_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    quantizer = make("vq", codebook_size=8, init="random", dead_code_threshold=0.0)
    quantizer.codebook.mul_(1000.0)
    for step in range(GainMonitor.STEPS * GainMonitor.CHECKS):
        quantizer(normal(1, 4, 4, seed=step))
    assert not caplog.records


NESTED = {"dim": 12, "levels": [5, 5], "num_codebooks": 3, "dropout": 1.0}


def test_nested_groups_keep_their_first_n_and_leave_zeros_in_the_other_channels() -> None:
    quantizer = make("grouped_fsq", **NESTED)
    latents = torch.randn(200, 12, 3)
    out = quantizer(latents)
    kept = (out.latents != 0).any(dim=2).unflatten(1, (3, 4)).any(dim=2)  # [B, groups]
    depths = kept.sum(dim=1)
    assert torch.equal(kept, torch.arange(3) < depths[:, None]), "the first ones, never a later one alone"
    assert set(depths.tolist()) == {1, 2, 3}
    assert not bool(out.codes[~kept].any()), "codes of dropped groups are 0"


def test_the_first_nested_groups_decode_by_themselves() -> None:
    quantizer = make("grouped_fsq", **NESTED).eval()
    latents = torch.randn(2, 12, 5)
    codes = quantizer.encode(latents)
    for n in (1, 2, 3):
        assert torch.equal(quantizer.encode(latents, n), codes[:, :n])
        decoded = quantizer.decode(codes[:, :n])
        torch.testing.assert_close(decoded, quantizer(latents, num_codebooks=n).latents)
        assert torch.equal(decoded[:, : 4 * n], quantizer.decode(codes)[:, : 4 * n])
        assert not bool(decoded[:, 4 * n :].any())


def test_a_dropped_group_learns_nothing() -> None:
    quantizer = make("grouped_vq", dim=8, codebook_size=8, num_codebooks=2, dropout=1.0)
    quantizer(torch.randn(64, 8, 4))  # starts both codebooks
    second = quantizer.groups[1]
    for seed in range(20):
        quantizer.generator = torch.Generator().manual_seed(seed)
        before = second.codebook.clone(), second.usage.clone()
        out = quantizer(torch.randn(1, 8, 4))
        changed = not torch.equal(second.usage, before[1])
        assert changed == bool((out.latents[:, 4:] != 0).any())


def test_depths_inside_a_group_and_groups_that_are_not_nested_are_told() -> None:
    pairs = make("grouped_fsq", dim=8, levels=[5], num_groups=2, num_codebooks=2, dropout=0.5).eval()
    assert pairs.encode(torch.randn(1, 8, 2), 2).shape == (1, 2, 2)
    with pytest.raises(ShapeError, match="inside a group"):
        pairs.encode(torch.randn(1, 8, 2), 3)
    with pytest.raises(ShapeError, match="always has 3"):
        make("grouped_fsq", **{**NESTED, "dropout": 0.0}).encode(torch.randn(1, 12, 2), 1)
