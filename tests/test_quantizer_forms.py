"""Options of the forms: different stages, beam search, generators, layouts, warnings and nested groups."""

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


# Different stages


def test_stages_can_have_different_options() -> None:
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
def test_invalid_stages_raise(options: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        make("residual_vq", **options)


def test_stages_of_a_shared_grid_cannot_have_different_options() -> None:
    with pytest.raises(OptionError, match="share one grid"):
        make("residual_lfq", bits=4, stages=[{"temperature": 2.0}, {}])


def test_a_grid_stage_cannot_be_combined_with_other_quantizers() -> None:
    stages = [{"name": "vq", "codebook_size": 4}, {"name": "fsq", "levels": [5, 4]}]
    with pytest.raises(OptionError, match="stages of FSQ refine one grid"):
        make("residual", of=stages)


def test_stages_can_have_different_code_dims() -> None:
    """The first stage uses the dimension of the latents, the second projects."""
    quantizer = make("residual_vq", codebook_size=8, stages=[{}, {"codebook_dim": 2}])
    latents = normal(2, 4, 30).requires_grad_()
    quantizer(latents)
    quantizer(latents).latents.sum().backward()
    assert all(p.grad is not None for p in quantizer.stages[1].parameters())


# Beam search


def nearest_by_sorting(codebook: Tensor, vectors: Tensor, count: int) -> Tensor:
    return torch.cdist(vectors.double(), codebook.double()).argsort(dim=1)[:, :count]


def test_candidates_are_sorted_by_distance() -> None:
    vectors, codebook = normal(200, 5) + 50, normal(40, 5, seed=2) + 50
    assert torch.equal(nearest_candidates(vectors, codebook, 7), nearest_by_sorting(codebook, vectors, 7))
    assert nearest_candidates(vectors[:0], codebook, 7).shape == (0, 7)


@pytest.mark.parametrize("name", ["residual_vq", "residual_simvq"])
def test_a_beam_over_all_sums_finds_the_best_codes(name: str) -> None:
    quantizer = make(name, codebook_size=4, num_codebooks=3, beam=64)
    latents = normal(2, 4, 25)
    quantizer(latents)
    quantizer.eval()
    codebooks = [stage.codewords().detach() for stage in quantizer.stages]
    sums = torch.stack([sum(codewords) for codewords in itertools.product(*codebooks)])  # [64, D]
    best = torch.cdist(latents.transpose(1, 2).flatten(0, 1), sums).min(dim=1).values
    error = (quantizer(latents).latents - latents).norm(dim=1).flatten()
    torch.testing.assert_close(error, best, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"codebook_dim": 3}, {"distance": "cosine"}, {"shared": True}])
def test_a_wider_beam_reduces_the_error_and_fulfills_the_contract(options: dict[str, Any]) -> None:
    greedy = make("residual_vq", codebook_size=16, num_codebooks=4, **options)
    wide = make("residual_vq", codebook_size=16, num_codebooks=4, beam=8, **options)
    latents = normal(4, 4, 50)
    for quantizer in (greedy, wide):
        torch.manual_seed(1)
        quantizer(latents)
    assert torch.equal(greedy.stage(0).codebook, wide.stage(0).codebook)  # training is greedy
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


# Random numbers


