"""Fundamental frequency of speech, one value per frame, on a logarithmic frequency grid.

It uses the autocorrelation method of Boersma (1993, Proc. Inst. Phonetic Sciences 17). The autocorrelation of
a windowed frame, divided by that of the window, is close to 1 at the period of a periodic signal. The best
path through all frames, with costs for jumps and for changes between voiced and unvoiced, avoids octave
errors. Letters in shapes: G frequencies of the grid, T frames.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.transfer import reads_without_sync

LOWEST_HZ, OCTAVES, STEPS = 60.0, 3.25, 48  # up to 570 Hz, STEPS per octave
SHORTER_FROM_HZ = (100.0, 170.0)  # above these frequencies, shorter windows follow changes better
NEAR = 4  # peaks are searched up to this distance in steps from the path
PERIODS = 3  # periods of the lowest frequency per window
MAX_CORRELATION_HZ = 4000.0  # above it, voiced speech is often noisy, too

FRAMES_AT_ONCE = 4096  # frames per Fourier transform call, which bounds memory for long audio

# Costs and thresholds of Boersma and Praat for frames of 10 ms, with correlations of at most 1. They are per
# frame, independent of its duration.
VOICING_THRESHOLD, SILENCE_THRESHOLD = 0.45, 0.03
OCTAVE_COST = 0.01  # per octave, so that the shorter of two equal periods wins
JUMP_COST, VOICING_COST = 0.35, 0.14  # per octave, and per change between voiced and unvoiced


class Pitch(NamedTuple):
    """Pitch of frames, and whether they are voiced."""

    position: Tensor  # [B, T] float: position on the grid, refined between steps
    voiced: Tensor  # [B, T] bool

    @property
    def hz(self) -> Tensor:
        """Frequencies `[B, T]`."""
        return hz_of(self.position)


def grid_size() -> int:
    """Return the number of frequencies of the grid, G."""
    return round(OCTAVES * STEPS) + 1


def hz_of(position: Tensor) -> Tensor:
    """Return the frequency at a position of the grid."""
    return LOWEST_HZ * torch.exp2(position / STEPS)


class Correlation(nn.Module):
    """Autocorrelations of Hann-windowed frames at the lags of the grid."""

    window: Tensor  # [W]
    cosines: Tensor  # [K, G]: cosines of the used frequency bins at the lags of the grid
    own: Tensor  # [G]: autocorrelation of the window

    def __init__(self, sample_rate: int, hop_length: int, lowest_hz: float) -> None:
        super().__init__()
        length = round(PERIODS * sample_rate / lowest_hz)
        self.hop_length, self.length = hop_length, length + (length - hop_length) % 2
        self.size = 2 ** math.ceil(math.log2(self.length + sample_rate / LOWEST_HZ))
        window = torch.hann_window(self.length)
        lags = sample_rate / hz_of(torch.arange(grid_size(), dtype=torch.float64))
        bins = torch.arange(self.size // 2 + 1, dtype=torch.float64)
        cosines = torch.cos(2 * torch.pi / self.size * bins[:, None] * lags)
        power = torch.fft.rfft(window.double(), n=self.size).abs().square()
        power[1:] *= 2  # bins also represent their mirror images
        num_bins = min(len(bins), round(MAX_CORRELATION_HZ / sample_rate * self.size) + 1)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("cosines", cosines[:num_bins].float(), persistent=False)
        self.register_buffer("own", (power @ cosines / power.sum()).float().clamp(min=0.1), persistent=False)

    def forward(self, wav: Tensor) -> tuple[Tensor, Tensor]:
        """Compute autocorrelations `[B, T, G]` and peaks `[B, T]` of the frames of audio `[B, S]`."""
        margin = (self.length - self.hop_length) // 2
        if margin >= 0:
            frames = F.pad(wav, (margin, margin)).unfold(1, self.length, self.hop_length)
        else:
            frames = wav.unfold(1, self.hop_length, self.hop_length)[..., -margin:margin]
        parts = [self._part(part) for part in frames.split(FRAMES_AT_ONCE, dim=1)]
        strengths, peaks = zip(*parts, strict=True)
        return torch.cat(strengths, dim=1), torch.cat(peaks, dim=1)

    def _part(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        frames = frames - frames.mean(dim=2, keepdim=True)
        power = torch.fft.rfft(frames * self.window, n=self.size)[..., : len(self.cosines)].abs().square()
        power[..., 1:] *= 2
        total = power.sum(dim=2, keepdim=True).clamp(min=1e-12)
        return power @ self.cosines / total / self.own, frames.abs().amax(dim=2)


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
        loudest = peaks.amax(dim=1, keepdim=True).clamp(min=1e-9)
        silence = peaks / loudest * (1 + VOICING_THRESHOLD) / SILENCE_THRESHOLD
        higher = torch.arange(grid_size(), device=wav.device) / STEPS
        unvoiced = VOICING_THRESHOLD + (2 - silence).clamp(min=0)
        path = best_path(torch.cat([strengths + OCTAVE_COST * higher, unvoiced[..., None]], dim=2), mask)
        voiced = path < grid_size() if mask is None else mask & (path < grid_size())
        position = _refined(strengths, path)
        for hz, correlation in zip(SHORTER_FROM_HZ, self.short, strict=True):
            fine = _refined(correlation(wav)[0], path)
            position = torch.where(hz_of(position) > hz * 1.1, fine, position)
        return Pitch(interpolate_unvoiced(position, voiced), voiced)


def best_path(strengths: Tensor, mask: Tensor | None) -> Tensor:
    """Return the states `[B, T]` of the path with the highest sum of strengths `[B, T, G + 1]`.

    State G means unvoiced. Padding, at the end, continues the last state.
    """
    if reads_without_sync(strengths.device):
        return best_path_on_cpu(strengths, mask)
    return best_path_on_device(strengths, mask)


def best_path_on_device(strengths: Tensor, mask: Tensor | None) -> Tensor:
    """Compute `best_path` without transfers and with few kernels per frame.

    Compares all pairs of states.
    """
    steps = torch.arange(strengths.shape[2], device=strengths.device)
    costs = (steps[:, None] - steps).abs() * (JUMP_COST / STEPS)  # to, from
    unvoiced = steps == len(steps) - 1
    costs = torch.where(unvoiced[:, None] != unvoiced, VOICING_COST, costs)
    best, origins = strengths[:, 0], []
    for t in range(1, strengths.shape[1]):
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


def best_path_on_cpu(strengths: Tensor, mask: Tensor | None) -> Tensor:
    """Compute `best_path` in numpy, which has less overhead for many small operations.

    The cost of a jump is proportional to its width, so the best previous state is the larger of two running
    maxima, from below and from above.
    """
    values = strengths.transpose(0, 1).float().numpy()
    frames, batch, states = values.shape
    valid = None if mask is None else mask.T[..., None].numpy()
    slope = np.arange(states - 1, dtype=np.float32) * np.float32(JUMP_COST / STEPS)
    best = np.empty_like(values)
    best[0] = values[0]
    for t in range(1, frames):
        voiced, unvoiced = best[t - 1, :, :-1], best[t - 1, :, -1:]
        below = np.maximum.accumulate(voiced + slope, axis=1) - slope
        above = np.maximum.accumulate((voiced - slope)[:, ::-1], axis=1)[:, ::-1] + slope
        np.maximum(np.maximum(below, above), unvoiced - VOICING_COST, out=best[t, :, :-1])
        np.maximum(unvoiced, voiced.max(axis=1, keepdims=True) - VOICING_COST, out=best[t, :, -1:])
        best[t] += values[t]
        if valid is not None:
            best[t] = np.where(valid[t], best[t], best[t - 1])
    costs = np.full((states, states), VOICING_COST, dtype=np.float32)
    costs[:-1, :-1] = np.abs(slope[:, None] - slope)
    costs[-1, -1] = 0
    path = np.empty((frames, batch), dtype=np.int64)
    path[-1] = best[-1].argmax(axis=1)
    for t in range(frames - 1, 0, -1):
        before = (best[t - 1] - costs[path[t]]).argmax(axis=1)
        path[t - 1] = before if valid is None else np.where(valid[t, :, 0], before, path[t])
    return torch.from_numpy(path.T.copy())


def _refined(strengths: Tensor, path: Tensor) -> Tensor:
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
    share = (now - left) / (right - left).clamp(min=1)
    return torch.lerp(position.gather(1, left), position.gather(1, right), share.clamp(0, 1))
