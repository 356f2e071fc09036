"""Two processes train as one: equal codebooks, global entropies, and nobody waits for ever.

The two are started once for the whole file (see two_ranks.py); their results are compared with those of the
same scenario in this process, with the whole batch.
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
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found, by scenario."""
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


def assert_close(got: Any, needed: Any, tolerance: float = 1e-4) -> None:
    """Nested dicts, lists and tuples of tensors are equal within `tolerance`; 0 means bit for bit."""
    torch.testing.assert_close(got, needed, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The same scenarios in one process with the whole batch."""
    return {"ema": two_ranks.ema(whole), "signs": two_ranks.signs(whole)}


@pytest.mark.parametrize(
    "scenario",
    ["ema", "ema, uneven", "ema, built before", "ema, nothing", "broken", "dropout", "data parallel"],
)
def test_codebooks_are_identical_on_all_ranks(found: list[dict[str, Any]], scenario: str) -> None:
    assert_close(found[0][scenario], found[1][scenario], tolerance=0.0)


@pytest.mark.parametrize("scenario", ["ema", "ema, uneven", "ema, nothing"])
@pytest.mark.parametrize("kind", EMA)
def test_two_ranks_learn_what_one_learns_from_the_whole_batch(
    found: list[dict[str, Any]], alone: dict[str, Any], scenario: str, kind: str
) -> None:
    """k-means start, moving averages and replacement of dead codewords."""
    assert_close(found[0][scenario][kind], alone["ema"][kind])


@pytest.mark.parametrize("kind", EMA)
def test_a_module_built_before_the_process_group_is_synchronised(
    found: list[dict[str, Any]], alone: dict[str, Any], kind: str
) -> None:
    """Fault 28: it never was, and neither were modules built later."""
    assert_close(found[0]["ema, built before"][kind], alone["ema"][kind])


def test_groups_start_by_kmeans_from_the_vectors_of_all_ranks(
    found: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    """Fault 31: several heads with k-means could not be built under several processes."""
    for each in found:
        for scenario in ("ema", "ema, uneven"):
            started = each[scenario]["heads"]
            assert [bool(started[f"groups.{n}.started"]) for n in (0, 1)] == [True, True]
            assert_close(started, alone["ema"]["heads"])


@pytest.mark.parametrize("scenario", ["signs", "signs, uneven"])
@pytest.mark.parametrize("kind", SIGNS)
def test_entropies_are_those_of_all_ranks_together(
    found: list[dict[str, Any]], alone: dict[str, Any], scenario: str, kind: str
) -> None:
    """Fault 29: the entropy was that of one rank's vectors, 2.354 instead of 4.101."""
    needed = alone["signs"][kind]
    for each in found:
        for name in ("per_sample_entropy", "codebook_entropy"):
            assert_close(each[scenario][kind]["losses"][name], needed["losses"][name], 1e-5)
    # gradients are averaged over ranks by data parallelism, so each rank's is WORLD times its part
    gradient = torch.cat([each[scenario][kind]["gradient"] for each in found]) / WORLD
    assert_close(gradient, needed["gradient"], 1e-6)
    assert bool(needed["gradient"].abs().max() > 1e-4)


def test_one_rank_of_padding_leaves_the_others_what_they_have(found: list[dict[str, Any]]) -> None:
    """Fault 30: with dead codes it hung or crashed."""
    states, masked = two_ranks.one_rank_all_padding(lambda batch: batch[:5])
    for each in found:
        assert_close(each["all padding"][0], states)
    for kind in SIGNS:
        for name in ("per_sample_entropy", "codebook_entropy"):
            for each in found:
                assert_close(each["all padding"][1][kind]["losses"][name], masked[kind]["losses"][name], 1e-5)
        real, padding = (each["all padding"][1][kind]["gradient"] for each in found)
        assert_close(real / WORLD, masked[kind]["gradient"], 1e-6)
        assert not bool(padding.any())
        assert len(padding) == ITEMS - 5


def test_a_broken_frame_on_one_rank_is_skipped_by_all(found: list[dict[str, Any]]) -> None:
    """The ranks assert at each such step that nothing changed; the other steps were made."""
    for kind, state in found[0]["broken"].items():
        started = [tensor for name, tensor in state.items() if name.endswith("started")]
        assert started, kind
        assert all(bool(each) for each in started), kind


def test_one_rank_can_evaluate_alone(found: list[dict[str, Any]]) -> None:
    assert found[0]["evaluates"] is None  # it came back: nobody waited for the other
