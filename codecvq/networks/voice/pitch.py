"""Fundamental frequency of speech, one value per frame, on a logarithmic frequency grid.

It uses the autocorrelation method of Boersma (1993, Proc. Inst. Phonetic Sciences 17). The autocorrelation of
a windowed frame, divided by that of the window, is close to 1 at the period of a periodic signal. The best
path through all frames, with costs for jumps and for changes between voiced and unvoiced, avoids octave
errors. Letters in shapes: G frequencies of the grid, T frames.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from codecvq.networks.voice.best_path import best_path
from codecvq.networks.voice.correlation import Correlation
from codecvq.networks.voice.grid import LOWEST_HZ, STEPS, grid_size, hz_of

SHORTER_FROM_HZ = (100.0, 170.0)  # above these frequencies, shorter windows follow changes better
NEAR = 4  # peaks are searched up to this distance in steps from the path

# Costs and thresholds of Boersma and Praat for frames of 10 ms, with correlations of at most 1. They are per
# frame, independent of its duration.
VOICING_THRESHOLD, SILENCE_THRESHOLD = 0.45, 0.03
OCTAVE_COST = 0.01  # per octave, so that the shorter of two equal periods wins


class Pitch(NamedTuple):
    """Pitch of frames, and whether they are voiced."""

    position: Tensor  # [B, T] float: position on the grid, refined between steps
    voiced: Tensor  # [B, T] bool

    @property
    def hz(self) -> Tensor:
        """Frequencies `[B, T]`."""
        return hz_of(self.position)


class PitchTracker(nn.Module):
    """Pitch of audio `[B, 1, S]`, with frames centered on hops of `hop_length` samples.

    An encoder and a decoder may share a tracker. In a training step both need the pitch of the same audio, so
    the tracker caches its last result.
    """

    def __init__(self, sample_rate: int, hop_length: int) -> None:
        super().__init__()
        self.long = Correlation(sample_rate, hop_length, LOWEST_HZ)
        self.short = nn.ModuleList(Correlation(sample_rate, hop_length, hz) for hz in SHORTER_FROM_HZ)
        #: in training: audio, its version, and its pitch
        self.cached_pitch: tuple[Tensor, int, Pitch] | None = None

    @torch.compiler.disable  # the loop over frames would be unrolled and take minutes to compile
    @torch.no_grad()
    def forward(self, wav: Tensor, mask: Tensor | None = None) -> Pitch:
        """Track the pitch `[B, T]` of audio `[B, 1, S]`, T = S/hop, in float32 also under autocast.

        Padded frames, where the mask `[B, T]` is False, do not affect others.
        """
        cached, self.cached_pitch = self.cached_pitch, None
        if mask is None and cached is not None and cached[0] is wav and cached[1] == wav._version:
            return cached[2]
        with torch.autocast(wav.device.type, enabled=False):
            pitch = self._track(wav[:, 0].float(), mask)
        if self.training and mask is None and not wav.is_inference():  # inference tensors have no version
            self.cached_pitch = wav, wav._version, pitch
        return pitch

    def _track(self, wav: Tensor, mask: Tensor | None) -> Pitch:
        if mask is not None:  # padding would affect windows of the last frames and the loudest sample
            wav = wav * mask.repeat_interleave(self.long.hop_length, dim=1)
        strengths, peaks = self.long(wav)
        path = best_path(observations(strengths, peaks, peaks.amax(dim=1, keepdim=True)), mask)
        voiced = path < grid_size() if mask is None else mask & (path < grid_size())
        return Pitch(interpolate_unvoiced(self.refine(path, strengths, wav), voiced), voiced)

    def refine(self, path: Tensor, strengths: Tensor, wav: Tensor, context: int = 0) -> Tensor:
        """Compute positions `[B, T]` near a path of states, from strengths of `long` and audio `[B, S]`.

        High positions are those of shorter windows. `context` is that of `Correlation`.
        """
        position = refined(strengths, path)
        for hz, correlation in zip(SHORTER_FROM_HZ, self.short, strict=True):
            fine = refined(correlation(wav, context)[0], path)
            position = torch.where(hz_of(position) > hz * 1.1, fine, position)
        return position


def observations(strengths: Tensor, peaks: Tensor, loudest: Tensor) -> Tensor:
    """Return the strengths `[B, T, G + 1]` of all states.

    Args:
        strengths: Autocorrelations `[B, T, G]`.
        peaks: Largest magnitude of each frame, `[B, T]`.
        loudest: Largest peak of the recording, `[B, 1]`, or of the recording until each frame, `[B, T]`.
            Frames that are far quieter are rather unvoiced.
    """
    silence = peaks / loudest.clamp(min=1e-9) * (1 + VOICING_THRESHOLD) / SILENCE_THRESHOLD
    higher = torch.arange(grid_size(), device=peaks.device) / STEPS
    unvoiced = VOICING_THRESHOLD + (2 - silence).clamp(min=0)
    return torch.cat([strengths + OCTAVE_COST * higher, unvoiced[..., None]], dim=2)


def refined(strengths: Tensor, path: Tensor) -> Tensor:
    """Return positions `[B, T]` of the largest strengths `[B, T, G]` near the path.

    A parabola through each maximum and its two neighbors refines its position.
    """
    size = strengths.shape[2]
    near = (path[..., None] + torch.arange(-NEAR, NEAR + 1, device=path.device)).clamp(1, size - 2)
    at = near.gather(2, strengths.gather(2, near).argmax(dim=2, keepdim=True))[..., 0]
    low, middle, high = (strengths.gather(2, (at + k)[..., None])[..., 0] for k in (-1, 0, 1))
    curve = (low - 2 * middle + high).clamp(max=-1e-6)
    return at + (0.5 * (low - high) / curve).clamp(-0.5, 0.5)


def interpolate_unvoiced(position: Tensor, voiced: Tensor) -> Tensor:
    """Interpolate positions `[B, T]` linearly over unvoiced frames.

    They are constant before the first and after the last voiced frame.
    """
    frames = position.shape[1]
    now = torch.arange(frames, device=position.device).expand_as(position)
    before = torch.where(voiced, now, -1).cummax(dim=1).values
    after = torch.where(voiced, now, frames).flip(1).cummin(dim=1).values.flip(1)
    ends = torch.where(before < 0, after, before), torch.where(after == frames, before, after)
    left, right = (end.clamp(0, frames - 1) for end in ends)
    return between(position.gather(1, left), position.gather(1, right), now - left, right - left)


def between(left: Tensor, right: Tensor, distance: Tensor, gap: Tensor) -> Tensor:
    """Interpolate between two positions that are `gap` frames apart, at `distance` frames after `left`."""
    return torch.lerp(left, right, (distance / gap.clamp(min=1)).clamp(0, 1))
