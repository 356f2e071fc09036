"""`CausalSource`: the source of speech in windows that depend only on the pitch of earlier frames.

The window of frame t covers the samples tH … tH + W, and its pitch is that of its middle. Up to the middle,
the source follows the pitch of this and all earlier frames, interpolated between the middles. After it, the
pitch and the voicing of frame t continue. The next frame replaces this continuation by what its pitch gives,
and a Hann window crossfades the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codecvq.networks.voice.grid import STEPS, hz_of
from codecvq.networks.voice.source import noise, pulses_at
from codecvq.streaming import State, rows

LARGEST_SLIDE = STEPS / 6  # steps; the pitch does not slide over a larger difference but jumps


def without_jumps(before: Tensor, now: Tensor) -> Tensor:
    """Return the positions `before`, with those replaced by `now` that are far from it."""
    return torch.where((before - now).abs() > LARGEST_SLIDE, now, before)


@dataclass(frozen=True)
class CausalSource:
    """Windows of pulses and noise, one per frame.

    Args:
        window_length: Samples per window W, even and at least 2H.
        hop_length: Samples per frame H.
        sample_rate: Samples per second.
    """

    window_length: int
    hop_length: int
    sample_rate: int

    def start(self, device: torch.device) -> State:
        """Return the state before the first frame, of one item: zeros."""
        return {
            "cycles": torch.zeros(1, dtype=torch.float64, device=device),  # at the last middle
            "position": torch.zeros(1, device=device),  # pitch of the last frame
            "voice": torch.zeros(1, device=device),  # whether the last frame is voiced
            # samples before the last middle that the next window contains
            "samples": torch.zeros(1, self.window_length // 2 - self.hop_length, device=device),
        }

    def step(
        self, position: Tensor, voice: Tensor, noise_windows: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Return the windows `[B, T, W]` of T more frames, and the state after them.

        Args:
            position: Pitch of the frames, `[B, T]`.
            voice: 1 in voiced frames, 0 in others, `[B, T]`.
            noise_windows: White noise of the windows, `[B, T, W]` or `[1, T, W]`.
            state: State before the frames. Its tensors have B rows or one row.
        """
        hop, half, batch = self.hop_length, self.window_length // 2, len(position)
        last_cycles, last_position, last_voice, last_samples = (
            rows(state, name, batch) for name in ("cycles", "position", "voice", "samples")
        )
        # from each middle to the next one
        share = (torch.arange(hop, device=position.device) + 0.5) / hop
        before = torch.cat([last_position[:, None], position[:, :-1]], dim=1)
        slide = torch.lerp(without_jumps(before, position)[..., None], position[..., None], share)
        rates = hz_of(slide) / self.sample_rate  # [B, T, H] cycles per sample
        # Sums of frames are added one by one, so that blocks of a stream have the roundings of the whole.
        since_middle = rates.double().cumsum(dim=2)
        sums = since_middle[..., -1]
        at_middle = torch.cat([sums[:, :1] + last_cycles[:, None], sums[:, 1:]], dim=1).cumsum(dim=1)
        starts = torch.cat([last_cycles[:, None], at_middle[:, :-1]], dim=1)
        cycles, rates = (starts[..., None] + since_middle).flatten(1), rates.flatten(1)
        before = torch.cat([last_voice[:, None], voice[:, :-1]], dim=1)
        voicing = torch.lerp(before[..., None], voice[..., None], share).flatten(1)
        noise_before = noise_windows[..., half - hop : half].flatten(1)
        samples = voicing * pulses_at(cycles, rates) + (1 - voicing) * noise_before
        samples = torch.cat([last_samples, samples], dim=1)

        # from each middle to the end of its window
        # in float64: the rounding of float32 functions depends on the number of elements
        rate = (hz_of(position.double()) / self.sample_rate)[..., None].expand(-1, -1, half)
        ahead = at_middle[..., None] + rate * torch.arange(1, half + 1, device=position.device)
        continued = torch.lerp(noise_windows[..., half:], pulses_at(ahead, rate.float()), voice[..., None])
        return torch.cat([samples.unfold(1, half, hop), continued], dim=2), {
            "cycles": at_middle[:, -1],
            "position": position[:, -1],
            "voice": voice[:, -1],
            "samples": samples[:, samples.shape[1] - (half - hop) :],
        }

    def noise_windows(self, frames: int, first: Tensor, start: Tensor | int) -> Tensor:
        """Return windows of noise for frames `first`, `first` + 1, …: `[B, T, W]` for `first` `[B]`.

        The noise begins at sample `start` of its series at frame 0.
        """
        hop, length = self.hop_length, self.window_length
        begin = start + first[:, None] * hop
        samples = noise((frames - 1) * hop + length, begin, first.device)
        return samples.unfold(1, length, hop)