@pytest.mark.parametrize("name", ["residual_vq", "grouped_vq", "grouped_residual_vq"])
def test_all_random_numbers_come_from_the_generator(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        options = {"num_groups": 2} if name == "grouped_residual_vq" else {}
        quantizer = make(name, codebook_size=8, num_codebooks=2, **options)
        quantizer.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(len(states))  # has no influence
        quantizer(normal(2, 4, 100))
        states.append(torch.cat([t.flatten().float() for t in quantizer.state_dict().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_a_copy_has_a_copy_of_the_generator() -> None:
    quantizer = make("residual_fsq", levels=[3] * 4, num_codebooks=4, dropout=1.0)
    quantizer.generator = torch.Generator().manual_seed(1)
    twin = copy.deepcopy(quantizer)
    assert twin.generator is twin.stage(0).generator is not quantizer.generator
    assert torch.equal(twin(normal(16, 4, 2)).codes, quantizer(normal(16, 4, 2)).codes)


# Vectors [..., D]


@pytest.mark.parametrize("shape", [(4,), (7, 4), (2, 7, 4), (2, 3, 5, 4), (0, 4), (2, 0, 4)], ids=str)
def test_channels_last_accepts_vectors_of_any_shape(shape: tuple[int, ...]) -> None:
    quantizer = make("residual_fsq", levels=[5] * 4, num_codebooks=3).eval()
    last, vectors = ChannelsLast(quantizer), normal(*shape)
    expected = quantizer.encode(vectors.reshape(-1, 4).T[None])[0].T.reshape(*shape[:-1], 3)
    out = last(vectors)
    assert torch.equal(out.codes, expected)
    assert torch.equal(last.encode(vectors), expected)
    assert torch.equal(last.encode(vectors, num_codebooks=2), expected[..., :2])
    assert out.latents.shape == vectors.shape
    assert torch.equal(last.decode(expected), out.latents)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("residual_fsq", {"levels": [3] * 4}),
        ("residual_vq", {"dim": 8, "codebook_size": 4}),
        ("grouped_fsq", {"dim": 8, "levels": [5, 5]}),
        ("grouped_residual_vq", {"dim": 8, "codebook_size": 4, "num_groups": 2}),
    ],
)
def test_dropout_depths_are_drawn_with_their_listed_frequency(name: str, options: dict[str, Any]) -> None:
    seen: Counter[int] = Counter()

    def record_depths(*args: Any) -> torch.Tensor:
        depths = draw_depths(*args)
        seen.update(depths.tolist())
        return depths

    quantizer = make(name, **options, num_codebooks=4, dropout=1.0, dropout_depths=[1, 3, 3])
    latents = torch.randn(600, quantizer.dim, 1)
    with pytest.MonkeyPatch.context() as patch:
        for module in (grouped, residual):
            patch.setattr(module, "draw_depths", record_depths)
        quantizer(latents)
    assert set(seen) == {1, 3}
    assert seen[3] / seen.total() == pytest.approx(2 / 3, abs=0.06)
    with pytest.raises(OptionError, match=r"dropout_depths is \[5\]; .* 1 to 4"):
        make(name, **options, num_codebooks=4, dropout=1.0, dropout_depths=[5])


def test_channels_last_supports_masks_and_dropout() -> None:
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
def test_a_norm_mismatch_of_codewords_and_latents_logs_one_warning(
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


def test_straight_through_estimation_logs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    quantizer = make("vq", codebook_size=8, init="random", dead_code_threshold=0.0)
    quantizer.codebook.mul_(1000.0)
    for step in range(GainMonitor.STEPS * GainMonitor.CHECKS):
        quantizer(normal(1, 4, 4, seed=step))
    assert not caplog.records


NESTED = {"dim": 12, "levels": [5, 5], "num_codebooks": 3, "dropout": 1.0}


def test_nested_group_dropout_zeroes_the_last_groups() -> None:
    quantizer = make("grouped_fsq", **NESTED)
    latents = torch.randn(200, 12, 3)
    out = quantizer(latents)
    active = (out.latents != 0).any(dim=2).unflatten(1, (3, 4)).any(dim=2)  # [B, groups]
    depths = active.sum(dim=1)
    assert torch.equal(active, torch.arange(3) < depths[:, None]), "the first groups are active"
    assert set(depths.tolist()) == {1, 2, 3}
    assert not bool(out.codes[~active].any()), "codes of dropped groups are 0"


def test_the_first_nested_groups_decode_without_the_others() -> None:
    quantizer = make("grouped_fsq", **NESTED).eval()
    latents = torch.randn(2, 12, 5)
    codes = quantizer.encode(latents)
    for n in (1, 2, 3):
        assert torch.equal(quantizer.encode(latents, n), codes[:, :n])
        decoded = quantizer.decode(codes[:, :n])
        torch.testing.assert_close(decoded, quantizer(latents, num_codebooks=n).latents)
        assert torch.equal(decoded[:, : 4 * n], quantizer.decode(codes)[:, : 4 * n])
        assert not bool(decoded[:, 4 * n :].any())


def test_dropped_groups_are_not_updated() -> None:
    quantizer = make("grouped_vq", dim=8, codebook_size=8, num_codebooks=2, dropout=1.0)
    quantizer(torch.randn(64, 8, 4))  # initializes both codebooks
    second = quantizer.groups[1]
    for seed in range(20):
        quantizer.generator = torch.Generator().manual_seed(seed)
        before = second.codebook.clone(), second.usage.clone()
        out = quantizer(torch.randn(1, 8, 4))
        changed = not torch.equal(second.usage, before[1])
        assert changed == bool((out.latents[:, 4:] != 0).any())


def test_depths_inside_a_group_and_without_nested_groups_raise() -> None:
    pairs = make("grouped_fsq", dim=8, levels=[5], num_groups=2, num_codebooks=2, dropout=0.5).eval()
    assert pairs.encode(torch.randn(1, 8, 2), 2).shape == (1, 2, 2)
    with pytest.raises(ShapeError, match="inside a group"):
        pairs.encode(torch.randn(1, 8, 2), 3)
    with pytest.raises(ShapeError, match="always has 3"):
        make("grouped_fsq", **{**NESTED, "dropout": 0.0}).encode(torch.randn(1, 12, 2), 1)
