"""The pitch of a recording of any length, measured in pieces before the recording is encoded.

The pitch of a frame depends on the whole recording: on its loudest sample, on the best path through all
frames, and on the next voiced frame. This module reads a recording twice, in bounded memory, for the same
knots as those of the whole recording. Letters in shapes: T frames of the codec, n frames of the tracker per
frame of the codec.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from codecvq.networks.voice.best_path import SECTION, best_paths
from codecvq.networks.voice.grid import grid_size
from codecvq.networks.voice.knots import knots
from codecvq.networks.voice.pitch import Pitch, PitchTracker, between, interpolate_unvoiced, observations

# `knots` solves equations A x = y with a tridiagonal matrix. Its eigenvalues are between 0.5 * MIN_WEIGHT and
# 2, so the elements of its inverse decrease by at least (sqrt(4000) - 1) / (sqrt(4000) + 1) = 0.969 per frame
# (Demko, Moss and Smith 1984). Frames at this distance change a knot by less than 1e-14.
KNOT_CONTEXT = 1500


def knots_in_pieces(
    tracker: PitchTracker, upsampling: int, recording: Callable[[], Iterable[Tensor]]
) -> Iterator[Tensor]:
    """Yield the knots `[1, T]` of the pitch of a recording, piece by piece; n = `upsampling`.

    `recording` returns blocks of audio `[1, 1, S]` from the beginning. It is called twice. Zeros at the end
    complete the last frame of the codec.
    """
    context, hop_length = tracker.long.margin, tracker.long.hop_length
    loudest = tracker.long.window.new_zeros(1, 1)
    for wav in _sections(recording(), hop_length, upsampling, context):
        peak = tracker.long.peaks(wav, context).amax(dim=1, keepdim=True)
        loudest = torch.maximum(loudest, peak)
    sections = _sections(recording(), hop_length, upsampling, context)
    yield from fitted(_interpolated(_tracked(tracker, sections, context, loudest)), upsampling)


def _sections(
    recording: Iterable[Tensor], hop_length: int, upsampling: int, context: int
) -> Iterator[Tensor]:
    """Yield audio `[1, S]` of `SECTION` frames, or fewer at the end, with `context` samples on either side.

    Outside of the recording, samples are 0.
    """
    samples = SECTION * hop_length
    parts, count, total = [torch.zeros(1, context)], context, 0

    def blocks() -> Iterator[Tensor]:
        nonlocal total
        for block in recording:
            total += block.shape[2]
            yield block[:, 0].float()
        yield torch.zeros(1, -total % (upsampling * hop_length) + context)

    for block in blocks():
        parts.append(block)
        count += block.shape[1]
        if count >= samples + 2 * context:
            signal = torch.cat(parts, dim=1)
            while count >= samples + 2 * context:
                yield signal[:, : samples + 2 * context]
                signal, count = signal[:, samples:], count - samples
            parts = [signal]
    if count > 2 * context:
        yield torch.cat(parts, dim=1)


def _tracked(
    tracker: PitchTracker, sections: Iterable[Tensor], context: int, loudest: Tensor
) -> Iterator[Pitch]:
    """Yield the pitch of each section; the positions of unvoiced frames have no meaning."""
    waiting: deque[tuple[Tensor, Tensor]] = deque()  # audio and strengths of sections without a path

    def all_observations() -> Iterator[tuple[Tensor, None]]:
        for wav in sections:
            strengths, peaks = tracker.long(wav, context)
            waiting.append((wav, strengths))
            yield observations(strengths, peaks, loudest).cpu(), None

    for path in best_paths(all_observations()):
        wav, strengths = waiting.popleft()
        path = path.to(wav.device)
        yield Pitch(tracker.refine(path, strengths, wav, context), path < grid_size())


def _interpolated(pieces: Iterable[Pitch]) -> Iterator[Pitch]:
    """Interpolate positions over unvoiced frames, as `interpolate_unvoiced` of all pieces together."""
    left: Tensor | None = None  # position of the last voiced frame
    gap = 0  # number of unvoiced frames after it
    for piece in pieces:
        final = piece.position[:, -1:]
        voiced = piece.voiced[0].nonzero().flatten()
        if not len(voiced):
            gap += piece.voiced.shape[1]
            continue
        first, end = int(voiced[0]), int(voiced[-1]) + 1
        inner = Pitch(*(values[:, first:end] for values in piece))
        right = inner.position[:, :1]
        yield from _bridged(right if left is None else left, right, gap + first)
        yield Pitch(interpolate_unvoiced(*inner), inner.voiced)
        left, gap = inner.position[:, -1:], piece.voiced.shape[1] - end
    if gap:
        right = final if left is None else left
        yield from _bridged(right, right, gap)


def _bridged(left: Tensor, right: Tensor, frames: int) -> Iterator[Pitch]:
    """Yield unvoiced frames between two voiced ones at the positions `left` and `right` `[1, 1]`."""
    for start in range(0, frames, SECTION):
        distance = torch.arange(start + 1, min(start + SECTION, frames) + 1, device=left.device)[None]
        gap = torch.full_like(distance, frames + 1)
        position = between(left.expand(distance.shape), right.expand(distance.shape), distance, gap)
        yield Pitch(position, torch.zeros_like(distance, dtype=torch.bool))


def fitted(pieces: Iterable[Pitch], upsampling: int) -> Iterator[Tensor]:
    """Yield the knots of pieces of at most `SECTION` frames.

    Each piece is fitted with `KNOT_CONTEXT` frames of the codec on either side.
    """
    parts: list[Pitch] = []
    frames, done = 0, 0  # frames of the tracker in `parts`, and frames of the codec in it that have knots
    for piece in pieces:
        parts.append(piece)
        frames += piece.voiced.shape[1]
        if frames // upsampling >= done + SECTION + KNOT_CONTEXT:
            pitch = _joined(parts)
            whole = frames - frames % upsampling
            yield knots(*(values[:, :whole] for values in pitch), upsampling)[:, done : done + SECTION]
            dropped = max(0, done + SECTION - KNOT_CONTEXT)
            parts = [Pitch(*(values[:, dropped * upsampling :] for values in pitch))]
            frames, done = frames - dropped * upsampling, done + SECTION - dropped
    if parts:
        yield knots(*_joined(parts), upsampling)[:, done:]


def _joined(parts: list[Pitch]) -> Pitch:
    return Pitch(*(torch.cat(values, dim=1) for values in zip(*parts, strict=True)))
