"""Silence: which frames of a recording are silent, and comfort noise in their place after decoding.

Letters: B streams (groups of channels), C channels of the codec, N codebooks, T frames, n samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec

SILENCE_DB = -60.0  # default level of silence, dBFS
HANGOVER_S = 0.2  # seconds of silence that are still coded; the decoder measures their level
FADE_S = 0.01  # seconds of a cross-fade between speech and comfort noise
LOWEST_DB, HIGHEST_DB = -75.0, -50.0  # dBFS of comfort noise: without a measurement, and at most
NOISE_SAMPLES = 1 << 17  # period of the noise

Samples = npt.NDArray[np.float32]
Codes = npt.NDArray[np.integer[Any]]
Silent = npt.NDArray[np.bool_]


class SilenceDetector:
    """Marks the silent frames of a recording.

    A frame is silent if no sample of it, of the 200 ms before it and of the frames in the 10 ms after it
    reaches the level `silence_db` in dBFS. The first 200 ms of a recording are thus never silent.
    """

    def __init__(self, codec: AudioCodec, silence_db: float = SILENCE_DB) -> None:
        self._hop, self._level = codec.hop_length, 10 ** (silence_db / 20)
        self._hangover = math.ceil(HANGOVER_S * codec.frame_rate)  # frames
        self._lead = max(1, math.ceil(FADE_S * codec.frame_rate))  # frames

    def watch(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Yield the blocks `[B, C, n]` of a recording, from its beginning, and measure them."""
        self._rest: Samples | None = None  # samples [B, C, n] of an incomplete frame
        self._loud: Silent | None = None  # [B, T], with frames before the first that are not taken
        for block in blocks:
            self._measure(block, 0)
            yield block
        if self._rest is not None:  # the end: no later frame is loud
            self._measure(self._rest[:, :, :0], -self._rest.shape[2] % self._hop)
            assert self._loud is not None
            self._loud = np.pad(self._loud, ((0, 0), (0, self._lead)))

    @property
    def ready(self) -> int:
        """Number of frames that `take` can return."""
        if self._loud is None:
            return 0
        return max(0, self._loud.shape[1] - self._hangover - self._lead)

    def take(self, frames: int) -> Silent:
        """Return which of the next frames are silent, `[B, frames]`."""
        assert self._loud is not None
        if not frames:
            return self._loud[:, :0]
        width = self._hangover + 1 + self._lead
        near = self._loud[:, : frames + width - 1]
        windows = np.lib.stride_tricks.sliding_window_view(near, width, axis=1)
        silent: Silent = np.logical_not(np.any(windows, axis=2))
        self._loud = self._loud[:, frames:]
        return silent

    def _measure(self, block: Samples, padding: int) -> None:
        rest = block if self._rest is None else np.concatenate([self._rest, block], axis=2)
        rest = np.pad(rest, ((0, 0), (0, 0), (0, padding)))
        frames = rest.shape[2] // self._hop
        whole = rest[:, :, : frames * self._hop].reshape(*rest.shape[:2], frames, self._hop)
        loud = (np.abs(whole) >= self._level).any(axis=(1, 3))
        if self._loud is None:  # the recording begins as after speech
            self._loud = np.ones((len(block), self._hangover), dtype=bool)
        self._rest, self._loud = rest[:, :, frames * self._hop :], np.concatenate([self._loud, loud], axis=1)


