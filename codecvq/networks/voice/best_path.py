"""The best path of states through frames (Viterbi): states of the pitch grid, and one state for unvoiced.

The costs and the algorithm are those of Boersma (1993); see `codecvq.networks.voice.pitch`. Letters in
shapes: G frequencies of the grid, T frames. State G means unvoiced.

Frames are processed in sections of `SECTION` frames. The path of a section is the best one to the end of the
next section. This bounds memory and delay, with the same result for whole recordings and for pieces. Paths
from different states merge within seconds in speech, so the path is the best one of the whole recording. For
up to two sections, this is certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codecvq.networks.voice.grid import STEPS
from codecvq.transfer import reads_without_sync

Scores: TypeAlias = npt.NDArray[np.float32]
States: TypeAlias = npt.NDArray[np.int64]

#: Costs of Boersma and Praat per octave, and per change between voiced and unvoiced
JUMP_COST, VOICING_COST = 0.35, 0.14

SECTION = 3000  # frames: 30 s of frames of 10 ms


def best_path(strengths: Tensor, mask: Tensor | None) -> Tensor:
    """Return the states `[B, T]` of the path with the highest sum of strengths `[B, T, G + 1]`.

    Padding, at the end, continues the last state.
    """
    if not reads_without_sync(strengths.device):
        return best_path_on_device(strengths, mask)
    masks = [None] * len(strengths.split(SECTION, dim=1)) if mask is None else mask.split(SECTION, dim=1)
    return torch.cat(list(best_paths(zip(strengths.split(SECTION, dim=1), masks, strict=True))), dim=1)


def best_path_on_device(strengths: Tensor, mask: Tensor | None) -> Tensor:
    """Compute `best_path` without transfers and with few kernels per frame.

    Compares all pairs of states, and finds the best path of the whole recording.
    """
    steps = torch.arange(strengths.shape[2], device=strengths.device)
    costs = (steps[:, None] - steps).abs() * (JUMP_COST / STEPS)  # to, from
    unvoiced = steps == len(steps) - 1
    costs = torch.where(unvoiced[:, None] != unvoiced, VOICING_COST, costs)
    best, origins = strengths[:, 0], []
    for t in range(1, strengths.shape[1]):
        if t % SECTION == 0:
            best = best - best.amax(dim=1, keepdim=True)
        values, origin = (best[:, None] - costs).max(dim=2)  # [B, G + 1] each
        values = values + strengths[:, t]
        if mask is not None:
            values = torch.where(mask[:, t, None], values, best)
            origin = torch.where(mask[:, t, None], origin, steps)
        best = values
        origins.append(origin.to(torch.uint8 if len(steps) <= 256 else torch.int64))
    path = [best.argmax(dim=1, keepdim=True)]
    for origin in reversed(origins):
        path.append(origin.gather(1, path[-1]).long())
    return torch.cat(path[::-1], dim=1)


def best_paths(sections: Iterable[tuple[Tensor, Tensor | None]]) -> Iterator[Tensor]:
    """Yield the path `[B, SECTION]` of each section, after the next section is read.

    A section consists of strengths `[B, SECTION, G + 1]` and a mask `[B, SECTION]` or None. The last section
    can be shorter. Runs in numpy on the CPU, which has less overhead for many small operations.
    """
    section: _Section | None = None
    for strengths, mask in sections:
        following = _Section(strengths, mask, section)
        if section is not None:
            yield section.path(section.states_before(following))
        section = following
    if section is not None:
        yield section.path(section.best_states())


class _Section:
    """Scores of the best paths to each state of each frame of a section.

    The cost of a jump is proportional to its width, so the best previous state is the larger of two running
    maxima, from below and from above.
    """

    def __init__(self, strengths: Tensor, mask: Tensor | None, previous: _Section | None) -> None:
        values = strengths.transpose(0, 1).float().numpy()
        self.valid = None if mask is None else mask.T.numpy()  # [n, B]
        self.scores = np.empty_like(values)  # [n, B, G + 1]
        states = values.shape[2]
        slope = np.arange(states - 1, dtype=np.float32) * np.float32(JUMP_COST / STEPS)
        self.costs = np.full((states, states), VOICING_COST, dtype=np.float32)  # [to, from]
        self.costs[:-1, :-1] = np.abs(slope[:, None] - slope)
        self.costs[-1, -1] = 0
        if previous is None:
            self.scores[0] = values[0]
        else:  # sums over hours would lose precision
            previous.scores[-1] -= previous.scores[-1].max(axis=1, keepdims=True)
            self._add_frame(0, previous.scores[-1], values[0], slope)
        for t in range(1, len(values)):
            self._add_frame(t, self.scores[t - 1], values[t], slope)

    def _add_frame(self, t: int, before: Scores, values: Scores, slope: Scores) -> None:
        scores, voiced, unvoiced = self.scores[t], before[:, :-1], before[:, -1:]
        below = np.maximum.accumulate(voiced + slope, axis=1) - slope
        above = np.maximum.accumulate((voiced - slope)[:, ::-1], axis=1)[:, ::-1] + slope
        np.maximum(np.maximum(below, above), unvoiced - VOICING_COST, out=scores[:, :-1])
        np.maximum(unvoiced, voiced.max(axis=1, keepdims=True) - VOICING_COST, out=scores[:, -1:])
        scores += values
        if self.valid is not None:
            scores[:] = np.where(self.valid[t, :, None], scores, before)

    def best_states(self) -> States:
        """Return the states `[B]` of the last frame with the highest scores."""
        return self.scores[-1].argmax(axis=1)

    def states_before(self, following: _Section) -> States:
        """Return the states `[B]` of the last frame on the best path to the end of the following section."""
        return following._origins(0, self.scores[-1], following._traced(following.best_states())[0])

    def path(self, last: States) -> Tensor:
        """Return the path `[B, n]` to the states `[B]` of the last frame."""
        return torch.from_numpy(self._traced(last).T.copy())

    def _traced(self, last: States) -> States:
        path = np.empty(self.scores.shape[:2], dtype=np.int64)
        path[-1] = last
        for t in range(len(path) - 1, 0, -1):
            path[t - 1] = self._origins(t, self.scores[t - 1], path[t])
        return path

    def _origins(self, t: int, before: Scores, states: States) -> States:
        """Return the best previous states `[B]` of states of frame t."""
        origins = (before - self.costs[states]).argmax(axis=1)
        return origins if self.valid is None else np.where(self.valid[t], origins, states)
