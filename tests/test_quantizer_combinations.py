"""Conformance checks for every combination of the options that change values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from small_quantizers import MLP

from codecvq.quantizer.build import quantizer_options
from codecvq.testing import quantizer_checks, run_checks


def combinations(name: str, **choices: list[Any]) -> Iterator[Any]:
    """Parameters for every combination of the choices. None omits an option."""
    for values in itertools.product(*choices.values()):
        options = {key: value for key, value in zip(choices, values, strict=True) if value is not None}
        yield pytest.param(name, options, id=",".join([name, *(f"{k}={v}" for k, v in options.items())]))


COMBINATIONS = [
    *combinations(
        "vq",
        codebook_size=[16],
        codebook_dim=[None, 3],
        distance=["euclidean", "cosine"],
        learn=["ema", "gradient"],
        init=["kmeans", "random"],
        estimator=["ste", "rotation", "rotation_unscaled"],
    ),
    *combinations(
        "simvq",
        codebook_size=[16],
        codebook_dim=[None, 3],
        map=[None, MLP],
        estimator=["ste", "rotation"],
    ),
    *combinations(
        "fsq",
        levels=[[5, 4], [2, 3, 8, 5]],
        num_codebooks=[1, 2],
        bound=["symmetric", "original"],
        noise_dropout=[None, 0.5],
        estimator=["ste", "rotation"],
    ),
    *combinations(
        "lfq",
        bits=[4, 8, 30],
        num_codebooks=[1, 2],
        soft_clamp=[None, 2.0],
        temperature=[0.2, 1.0],
        diversity_weight=[0.0, 2.0],
        estimator=["ste"],
    ),
    *combinations(
        "bsq",
        bits=[4, 8, 30],
        num_codebooks=[1, 2],
        temperature=[0.2, 1.0],
        diversity_weight=[0.0, 2.0],
        estimator=["ste", "rotation"],
    ),
    *combinations(
        "residual_vq",
        codebook_size=[16],
        codebook_dim=[None, 3],
        distance=["euclidean", "cosine"],
        learn=["ema", "gradient"],
        shared=[False, True],
        beam=[1, 4],
        dropout=[0.0, 0.5],
    ),
    *combinations(
        "residual_simvq", codebook_size=[16], codebook_dim=[None, 3], beam=[1, 4], dropout=[0.0, 0.5]
    ),
    *combinations(
        "residual_fsq", levels=[[5, 4], [3] * 8], num_codebooks=[1, 4], dropout=[0.0, 0.5], estimator=["ste"]
    ),
    *combinations(
        "residual_fsq", levels=[[5, 4]], num_codebooks=[4], dropout=[0.5], dropout_depths=[[1, 3, 3]]
    ),
    *combinations("residual_vq", codebook_size=[16], dropout=[0.5], dropout_depths=[[2, 3, 3]]),
    *combinations("grouped_fsq", levels=[[5, 4]], num_groups=[4], dropout=[0.5], dropout_depths=[[1, 3]]),
    *combinations("residual_lfq", bits=[4, 8], soft_clamp=[None, 1.5], dropout=[0.0, 0.5]),
    *combinations("residual_bsq", bits=[4, 8], dropout=[0.0, 0.5]),
    *combinations("residual_vq", stages=[[{"codebook_size": 8}, {"codebook_dim": 2}]], codebook_size=[16]),
    *combinations("grouped_vq", codebook_size=[16], codebook_dim=[None, 3], dropout=[0.0, 0.5]),
    *combinations("grouped_fsq", levels=[[5, 4]], num_groups=[2, 4], dropout=[0.0, 0.5], noise_dropout=[0.5]),
    *combinations("grouped_lfq", bits=[4], dropout=[0.0, 0.5]),
    *combinations(
        "grouped_residual_rotation_vq", codebook_size=[8], codebook_dim=[None, 2], dropout=[0.0, 0.5]
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), COMBINATIONS)
def test_every_combination_of_options_passes_all_checks(name: str, options: dict[str, Any]) -> None:
    checks = [
        check
        for check in quantizer_checks(name, forms=["plain"], **options)
        if check.name.startswith(f"{name}/")
    ]
    assert len(checks) > 30
    failures = {outcome.check.name: outcome.found for outcome in run_checks(checks) if outcome.found}
    assert failures == {}


#: options that scale losses or set the speed of codebook updates; other tests check them numerically
RATES = {"dim", "entropy_weight", "commitment_weight", "codebook_weight", "decay", "dead_code_threshold"}


@pytest.mark.parametrize("name", ["vq", "simvq", "fsq", "residual_fsq", "lfq", "bsq"])
def test_every_option_that_changes_values_is_in_a_combination(name: str) -> None:
    combined = {
        key for parameter in COMBINATIONS if parameter.values[0] == name for key in parameter.values[1]
    }
    assert set(quantizer_options(name)) - RATES - combined == set()
