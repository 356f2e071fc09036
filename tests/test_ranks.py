"""Two processes train like one: equal codebooks, global entropies and no deadlocks.

The module starts the two processes once (see two_ranks.py). The tests compare their results with the same
scenarios in this process on the whole batch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import two_ranks
from two_ranks import EMA, ITEMS, SIGNS, WORLD, whole

TIMEOUT_S = 100


@pytest.fixture(scope="module")
def rank_results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Results of each rank: scenario -> values."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, two_ranks.__file__]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(folder)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(WORLD)
    ]
    try:
        errors = [process.communicate(timeout=TIMEOUT_S)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * WORLD, "\n".join(errors)[-4000:]
    return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(WORLD)]


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """Compares nested dicts, lists and tuples of tensors. A tolerance of 0 means bit-identical."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def single_process() -> dict[str, Any]:
    """The same scenarios in one process with the whole batch."""
    return {"ema": two_ranks.ema(whole), "signs": two_ranks.signs(whole)}


@pytest.mark.parametrize(
    "scenario",
    ["ema", "ema, uneven", "ema, built before", "ema, nothing", "broken", "dropout", "data parallel"],
)
def test_codebooks_are_identical_on_all_ranks(rank_results: list[dict[str, Any]], scenario: str) -> None:
    assert_close(rank_results[0][scenario], rank_results[1][scenario], tolerance=0.0)


@pytest.mark.parametrize("scenario", ["ema", "ema, uneven", "ema, nothing"])
@pytest.mark.parametrize("kind", EMA)
def test_two_ranks_learn_the_same_as_one_process_on_the_whole_batch(
    rank_results: list[dict[str, Any]], single_process: dict[str, Any], scenario: str, kind: str
) -> None:
    """k-means start, moving averages and replacement of dead codewords."""
    assert_close(rank_results[0][scenario][kind], single_process["ema"][kind])


@pytest.mark.parametrize("kind", EMA)
def test_a_module_built_before_the_process_group_is_synchronized(
    rank_results: list[dict[str, Any]], single_process: dict[str, Any], kind: str
) -> None:
    """Fault 28: modules built before the process group, and later ones, were never synchronized."""
    assert_close(rank_results[0]["ema, built before"][kind], single_process["ema"][kind])


def test_kmeans_of_groups_uses_the_vectors_of_all_ranks(
    rank_results: list[dict[str, Any]], single_process: dict[str, Any]
) -> None:
    """Fault 31: several heads with k-means could not be built in several processes."""
    for each in rank_results:
        for scenario in ("ema", "ema, uneven"):
            started = each[scenario]["heads"]
            assert [bool(started[f"groups.{n}.started"]) for n in (0, 1)] == [True, True]
            assert_close(started, single_process["ema"]["heads"])


@pytest.mark.parametrize("scenario", ["signs", "signs, uneven"])
@pytest.mark.parametrize("kind", SIGNS)
def test_entropies_are_computed_over_all_ranks(
    rank_results: list[dict[str, Any]], single_process: dict[str, Any], scenario: str, kind: str
) -> None:
    """Fault 29: the entropy was computed over one rank's vectors, 2.354 instead of 4.101."""
    expected = single_process["signs"][kind]
    for each in rank_results:
        for name in ("per_sample_entropy", "codebook_entropy"):
            assert_close(each[scenario][kind]["losses"][name], expected["losses"][name], 1e-5)
    # Data parallelism averages gradients over ranks, so the gradient of a rank is WORLD times its part.
    gradient = torch.cat([each[scenario][kind]["gradient"] for each in rank_results]) / WORLD
    assert_close(gradient, expected["gradient"], 1e-6)
    assert bool(expected["gradient"].abs().max() > 1e-4)


def test_a_rank_with_only_padding_does_not_change_the_result(rank_results: list[dict[str, Any]]) -> None:
    """Fault 30: dead codes caused a deadlock or a crash."""
    states, masked = two_ranks.one_rank_all_padding(lambda batch: batch[:5])
    for each in rank_results:
        assert_close(each["all padding"][0], states)
    for kind in SIGNS:
        for name in ("per_sample_entropy", "codebook_entropy"):
            for each in rank_results:
                assert_close(each["all padding"][1][kind]["losses"][name], masked[kind]["losses"][name], 1e-5)
        real, padding = (each["all padding"][1][kind]["gradient"] for each in rank_results)
        assert_close(real / WORLD, masked[kind]["gradient"], 1e-6)
        assert not bool(padding.any())
        assert len(padding) == ITEMS - 5


def test_a_non_finite_frame_on_one_rank_cancels_the_update_on_all(rank_results: list[dict[str, Any]]) -> None:
    """The ranks assert that nothing changes in such a step. All other steps update."""
    for kind, state in rank_results[0]["broken"].items():
        started = [tensor for name, tensor in state.items() if name.endswith("started")]
        assert started, kind
        assert all(bool(each) for each in started), kind


def test_one_rank_can_evaluate_without_the_others(rank_results: list[dict[str, Any]]) -> None:
    assert rank_results[0]["evaluates"] is None  # rank 0 returned without rank 1
