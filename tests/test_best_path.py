"""The best path of states: optimality, padding, sections, and precision over long recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from codecvq.networks.voice import best_path as module
from codecvq.networks.voice.best_path import best_path, best_path_on_device
from codecvq.networks.voice.grid import STEPS, grid_size


@pytest.mark.parametrize("section", [3000, 13], ids=["one section", "short sections"])
def test_best_path_is_optimal(section: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares with a float64 dynamic program over all states."""
    monkeypatch.setattr(module, "SECTION", section)
    batch, frames, size = 3, 40, grid_size()
    generator = torch.Generator().manual_seed(0)
    strengths = torch.rand(batch, frames, size + 1, generator=generator)
    strengths[:, 10:20, -1] += 1.0  # otherwise the unvoiced state is never the best
    mask = torch.arange(frames) < torch.tensor([[frames], [25], [1]])
    states = torch.arange(size + 1, dtype=torch.float64)
    costs = 0.35 / STEPS * (states[:, None] - states).abs()
    costs[-1], costs[:, -1], costs[-1, -1] = 0.14, 0.14, 0.0
    result = best_path(strengths, mask)
    for item, real in enumerate(mask.sum(dim=1).tolist()):
        values = strengths[item, :real].double()
        best = values[0]
        for value in values[1:]:
            best = (best[:, None] - costs).max(dim=0).values + value
        path = result[item, :real]
        worth = values[range(real), path].sum() - costs[path[:-1], path[1:]].sum()
        torch.testing.assert_close(worth, best.max(), rtol=1e-6, atol=0)
        assert bool((result[item, real:] == path[-1]).all())
        assert torch.equal(best_path(strengths[item : item + 1, :real], None)[0], path)
    assert 0.1 < float((result == size).float().mean()) < 0.9


@pytest.mark.parametrize("search", [best_path, best_path_on_device])
def test_the_path_of_a_long_recording_is_as_precise_as_of_a_short_one(
    search: Callable[[torch.Tensor, None], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of strengths grow with the recording; float32 has 24 bits."""
    monkeypatch.setattr(module, "SECTION", 50)
    generator = torch.Generator().manual_seed(0)
    strengths = torch.rand(1, 400, grid_size() + 1, generator=generator)
    expected = search(strengths, None)
    strengths[:, 0] += 2.0**20  # as after hours
    found = search(strengths, None)
    assert torch.equal(found[:, 60:], expected[:, 60:])
    assert not torch.equal(found[:, :40], expected[:, :40]), "the precision of the first section is lower"


def test_a_section_is_decided_by_the_next_one() -> None:
    """The path of a section does not depend on frames after the next section."""
    generator = torch.Generator().manual_seed(0)
    strengths = torch.rand(1, 90, grid_size() + 1, generator=generator)
    sections = strengths.split(30, dim=1)
    read = []

    def observed() -> Iterator[tuple[torch.Tensor, None]]:
        for index, section in enumerate(sections):
            read.append(index)
            yield section, None

    paths = module.best_paths(observed())
    first = next(paths)
    assert read == [0, 1]
    assert torch.equal(first, best_path(strengths[:, :60], None)[:, :30])
    assert torch.equal(torch.cat([first, *paths], dim=1), best_path(strengths, None))
