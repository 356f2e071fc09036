"""`CausalPitchWriter`, the last layer of a causal encoder, which writes the current pitch into the latents.

The offline `PitchWriter` depends on the whole recording: on its loudest sample, on the best path through all
frames, on the next voiced frame, and on all pitches by a least-squares fit. Here, each codec frame gets the
pitch of one moment, as of that moment:

- Frames are compared with the loudest one until now.
- The state of a frame is the end of the best path that ends there (the forward half of the Viterbi
  algorithm).
- An unvoiced frame has the pitch of the last voiced frame.

The moment is the middle of the last synthesis window of the codec frame (`AheadFraming`). Where the windows
of the pitch tracker reach beyond the lookahead there, the pitch of the latest possible frame is used. With
frames of 20 ms, 20 ms of lookahead, and windows of 30 ms every 10 ms, this affects only pitches below 110 Hz,
which are 10 ms late. The decoder learns a correction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.api.reach import Reach
from codecvq.networks.voice import pitch_code
from codecvq.networks.voice.best_path import JUMP_COST, VOICING_COST
from codecvq.networks.voice.correlation import Correlation
from codecvq.networks.voice.grid import LOWEST_HZ, STEPS, grid_size, hz_of
from codecvq.networks.voice.pitch import SHORTER_FROM_HZ, observations, refined
from codecvq.networks.voice.source import hold_last
from codecvq.streaming import State, StreamingModule, rows

ONSET_MARGIN = 0.3  # score; at an onset, an uncertain pitch is better than that of the last voiced frame
LATE_BELOW = 1.1  # shorter windows are used above this multiple of their lowest frequency


class CausalPitchWriter(nn.Module):
    """Writes the pitch of audio into three latent channels, frame by frame.

    Args:
        sample_rate: Samples per second.
        hop_length: Samples per codec frame H.
        upsampling: Frames of the pitch tracker per codec frame.
        lookahead_frames: Codec frames of future audio that are used.
        window_length: Samples of a synthesis window.
        channels: The three latent channels.
    """

    places: Tensor  # [3]: channel indices

    def __init__(
        self,
        sample_rate: int,
        hop_length: int,
        upsampling: int,
        lookahead_frames: int,
        window_length: int,
        channels: Sequence[int],
    ) -> None:
        super().__init__()
        step = hop_length // upsampling
        self.hop_length, self.upsampling, self.after = hop_length, upsampling, lookahead_frames * hop_length
        self.channels = list(channels)
        self.register_buffer("places", torch.tensor(self.channels), persistent=False)
        #: for all frames of the tracker
        self.long = Correlation(sample_rate, step, LOWEST_HZ)
        #: for one frame of the tracker per codec frame
        self.short = nn.ModuleList(Correlation(sample_rate, hop_length, hz) for hz in SHORTER_FROM_HZ)
        # middles of the windows of codec frame 0: of the last synthesis window, or earlier ones, so that
        # windows end with the lookahead
        moment = hop_length - step + window_length // 2
        latest = [
            hop_length + self.after - (max(each.length, each.hop_length) + 1) // 2
            for each in (self.long, *self.short)
        ]
        long_middle, *short_middles = (min(moment, middle) for middle in latest)
        #: first samples of the audio of `long` and of `short`, without context
        self.starts = [long_middle - hop_length + step // 2]
        self.starts += [middle - hop_length // 2 for middle in short_middles]
        self.before = max(0, *(each.margin - start for each, start in self._correlations()))
        self.reach = Reach(None, self.after)  # the best path depends on all earlier audio

    def _correlations(self) -> Iterator[tuple[Correlation, int]]:
        """Yield each correlation with its first sample."""
        return zip((self.long, *self.short), self.starts, strict=True)

    def forward(self, latents: Tensor, wav: Tensor, mask: Tensor | None) -> Tensor:
        """Write the pitch of audio `[B, 1, S]` into latents `[B, T, D]`, mask `[B, T]` -> `[B, T, D]`."""
        wav = wav[:, 0]
        if mask is not None:  # silence after the end, as after the end of the batch
            wav = wav * mask.repeat_interleave(self.hop_length, dim=1)
        values, _ = self.step(F.pad(wav, (self.before, self.after)), self.start(wav.device))
        return latents.index_copy(2, self.places, values.to(latents.dtype))

    def as_stream(self) -> StreamingModule:
        """Return a stream of the written values: audio `[B, 1, n]` -> `[B, 3, m]`."""
        from codecvq.networks.voice.streaming import PitchStream

        return PitchStream(self)

    def start(self, device: torch.device) -> State:
        """Return the state before the first frame, of one item."""
        return {
            "scores": torch.zeros(1, grid_size() + 1, device=device),  # of the best paths to each state
            "loudest": torch.zeros(1, device=device),  # largest magnitude until now
            "position": torch.full((1,), pitch_code.LOWEST, device=device),  # of the last voiced frame
        }

    @torch.compiler.disable  # the loop over frames would be unrolled
    @torch.no_grad()
    def step(self, window: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the values `[B, T, 3]` to write into T more frames, and the state after them.

        Args:
            window: Audio of these frames and around it, `[B, before + T * H + after]`.
            state: State before the frames. Its tensors have B rows or one row.
        """
        with torch.autocast(window.device.type, enabled=False):
            position, state = self._track(window.float(), state)
            return pitch_code.encode(position), state

    def _track(self, window: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the positions `[B, T]` of codec frames, and the state after them."""
        last_scores, last_loudest, last_position = (
            rows(state, name, len(window)) for name in ("scores", "loudest", "position")
        )
        frames = (window.shape[1] - self.before - self.after) // self.hop_length
        (strengths, peaks), *shorter = (
            each(self._audio(window, frames, each.margin, start), each.margin)
            for each, start in self._correlations()
        )
        loudest = torch.maximum(peaks.cummax(dim=1).values, last_loudest[:, None])
        scores = forward_scores(observations(strengths, peaks, loudest), last_scores)
        # once more, with the shorter windows at the moment
        last = slice(self.upsampling - 1, None, self.upsampling)
        strengths, (latest, latest_peaks) = strengths[:, last], shorter[0]
        low = hz_of(torch.arange(grid_size(), device=window.device)) < SHORTER_FROM_HZ[0] * LATE_BELOW
        latest = torch.where(low, strengths, latest)
        ends = reached(scores[:, last]) + observations(latest, latest_peaks, loudest[:, last])
        ends[..., -1] -= ONSET_MARGIN
        path = ends.argmax(dim=2)
        position = refined(strengths, path)
        for hz, (values, _) in zip(SHORTER_FROM_HZ, shorter, strict=True):
            position = torch.where(hz_of(position) > hz * LATE_BELOW, refined(values, path), position)
        held = torch.cat([last_position[:, None], position], dim=1)
        held = hold_last(held, F.pad(path < grid_size(), (1, 0), value=True))[:, 1:]
        return held, {"scores": scores[:, -1], "loudest": loudest[:, -1], "position": held[:, -1]}

    def _audio(self, window: Tensor, frames: int, margin: int, start: int) -> Tensor:
        """Return the audio of codec frames from sample `start` on, with `margin` samples on either side."""
        first = self.before + start - margin
        return window[:, first : first + frames * self.hop_length + 2 * margin]


def forward_scores(strengths: Tensor, scores: Tensor) -> Tensor:
    """Return the scores `[B, T, G + 1]` of the best paths that end in each state of each frame.

    The score of a path is the sum of its strengths `[B, T, G + 1]`, less costs of jumps, as in
    `codecvq.networks.voice.best_path`. It is relative to the best score of the frame, so scores do not
    grow with time. `scores` `[B, G + 1]` are those before the first frame.
    """
    frames = []
    for gain in strengths.unbind(dim=1):
        scores = reached(scores) + gain
        scores = scores - scores.amax(dim=1, keepdim=True)
        frames.append(scores)
    return torch.stack(frames, dim=1)


def reached(scores: Tensor) -> Tensor:
    """Return the best score from which each state is reached, less the cost of the jump: `[…, G + 1]`.

    The cost of a jump is proportional to its width, so the best previous state is the larger of two running
    maxima, from below and from above.
    """
    voiced, unvoiced = scores[..., :-1], scores[..., -1:]
    slope = torch.arange(voiced.shape[-1], device=scores.device) * (JUMP_COST / STEPS)
    below = (voiced + slope).cummax(dim=-1).values - slope
    above = (voiced - slope).flip(-1).cummax(dim=-1).values.flip(-1) + slope
    to_voiced = torch.maximum(torch.maximum(below, above), unvoiced - VOICING_COST)
    to_unvoiced = torch.maximum(unvoiced, voiced.amax(dim=-1, keepdim=True) - VOICING_COST)
    return torch.cat([to_voiced, to_unvoiced], dim=-1)