class ComfortNoise:
    """Decodes silent frames of consecutive chunks: codes of silence for the decoder, and noise in its output.

    The noise has the level of the 200 ms of audio before a silent run. The noise is the same in each
    decoding. The audio of other frames does not change, except for fading in within 10 ms after a run.

    Args:
        codec: the codec.
        first_frame: number of the first frame in the recording.
    """

    def __init__(self, codec: AudioCodec, first_frame: int = 0) -> None:
        self._codec, self._hop = codec, codec.hop_length
        self._fade = max(1, round(FADE_S * codec.sample_rate))  # samples
        self._measured = round(HANGOVER_S * codec.sample_rate)  # samples
        self._silence: Codes | None = None  # codes [N, block]
        self._noise: Samples | None = None
        self._at = first_frame * self._hop
        self._pending: Silent | None = None  # [B, n], per sample of frames that are not decoded yet
        self._gain: list[int] = []  # of each stream, from 0 (noise) to the samples of a fade
        self._before: list[Samples] = []  # [C, n]: the last audio of other frames
        self._level: list[float] = []

    def filled(self, codes: Codes, silent: Silent) -> Codes:
        """Return the codes `[B, N, T]` of a chunk with codes of silence in its silent frames `[B, T]`."""
        own = np.repeat(silent, self._hop, axis=1)
        self._pending = own if self._pending is None else np.concatenate([self._pending, own], axis=1)
        if not silent.any():
            return codes
        silence = self._codes_of_silence(codes.shape[1])
        repeated = np.resize(silence.T, (codes.shape[2], codes.shape[1])).T
        filled: Codes = np.where(silent[:, None], repeated, codes)
        return filled

    def added(self, samples: Samples) -> Samples:
        """Return the next decoded samples `[B, C, n]`, with noise in silent frames."""
        assert self._pending is not None or not samples.size
        if self._pending is None:
            return samples
        if not self._gain:
            streams, channels, _ = samples.shape
            self._gain, self._level = [self._fade] * streams, [10 ** (LOWEST_DB / 20)] * streams
            self._before = [np.zeros((channels, 0), dtype=np.float32)] * streams
        count = samples.shape[2]
        silent, self._pending = self._pending[:, :count], self._pending[:, count:]
        self._at += count
        return np.stack(
            [self._mixed(index, *pair) for index, pair in enumerate(zip(samples, silent, strict=True))]
        )

    def _mixed(self, index: int, samples: Samples, silent: Silent) -> Samples:
        """Return samples `[C, n]` of one stream with noise."""
        changes = np.flatnonzero(np.diff(silent)) + 1
        parts, start = [], self._at - samples.shape[1]
        for first, last in zip([0, *changes.tolist()], [*changes.tolist(), samples.shape[1]], strict=True):
            own, is_silent = samples[:, first:last], bool(last > first and silent[first])
            parts.append(self._part(index, own, is_silent, start + first))
        return np.concatenate(parts, axis=1)

    def _part(self, index: int, samples: Samples, silent: bool, start: int) -> Samples:
        """Return samples `[C, n]` of silent frames, or of other frames, with noise."""
        count = samples.shape[1]
        if silent:
            if (before := self._before[index]).size:
                rms = float(np.sqrt(np.mean(np.square(before, dtype=np.float64))))
                self._level[index] = min(max(rms, 1e-9), 10 ** (HIGHEST_DB / 20))
                self._before[index] = before[:, :0]
        else:
            joined = np.concatenate([self._before[index], samples], axis=1)
            self._before[index] = joined[:, -self._measured :]
            if self._gain[index] == self._fade:
                return samples
        step = -1 if silent else 1
        gains = np.clip(self._gain[index] + step * np.arange(1, count + 1), 0, self._fade)
        if count:
            self._gain[index] = int(gains[-1])
        share = (gains / self._fade).astype(np.float32)
        noise = self._noise_at(start, index, samples.shape) * np.float32(self._level[index])
        mixed: Samples = share * samples + (1 - share) * noise
        return mixed

    def _noise_at(self, start: int, index: int, shape: tuple[int, ...]) -> Samples:
        """Return white noise `[C, n]` with the level 1, which depends on the position and the channel."""
        if self._noise is None:
            draws = np.random.default_rng(0).random(NOISE_SAMPLES)
            self._noise = ((2 * draws - 1) * math.sqrt(3)).astype(np.float32)
        channels, count = shape
        shifts = 7919 * (index * channels + np.arange(channels))[:, None]
        noise: Samples = self._noise[(start + shifts + np.arange(count)) % NOISE_SAMPLES]
        return noise

    def _codes_of_silence(self, num_codebooks: int) -> Codes:
        """Return the codes `[N, block]` of digital silence, for one block of all strides."""
        if self._silence is None:
            import torch

            codec = self._codec
            block = math.lcm(*codec.strides)
            start = math.ceil(codec.frame_rate / 2 / block) * block  # in the middle of a second
            wav = torch.zeros(1, codec.channels, (2 * start + block) * self._hop)
            codes = codec.encode(wav, num_codebooks=num_codebooks)[0, :, start : start + block]
            self._silence = codes.cpu().numpy()
        return self._silence
