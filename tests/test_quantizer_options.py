"""Effects of quantizer options, compared with their definitions."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_quantizers import MLP, Mlp, make, normal, rows, state
from torch import nn
from torch.nn import functional as F

import codecvq
from codecvq import EstimatorSpec, Quantizer, hookimpl, plugins
from codecvq.errors import OptionError
from codecvq.plugins import registry
from codecvq.quantizer import Residual

# vq


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("estimator", ["ste", "rotation"])
def test_commitment_and_codebook_losses_have_separate_weights_and_gradients(
    distance: str, estimator: str
) -> None:
    options = {"codebook_size": 16, "learn": "gradient", "init": "random", "dead_code_threshold": 0.0}
    quantizer = make(
        "vq", distance=distance, estimator=estimator, commitment_weight=0.3, codebook_weight=0.7, **options
    )
    latents = normal(2, 8, 20).requires_grad_()
    out = quantizer(latents)
    z, codebook = rows(latents), quantizer.codebook
    if distance == "cosine":
        z, codebook = F.normalize(z, dim=1), F.normalize(codebook, dim=1)
    error = (z - codebook[out.codes.flatten()]).square().mean()
    torch.testing.assert_close(out.losses["commitment"], 0.3 * error)
    torch.testing.assert_close(out.losses["codebook"], 0.7 * error)
    gradients = {
        name: torch.autograd.grad(loss, [latents, quantizer.codebook], retain_graph=True, allow_unused=True)
        for name, loss in out.losses.items()
    }
    of_latents, of_codebook = torch.autograd.grad(error, [latents, quantizer.codebook])
    assert gradients["commitment"][1] is None
    assert gradients["codebook"][0] is None
    torch.testing.assert_close(gradients["commitment"][0], 0.3 * of_latents)
    torch.testing.assert_close(gradients["codebook"][1], 0.7 * of_codebook)


@pytest.mark.parametrize("frames", [40, 4000])
def test_dead_code_threshold_is_relative_to_uniform_usage(frames: int) -> None:
    quantizer = make("vq", codebook_size=100, init="random", decay=0.0, dead_code_threshold=0.5)
    quantizer(normal(1, 8, frames))
    uniform = frames / 100
    quantizer.usage.copy_(torch.full((100,), uniform))
    quantizer.decay = 0.999999  # so that one step does not change the usage
    quantizer.usage[:2] = torch.tensor([0.4 * uniform, 0.6 * uniform])
    before = quantizer.codebook.clone()
    latents = normal(1, 8, frames, seed=2)
    quantizer(latents)
    assert bool(
        (quantizer.codebook[0] == rows(latents)).all(dim=1).any()
    )  # replaced by a vector of the batch
    assert float(quantizer.usage[0]) == pytest.approx(uniform, rel=0.02)
    assert float((quantizer.codebook[1] - before[1]).norm()) < 1e-2
    assert float(quantizer.usage[1]) == pytest.approx(0.6 * uniform, rel=0.01)


def test_random_init_does_not_run_kmeans() -> None:
    quantizer = make("vq", codebook_size=16, init="random", decay=0.99, dead_code_threshold=0.0)
    before = quantizer.codebook.clone()
    quantizer(100 + normal(2, 8, 20))
    moved = (quantizer.codebook != before).any(dim=1)
    assert 0 < int(moved.sum()) < 16  # the moving average changes only the selected codewords


# Estimators


class Mirror:
    """An estimator with an asymmetric map: it rolls the channels by one and doubles the values."""

    @hookimpl
    def codecvq_estimators(self) -> Iterator[EstimatorSpec]:
        yield EstimatorSpec(name="mirror", factory=lambda x, z, q: 2 * x.roll(1, dims=1))


@pytest.fixture
def _mirror() -> Iterator[None]:
    origin = registry().register(Mirror(), "options_test")
    yield
    registry().unregister(origin)


@pytest.mark.usefixtures("_mirror")
@pytest.mark.parametrize("name", ["vq", "simvq", "fsq", "lfq", "residual_vq", "residual_fsq", "grouped_lfq"])
def test_a_third_party_estimator_backpropagates_the_transpose_of_its_map(name: str) -> None:
    options: dict[str, Any] = {"codebook_size": 16} if "vq" in name else {}
    options |= {"levels": [5] * 8} if "fsq" in name else {}
    options |= {"bits": 4 if "grouped" in name else 8} if "lfq" in name else {}
    options |= {"num_codebooks": 2} if name.startswith(("residual", "grouped")) else {}
    quantizer = make(name, estimator="mirror", **options)
    quantizer(normal(2, 8, 20))
    before, latents = copy.deepcopy(quantizer).eval(), (0.1 * normal(2, 8, 5)).requires_grad_()
    out, upstream = quantizer(latents), normal(2, 8, 5, seed=3)
    torch.testing.assert_close(out.latents, before.decode(out.codes), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad((out.latents * upstream).sum(), latents)
    if isinstance(quantizer, Residual) or not name.startswith("grouped"):
        entered = quantizer.to_code_space(rows(latents))
        expected = torch.autograd.grad(entered, latents, 2 * rows(upstream).roll(-1, dims=1))[0]
    else:  # each group has its own channels
        expected = 2 * upstream.unflatten(1, (2, 4)).roll(-1, dims=2).flatten(1, 2)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


# simvq


@pytest.mark.parametrize("source", ["instance", "name"])
def test_simvq_accepts_any_module_as_map(source: str) -> None:
    quantizer = make("simvq", codebook_size=32, map=Mlp(8) if source == "instance" else MLP)
    latents = normal(2, 8, 25)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        torch.stack(list(quantizer(latents).losses.values())).sum().backward()
        assert all(bool(p.grad.any()) for p in quantizer.map.parameters())
        optimizer.step()
        quantizer.eval()  # the cache of eval is invalidated by each step
        with torch.no_grad():
            mapped = quantizer.map(quantizer.frozen)
        codes = torch.cdist(rows(latents), mapped).argmin(dim=1)
        assert torch.equal(quantizer.encode(latents).transpose(1, 2).flatten(), codes)
        torch.testing.assert_close(rows(quantizer.decode(quantizer.encode(latents))), mapped[codes])
        quantizer.train()


def test_a_map_can_come_from_a_plugin_file_and_imports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_map.py").write_text("from torch import nn\n\nclass Plain(nn.Identity):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OptionError, match=r"--plugin ./my_map\.py"):
        make("simvq", codebook_size=8, map="a_map:Plain")
    origin = plugins.load(tmp_path / "a_map.py")
    try:
        assert type(make("simvq", codebook_size=8, map="a_map:Plain").map).__name__ == "Plain"
    finally:
        registry().unregister(origin)


def test_each_stage_and_group_of_simvq_has_a_separate_map() -> None:
    module = Mlp(4)
    quantizer = make("grouped_residual_simvq", codebook_size=8, num_codebooks=2, num_groups=2, map=module)
    maps = [stage.map for group in quantizer.groups for stage in group.stages]
    assert maps[0] is module
    assert len({id(each) for each in maps}) == 4
    assert len({parameter.data_ptr() for each in maps for parameter in each.parameters()}) == 16


@pytest.mark.parametrize(
    ("map_option", "text"),
    [
        ("os:system", "not a torch.nn.Module class"),
        ("torch.nn", "not a torch.nn.Module class"),
        ("antigravity:Mlp", "of a loaded plugin"),
        ("torch.nn:Linear", "cannot be built"),
        (nn.Linear(8, 3), r"returns \[2, 3\]"),
        (7, "map is 7"),
    ],
    ids=str,
)
def test_an_invalid_map_raises(map_option: Any, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        make("simvq", codebook_size=8, map=map_option)


# fsq


def test_fsq_original_bound_equals_the_paper() -> None:
    """Appendix A.1 of arXiv:2309.15505, with atanh and 1 + ε (see the plugin)."""
    levels = [8, 5, 4, 3, 7, 2]
    quantizer = make("fsq", dim=6, levels=levels, bound="original").eval()
    latents = 2 * normal(1, 6, 500)
    level = torch.tensor(levels, dtype=torch.float64)
    half, offset = (level - 1) * 1.001 / 2, torch.where(level % 2 == 0, 0.5, 0.0)
    rounded = ((rows(latents).double() + (offset / half).atanh()).tanh() * half - offset).round()
    torch.testing.assert_close(rows(quantizer(latents).latents), (rounded / (level // 2)).float())
    digits = (rounded + level // 2).long()
    assert digits.min() == 0
    assert torch.equal(digits.max(dim=0).values, level.long() - 1)
    radix = torch.tensor([1, *itertools.accumulate(levels[:-1], lambda a, b: a * b)])
    assert torch.equal(quantizer.encode(latents).flatten(), (digits * radix).sum(dim=1))
    assert torch.equal(quantizer(torch.zeros(1, 6, 1)).latents, torch.zeros(1, 6, 1))  # 0 is a level


@pytest.mark.parametrize("bound", ["symmetric", "original"])
def test_noise_dropout_adds_uniform_noise_of_one_level(bound: str) -> None:
    levels = [8, 5, 3]
    quantizer = make("fsq", dim=6, levels=levels, num_codebooks=2, bound=bound, noise_dropout=0.3)
    quantizer.generator = torch.Generator().manual_seed(1)
    latents = (0.3 * normal(1, 6, 4000)).requires_grad_()
    out = quantizer(latents)
    values, rounded = rows(out.latents), rows(quantizer.decode(out.codes))
    lowest, highest = rows(quantizer.decode(torch.tensor([[[0, 119]] * 2])))
    noisy = (values != rounded).any(dim=1)
    at_an_end = (values == lowest) | (values == highest)
    assert bool(
        ((values != rounded) | at_an_end)[noisy].all()
    )  # a vector has noise in all channels or in none
    assert float(noisy.float().mean()) == pytest.approx(0.3, abs=0.03)
    steps = (highest - lowest) / (torch.tensor(levels * 2) - 1)
    bounded = quantizer.to_code_space(rows(latents))
    inside = (bounded - steps / 2 > lowest) & (bounded + steps / 2 < highest)  # noise is not clipped
    noise = ((values - bounded) / steps)[noisy[:, None] & inside].detach()
    assert float(noise.abs().max()) <= 0.5 + 1e-5
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(noise.var()) == pytest.approx(1 / 12, rel=0.1)
    assert bool(((values >= lowest) & (values <= highest)).all())
    (gradient,) = torch.autograd.grad(values.sum(), latents, retain_graph=True)
    (expected,) = torch.autograd.grad(bounded.sum(), latents)
    torch.testing.assert_close(gradient, expected)


def test_noise_dropout_is_disabled_in_eval_and_uses_the_generator() -> None:
    quantizer = make("fsq", levels=[5] * 8, noise_dropout=1.0)
    plain, latents = make("fsq", levels=[5] * 8), normal(2, 8, 10)
    outputs = []
    for seed in (1, 1, 2):
        quantizer.generator = torch.Generator().manual_seed(seed)
        outputs.append(quantizer(latents))
    assert torch.equal(outputs[0].latents, outputs[1].latents)
    assert not torch.equal(outputs[0].latents, outputs[2].latents)
    assert torch.equal(outputs[0].codes, plain(latents).codes)
    assert torch.equal(quantizer.eval()(latents).latents, plain.eval()(latents).latents)
    with pytest.raises(OptionError, match=r"noise_dropout is 1\.5"):
        make("fsq", levels=[5] * 8, noise_dropout=1.5)


# lfq


def test_soft_clamp_changes_losses_but_not_codes() -> None:
    clamped, plain = make("lfq", bits=8, soft_clamp=1.5), make("lfq", bits=8)
    latents = 5 * normal(2, 8, 30)
    assert torch.equal(clamped.encode(latents), plain.encode(latents))
    torch.testing.assert_close(clamped.to_code_space(rows(latents)), 1.5 * (rows(latents) / 1.5).tanh())
    commitment = clamped(latents).losses["commitment"]
    assert float(commitment) <= 0.25 * 0.5**2 * 4 < float(plain(latents).losses["commitment"])


@pytest.mark.parametrize("name", ["residual_lfq", "residual_bsq"])
def test_temperature_has_the_same_effect_at_every_stage(name: str) -> None:
    """The residual of stage n is half as large as that of stage n - 1, and so is the scale of its codes."""
    bits = 8
    quantizer = make(name, bits=bits, num_codebooks=4, temperature=0.5)
    scale = 1.0 if name == "residual_lfq" else bits**-0.5
    latents = 2 * scale * (2 * torch.rand(1, bits, 4000, generator=torch.Generator().manual_seed(1)) - 1)
    if name == "residual_bsq":  # its bound would project the latents to the sphere
        quantizer.bound = lambda vectors: vectors
    metrics = quantizer(latents).metrics
    entropies = [float(metrics[f"per_sample_entropy/{n}"]) for n in range(4)]
    assert max(entropies) - min(entropies) < 0.03 * max(entropies), entropies
    assert entropies[0] > 0.5


@pytest.mark.parametrize("bits", [16, 18])
def test_the_entropy_of_a_large_codebook_is_not_clamped(bits: int) -> None:
    """For nearly uniform codes the entropy is nearly bits · log 2. A clamp at 1e-5 would give 11.51."""
    quantizer = make("lfq", dim=bits, bits=bits)
    latents = (0.01 * normal(1, bits, 64)).requires_grad_()
    out = quantizer(latents)
    assert float(out.metrics["codebook_entropy"]) == pytest.approx(bits * 0.6931472, rel=1e-3)
    assert float(out.metrics["per_sample_entropy"]) == pytest.approx(bits * 0.6931472, rel=1e-3)


# Residual: input of dropped stages, and valid stages


def test_kmeans_uses_only_items_with_an_active_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """K-means of a stage skips items that drop the stage. Without any item, the stage starts later."""
    quantizer = make("residual_vq", codebook_size=4, num_codebooks=3, dropout=1.0)
    depths = torch.tensor([2, 1])
    monkeypatch.setattr(quantizer, "draw_depths", lambda count, depth: depths)
    latents = torch.cat([normal(1, 8, 30), 1000 + normal(1, 8, 30, seed=2)])
    random = [stage.codebook.clone() for stage in quantizer.stages]
    quantizer(latents)
    assert [bool(stage.started) for stage in quantizer.stages] == [True, True, False]
    assert torch.equal(quantizer.stage(2).codebook, random[2])
    assert float(quantizer.stage(0).codebook.norm(dim=1).max()) > 1000
    assert float(quantizer.stage(1).codebook.norm(dim=1).max()) < 100
    depths = torch.tensor([3, 3])
    quantizer(latents)
    assert bool(quantizer.stage(2).started)
    assert not torch.equal(quantizer.stage(2).codebook, random[2])


@pytest.mark.parametrize("estimator", ["ste", "rotation"])
def test_a_smaller_depth_does_not_update_later_stages(estimator: str) -> None:
    quantizer = make("residual_vq", codebook_size=8, num_codebooks=3, estimator=estimator)
    quantizer(normal(4, 8, 30))
    before = state(quantizer.stage(2)), state(quantizer.stage(0))
    quantizer(normal(4, 8, 30, seed=2), num_codebooks=2)
    assert all(torch.equal(t, before[0][name]) for name, t in state(quantizer.stage(2)).items())
    assert not torch.equal(quantizer.stage(0).codebook, before[1]["codebook"])


def test_a_residual_stage_has_one_codebook() -> None:
    with pytest.raises(OptionError, match=r"one codebook, but these have \[2, 2\].*grouped_residual_X"):
        Residual(8, [make("fsq", levels=[5] * 4, num_codebooks=2) for _ in range(2)])


# Without a codec


def test_a_quantizer_works_in_any_torch_model() -> None:
    """Without codec and recipe: built by name, part of a model, trained and saved with it."""
    quantizer = codecvq.build_quantizer("residual_vq", dim=8, codebook_size=16, num_codebooks=2)
    assert isinstance(quantizer, Quantizer)
    model = nn.ModuleDict({"encoder": nn.Conv1d(3, 8, 1), "quantizer": quantizer})
    out = model["quantizer"](model["encoder"](normal(2, 3, 20)))
    (out.latents.square().mean() + sum(out.losses.values())).backward()
    assert model["encoder"].weight.grad is not None
    assert any(name.startswith("quantizer.stages.0") for name in model.state_dict())
