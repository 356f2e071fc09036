"""Every registered quantizer and form passes the conformance checks; forms and dropout against references."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small_quantizers import MLP

import codecvq
from codecvq.errors import OptionError, ShapeError, UnknownName
from codecvq.plugins import registry
from codecvq.quantizer import Grouped, Residual, nearest_codes
from codecvq.quantizer.build import COMPOSITIONS, FORMS, quantizer_names, quantizer_options
from codecvq.quantizer.dropout import active_mask
from codecvq.testing import Check, quantizer_checks, run_checks

#: every registered quantizer, with options that make it small
SMALL: dict[str, dict[str, Any]] = {
    "vq": {"codebook_size": 16},
    "rotation_vq": {"codebook_size": 16},
    "simvq": {"codebook_size": 16},
    "fsq": {"levels": [5, 4, 3]},
    "residual_fsq": {"levels": [5, 4], "num_codebooks": 4},
    "lfq": {"bits": 4},
    "bsq": {"bits": 8},
    "residual": {"of": ["vq", {"name": "simvq", "codebook_size": 16}]},
    "multiscale": {"of": {"name": "simvq", "codebook_size": 16, "codebook_dim": 3}, "strides": [3, 1]},
    "grouped": {"of": [{"name": "fsq", "levels": [5, 3]}, {"name": "lfq", "bits": 4}], "dims": [3, 5]},
    "split": {
        "semantic": {"name": "vq", "codebook_size": 8},
        "acoustic": {"name": "residual_vq", "codebook_size": 8, "num_codebooks": 2},
    },
}
#: options that change values, and nested forms
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("vq", {"codebook_size": 16, "codebook_dim": 3, "distance": "cosine"}),
    ("vq", {"codebook_size": 3, "learn": "gradient", "init": "random", "dead_code_threshold": 0.0}),
    ("residual_vq", {"codebook_size": 16, "shared": True, "estimator": "rotation_unscaled"}),
    (
        "grouped_residual_rotation_vq",
        {"codebook_size": 8, "codebook_dim": 2, "num_groups": 2, "num_codebooks": 3},
    ),
    ("residual_simvq", {"codebook_size": 16, "codebook_dim": 3, "estimator": "rotation"}),
    ("grouped_fsq", {"levels": [8, 5], "bound": "original"}),
    ("residual_fsq", {"dim": 8, "levels": [3] * 8, "num_codebooks": 3}),
    ("lfq", {"dim": 8, "bits": 4, "num_codebooks": 2, "soft_clamp": 2.0, "temperature": 0.5}),
    ("residual_bsq", {"bits": 40}),
    ("simvq", {"codebook_size": 16, "codebook_dim": 3, "map": MLP}),
    ("fsq", {"levels": [8, 5], "num_codebooks": 2, "bound": "original", "noise_dropout": 0.5}),
    ("residual_vq", {"codebook_size": 16, "codebook_dim": 3, "beam": 4, "dropout": 0.5}),
    ("grouped_vq", {"codebook_size": 16, "dropout": 0.5}),
    ("residual_vq", {"codebook_size": 16, "stages": [{"codebook_size": 8}, {}]}),
    ("residual_lfq", {"bits": 8, "dropout": 0.5, "diversity_weight": 2.0}),
]


def is_slow(check: str) -> bool:
    """Whether a check repeats the multiscale checks of vq and fsq with another quantizer."""
    return check.startswith("multiscale_") and not check.startswith(("multiscale_vq/", "multiscale_fsq/"))


def all_checks() -> list[Any]:
    """Parameters: the checks of every quantizer in all forms, and of each variant in its plain form."""
    parameters = [
        pytest.param(check, id=check.name, marks=[pytest.mark.slow] if is_slow(check.name) else [])
        for name, options in SMALL.items()
        for check in quantizer_checks(name, **options)
    ]
    for name, options in VARIANTS:
        suffix = ",".join(f"{key}={value}" for key, value in options.items()).replace(" ", "")
        checks = [
            check
            for check in quantizer_checks(name, forms=["plain"], **options)
            if check.name.startswith(f"{name}/")
        ]
        parameters += [pytest.param(check, id=f"{check.name}-{suffix}") for check in checks]
    return parameters


@pytest.mark.parametrize("check", all_checks())
def test_conformance(check: Check) -> None:
    check.run()


NESTED_FORMS = [
    name
    for name in quantizer_names()
    if name.startswith("grouped_residual_") or name == "grouped_multiscale_vq"
]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NESTED_FORMS if name.endswith(tuple(SMALL))])
def test_nested_forms_pass_all_checks(name: str) -> None:
    """Runs the checks of `codecvq plugins check NAME` for names that are not in `test_conformance`."""
    plain = next(each for each in sorted(SMALL, key=len, reverse=True) if name.endswith(each))
    options = {key: value for key, value in SMALL[plain].items() if key != "num_codebooks"}
    if "residual_" in name:
        options["num_codebooks"] = 3
    failures = {o.check.name: o.found for o in run_checks(quantizer_checks(name, **options)) if o.found}
    assert failures == {}


def test_every_built_in_quantizer_is_checked() -> None:
    built_in = {
        name
        for name, registration in registry().all("quantizers").items()
        if registration.origin.distribution == "codecvq"
    }
    assert built_in == set(SMALL)


# Building


@pytest.mark.parametrize(
    "name",
    sorted(
        {f"{form}{name}" for name in SMALL for form in ("", *FORMS) if not form or name not in COMPOSITIONS}
    ),
)
def test_every_form_has_a_name_and_options(name: str) -> None:
    if name.startswith(("residual_residual_", "multiscale_residual_")):
        return
    assert name in quantizer_names()
    assert "dim" in quantizer_options(name)


def test_build_errors_suggest_names_and_options() -> None:
    with pytest.raises(UnknownName, match=r"no quantizer named 'fsqq'; known: .*Did you mean 'fsq'"):
        codecvq.build_quantizer("fsqq", dim=4)
    with pytest.raises(OptionError, match=r"'level'.*Did you mean 'levels'"):
        codecvq.build_quantizer("fsq", dim=4, level=[4, 4])
    with pytest.raises(OptionError, match="needs levels"):
        codecvq.build_quantizer("fsq", dim=4)
    with pytest.raises(OptionError, match="num_codebooks"):
        codecvq.build_quantizer("residual_vq", dim=4)
    with pytest.raises(OptionError, match="3 groups do not divide"):
        codecvq.build_quantizer("grouped_vq", dim=8, num_codebooks=3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fsq", {"levels": 5}),
        ("fsq", {"levels": [1, 5]}),
        ("fsq", {"levels": [2] * 63}),
        ("fsq", {"levels": [5], "bound": "hard"}),
        ("lfq", {"bits": 63}),
        ("lfq", {"bits": 4, "temperature": 0}),
        ("vq", {"codebook_size": 1}),
        ("vq", {"codebook_size": "many"}),
        ("vq", {"decay": 1.0}),
        ("vq", {"distance": "manhattan"}),
        ("simvq", {"codebook_size": 0}),
        ("residual_fsq", {"levels": [5, 5], "num_codebooks": 40}),
        ("residual_vq", {"num_codebooks": 2, "dropout": 1.5}),
        ("vq", {"codebook_dim": 0}),
    ],
    ids=str,
)
def test_invalid_quantizer_options_raise(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"\w"):
        codecvq.build_quantizer(name, dim=8, **options)


def test_an_unknown_estimator_raises_with_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'rotation'"):
        codecvq.build_quantizer("vq", dim=4, estimator="rotatoin")


# Residual and grouped


def test_residual_vq_equals_the_recursion() -> None:
    torch.manual_seed(0)
    quantizer = codecvq.build_quantizer("residual_vq", dim=4, codebook_size=16, num_codebooks=3)
    quantizer(torch.randn(4, 4, 50))
    quantizer.eval()
    latents = torch.randn(2, 4, 25)
    rest, codes = latents.transpose(1, 2).flatten(0, 1).double(), []
    total = torch.zeros_like(rest)
    for stage in quantizer.stages:
        code = torch.cdist(rest, stage.codebook.double()).argmin(dim=1)
        total, rest = total + stage.codebook.double()[code], rest - stage.codebook.double()[code]
        codes.append(code)
    assert torch.equal(quantizer.encode(latents), torch.stack(codes).unflatten(1, (2, 25)).transpose(0, 1))
    torch.testing.assert_close(
        quantizer(latents).latents.transpose(1, 2).flatten(0, 1).double(), total, rtol=1e-5, atol=1e-5
    )


def test_losses_are_means_over_stages() -> None:
    torch.manual_seed(0)
    quantizer = codecvq.build_quantizer(
        "residual_vq", dim=4, codebook_size=16, num_codebooks=3, dead_code_threshold=0.0
    )
    latents = torch.randn(4, 4, 50)
    quantizer(latents)
    codebooks = [stage.codebook.clone() for stage in quantizer.stages]
    out = quantizer(latents)
    rest, parts = latents.transpose(1, 2).flatten(0, 1), []
    for codebook in codebooks:
        chosen = codebook[nearest_codes(rest, codebook)]
        parts.append(0.25 * (rest - chosen).square().mean())
        rest = rest - chosen
    torch.testing.assert_close(out.losses["commitment"], torch.stack(parts).mean())


def test_the_commitment_loss_of_every_stage_has_a_gradient() -> None:
    torch.manual_seed(0)
    quantizer = codecvq.build_quantizer("residual_vq", dim=4, codebook_size=4, num_codebooks=3)
    latents = torch.randn(2, 4, 20).requires_grad_()
    quantizer(latents)
    out = quantizer(latents)
    (gradient,) = torch.autograd.grad(out.losses["commitment"], latents)
    stages = [latents - quantizer.eval()(latents, num_codebooks=n).latents for n in (1, 2, 3)]
    first_stage_norm = 0.25 * 2 * stages[0].norm() / latents.numel() / 3
    assert gradient.norm() > first_stage_norm


def test_dropped_stages_do_not_update_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"dim": 4, "codebook_size": 8, "num_codebooks": 3, "dead_code_threshold": 0.0}
    torch.manual_seed(0)
    quantizer = codecvq.build_quantizer("residual_vq", **options, dropout=0.5)
    assert isinstance(quantizer, Residual)
    depths = torch.tensor([3, 1, 2, 1])
    monkeypatch.setattr(quantizer, "draw_depths", lambda count, depth: torch.full((count,), 3))
    latents = torch.randn(4, 4, 10, generator=torch.Generator().manual_seed(1))
    quantizer(latents)
    before = [stage.usage.clone() for stage in quantizer.stages]
    monkeypatch.setattr(quantizer, "draw_depths", lambda count, depth: depths)
    quantizer(latents)
    for n, (stage, usage) in enumerate(zip(quantizer.stages, before, strict=True)):
        rows = 10 * int((depths > n).sum())
        torch.testing.assert_close(stage.usage.sum(), 0.99 * usage.sum() + 0.01 * rows)


def test_dropout_drops_items_at_the_given_rate() -> None:
    torch.manual_seed(0)
    quantizer = codecvq.build_quantizer("residual_fsq", dim=2, levels=[3, 3], num_codebooks=4, dropout=0.5)
    drawn = quantizer.draw_depths(4000, 4)
    shares = torch.bincount(drawn, minlength=5).float() / 4000
    expected = torch.tensor([0.0, 0.125, 0.125, 0.125, 0.625])
    assert torch.all((shares - expected).abs() < 0.03), shares


def test_active_mask_of_codebooks_with_all_and_with_some_items() -> None:
    active = active_mask([slice(None), torch.tensor([0, 2]), torch.tensor([], dtype=torch.int64)], 3)
    assert active is not None
    assert active.tolist() == [[True, True, False], [True, False, False], [True, True, False]]
    assert active_mask([slice(None)] * 2, 3) is None


def test_dropout_depends_on_the_generator_of_the_quantizer() -> None:
    quantizer = codecvq.build_quantizer("residual_fsq", dim=2, levels=[3, 3], num_codebooks=4, dropout=1.0)
    latents = torch.randn(16, 2, 3)
    codes = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed + len(codes))  # has no influence
        quantizer.generator = torch.Generator().manual_seed(seed)
        codes.append(quantizer(latents).codes)
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])


@pytest.mark.parametrize("name", ["vq", "simvq", "fsq", "lfq", "residual_vq", "residual_fsq"])
def test_grouped_equals_the_quantizer_on_each_slice(name: str) -> None:
    torch.manual_seed(0)
    options = {"vq": {"codebook_size": 16}, "residual_vq": {"codebook_size": 16, "num_codebooks": 2}}.get(
        name
    ) or SMALL[name]
    quantizer = codecvq.build_quantizer(f"grouped_{name}", dim=6, num_groups=2, **options)
    assert isinstance(quantizer, Grouped)
    quantizer(torch.randn(2, 6, 30))
    quantizer.eval()
    latents = torch.randn(2, 6, 30)
    codes = torch.cat(
        [group.encode(part) for group, part in zip(quantizer.groups, latents.chunk(2, dim=1), strict=True)],
        dim=1,
    )
    assert torch.equal(quantizer.encode(latents), codes)
    halves = zip(quantizer.groups, codes.chunk(2, dim=1), strict=True)
    assert torch.equal(
        quantizer.decode(codes), torch.cat([group.decode(part) for group, part in halves], dim=1)
    )


def test_grouped_quantizers_reject_a_smaller_depth() -> None:
    quantizer = codecvq.build_quantizer("grouped_vq", dim=4, codebook_size=4, num_codebooks=2)
    with pytest.raises(ShapeError, match="always has 2"):
        quantizer.encode(torch.randn(1, 4, 3), num_codebooks=1)


def test_perplexity_and_usage_equal_those_of_the_codes() -> None:
    quantizer = codecvq.build_quantizer("fsq", dim=2, levels=[4, 4]).eval()
    codes = torch.tensor([0, 0, 5, 5, 5, 9, 9, 9, 9, 9])
    out = quantizer(torch.atanh(quantizer.decode(codes[None, None]).clamp(-0.999, 0.999)))
    assert torch.equal(out.codes.flatten(), codes)
    shares = torch.tensor([0.2, 0.3, 0.5])
    assert float(out.metrics["perplexity"]) == pytest.approx(
        float((-(shares * shares.log()).sum()).exp()), rel=1e-5
    )
    assert float(out.metrics["usage"]) == pytest.approx(3 / 16)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("residual_vq", {"dim": 6, "codebook_size": 8, "num_codebooks": 3}),
        ("residual_fsq", {"dim": 2, "levels": [3, 3], "num_codebooks": 3}),
        ("grouped_fsq", {"dim": 6, "levels": [3, 3], "num_codebooks": 3}),
        ("grouped_residual_vq", {"dim": 6, "codebook_size": 8, "num_codebooks": 4, "num_groups": 2}),
    ],
)
def test_perplexity_counts_only_active_codes(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    quantizer = codecvq.build_quantizer(name, **options, dropout=1.0, dropout_depths=[1, 2])
    latents = torch.randn(8, options["dim"], 20)
    mask = torch.arange(20) < torch.randint(5, 21, (8, 1))
    out = quantizer(latents, mask)
    assert out.active is not None
    assert out.active.shape == out.codes.shape
    assert not bool(out.codes[~out.active].any()), "codes of dropped stages are 0"
    assert torch.equal(out.active[:, 0], mask), "the first stage is active in all valid frames"
    assert torch.equal(out.active, out.active[:, :, :1] & mask[:, None]), "dropout applies to whole items"
    assert 0 < int(out.active[:, 1, 0].sum()) < 8
    for n, size in enumerate(quantizer.codebook_sizes):
        counts = out.codes[:, n][out.active[:, n]].bincount().double()
        shares = counts[counts > 0] / counts.sum()
        perplexity = math.exp(-float((shares * shares.log()).sum()))
        assert float(out.metrics[f"perplexity/{n}"]) == pytest.approx(perplexity, rel=1e-5)
        assert float(out.metrics[f"usage/{n}"]) == pytest.approx(len(shares) / size)
    assert quantizer.eval()(latents).active is None
