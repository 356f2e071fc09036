"""Conversion between audio and frames of spectra.

Frame t of a `Framing` covers the hop tH … (t + 1)H, `before` samples before it and `after` samples after it,
with zeros beyond the ends of the signal. The window length is W = before + H + after. S = T·H samples thus
give T frames, and T frames give T·H samples. F is the number of frequencies.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.errors import OptionError
from codecvq.networks.interface import zero_padding

LONGEST_WINDOW = 2**17  # samples: almost three seconds at 44.1 kHz
MIN_ENVELOPE = 0.05  # smallest sum of squared windows: a stream fades in within some milliseconds


class Framing(nn.Module):
    """Windowed spectra and their inverse.

    If `after` is given, the window rises slowly and falls within the last quarter of a hop. It thus gives
    much weight to the newest samples, on which causal decoding depends most. (With Hann windows, small causal
    codecs had a mel loss of 6.1 instead of 5.1 after the same 250 steps, no better than with one more frame
    of lookahead.)

    Args:
        window_length: Samples per window.
        hop_length: Samples per frame.
        after: Samples of the window after the hop. By default half of the difference between window and hop,
            so that frames are centered on their hops and windows are Hann windows.
    """

    window: Tensor  # [W]

    def __init__(self, window_length: int, hop_length: int, after: int | None = None) -> None:
        super().__init__()
        self.window_length, self.hop_length = window_length, hop_length
        self.after = (window_length - hop_length) // 2 if after is None else after
        self.before = window_length - hop_length - self.after
        self.bins = window_length // 2 + 1
        window = torch.hann_window(window_length)
        if after is not None:
            fall = max(1, hop_length // 4)
            rise = window_length - fall
            window = torch.cat([torch.hann_window(2 * rise)[:rise], torch.hann_window(2 * fall)[fall:]])
        self.register_buffer("window", window, persistent=False)

    def spectra(self, wav: Tensor) -> Tensor:
        """Compute complex spectra: `[B, 1, S]` -> `[B, T, F]`, T = S/H."""
        return self.spectra_of_padded(F.pad(wav, (self.before, self.after)))

    def spectra_of_padded(self, wav: Tensor) -> Tensor:
        """Compute spectra of audio that includes context: `[B, 1, before + S + after]` -> `[B, T, F]`."""
        frames = wav[:, 0].float().unfold(1, self.window_length, self.hop_length)  # [B, T, W]
        return torch.fft.rfft(frames * self.window, dim=2)

    def overlap_add(self, spectra: Tensor, mask: Tensor | None, envelope: Tensor | None = None) -> Tensor:
        """Invert spectra: complex `[B, T, F]` -> `[B, 1, T * H]`.

        Divides by the sum of the squared windows of valid frames; `envelope` is this sum if it is already
        computed.
        """
        pieces = torch.fft.irfft(spectra, n=self.window_length, dim=2) * self.window  # [B, T, W]
        if envelope is None:
            envelope = self.envelope(spectra.shape[1], mask)
        return (self._fold(zero_padding(pieces, mask)) / envelope)[:, None]

    def envelope(self, frames: int, mask: Tensor | None) -> Tensor:
        """Sum the squared windows of valid frames: `[1, T * H]`, or `[B, T * H]` with a mask `[B, T]`."""
        valid = self.window.new_ones(1, frames) if mask is None else mask.to(self.window.dtype)
        return self._fold(valid[:, :, None] * self.window.square()).clamp(min=1e-4)

    def _fold(self, pieces: Tensor) -> Tensor:
        """Overlap-add pieces `[B, T, W]` and cut the ends beyond the signal: `[B, T * H]`."""
        batch, frames, _ = pieces.shape
        hops = -(-self.window_length // self.hop_length)
        pieces = F.pad(pieces, (0, hops * self.hop_length - self.window_length))
        folded = pieces.new_zeros(batch, frames + hops - 1, self.hop_length)
        for n, part in enumerate(pieces.split(self.hop_length, dim=2)):
            folded[:, n : n + frames] += part
        return folded.flatten(1)[:, self.before : self.before + frames * self.hop_length]

    @property
    def overlapping_frames(self) -> int:
        """Number of frames on either side that `overlap_add` adds to a hop, if frames are centered."""
        return math.ceil(self.before / self.hop_length)


def framing_of(window_length: int | None, hop_length: int, after: int | None = None) -> Framing:
    """Build a `Framing` from options; the window has four hops by default.

    Raises OptionError for lengths that do not match.
    """
    length = 4 * hop_length + hop_length % 2 if window_length is None else window_length
    if length < hop_length or (after is None and (length - hop_length) % 2):
        raise OptionError(
            f"spectral: window_length {length} and hop_length {hop_length}: the window must be at least one "
            "hop long, and the difference even. Usual is window_length = 4 * hop_length."
        )
    if length > LONGEST_WINDOW:
        raise OptionError(
            f"spectral: window_length is {length}, which is more than {LONGEST_WINDOW} samples."
        )
    return Framing(length, hop_length, after)


class Crossfade(nn.Module):
    """Spectra to audio without lookahead.

    The signal of frame t lasts from tH to (t + 3/2)H and starts with a crossfade of half a hop from the
    signal of frame t - 1. Frame -1 is silence.

    A window that extends to earlier hops, as in `Framing`, would delay audio until later frames arrive. A
    Hann window over future hops only would give most weight to frames that do not depend on these hops. Half
    a hop is short enough that the rest of the hop depends only on the newest frame, and long enough that the
    transition is inaudible.
    """

    fade: Tensor  # [H/2], from 0 to 1

    def __init__(self, hop_length: int) -> None:
        super().__init__()
        self.hop_length, self.overlap = hop_length, hop_length // 2
        self.length = hop_length + self.overlap
        self.bins = self.length // 2 + 1
        middles = torch.arange(self.overlap) + 0.5
        self.register_buffer(
            "fade", (middles * torch.pi / (2 * self.overlap)).sin().square(), persistent=False
        )

    def overlap_add(self, spectra: Tensor, mask: Tensor | None) -> Tensor:
        """Invert spectra: complex `[B, T, F]` -> `[B, 1, T * H]`.

        Ignores `mask`: padding is at the end, and valid frames do not depend on later ones.
        """
        del mask
        return self.continue_from(spectra.real.new_zeros(len(spectra), 1, self.overlap), spectra)[0]

    def continue_from(self, tail: Tensor, spectra: Tensor) -> tuple[Tensor, Tensor]:
        """Invert spectra after earlier frames, whose signal ends with `tail` `[B, 1, H/2]`.

        Returns audio `[B, 1, T * H]` and the end of the last frame's signal.
        """
        pieces = torch.fft.irfft(spectra, n=self.length, dim=2)  # [B, T, 3/2 H]
        hops, tails = pieces.split([self.hop_length, self.overlap], dim=2)
        start, rest = hops.split([self.overlap, self.hop_length - self.overlap], dim=2)
        before = torch.cat([tail, tails[:, :-1]], dim=1)  # tail of the previous frame
        start = self.fade * start + (1 - self.fade) * before
        return rearrange(torch.cat([start, rest], dim=2), "b t h -> b 1 (t h)"), tails[:, -1:]

    @property
    def overlapping_frames(self) -> int:
        """Number of previous frames that are added to a hop."""
        return 1


class AheadFraming(nn.Module):
    """Spectra to audio by overlap-add of windows that start with their hop.

    The Hann window of frame t covers the samples tH … tH + W. Frames up to t thus complete the audio up to
    (t + 1)H: there is no lookahead in frames. A frame must describe its whole window, and with a lookahead of
    W - H samples, an encoder reads all of it.

    W is a multiple of H. The audio is divided by the sum of the squared windows of all frames up to its own.
    """

    window: Tensor  # [W]
    envelopes: Tensor  # [W/H, H]: sum of the squared windows of a hop with 0, 1, … frames before it

    def __init__(self, window_length: int, hop_length: int) -> None:
        super().__init__()
        self.window_length, self.hop_length = window_length, hop_length
        self.bins = window_length // 2 + 1
        window = torch.hann_window(window_length)
        envelopes = window.square().view(-1, hop_length).cumsum(dim=0)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("envelopes", envelopes.clamp(min=MIN_ENVELOPE), persistent=False)

    def spectra(self, frames: Tensor) -> Tensor:
        """Compute complex spectra of windows: `[B, T, W]` -> `[B, T, F]`."""
        return torch.fft.rfft(frames * self.window, dim=2)

    def overlap_add(self, spectra: Tensor, first: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Invert spectra: complex `[B, T, F]` -> audio `[B, 1, T * H]`, and the tail `[B, W - H]` after it.

        Args:
            spectra: Spectra of frames.
            first: Number of earlier frames, `[B]` or `[1]`.
            tail: Tail after the earlier frames, `[B, W - H]`, or zeros `[1, W - H]`.
        """
        batch, frames, _ = spectra.shape
        overlap = self.window_length // self.hop_length - 1  # later hops of a window
        pieces = torch.fft.irfft(spectra, n=self.window_length, dim=2) * self.window  # [B, T, W]
        folded = pieces.new_zeros(batch, frames + overlap, self.hop_length)
        folded[:, :overlap] += tail.view(len(tail), overlap, self.hop_length)
        for n, part in enumerate(pieces.split(self.hop_length, dim=2)):
            folded[:, n : n + frames] += part
        number = first[:, None] + torch.arange(frames, device=first.device)
        wav = folded[:, :frames] / self.envelopes[number.clamp(max=overlap)]
        return wav.flatten(1)[:, None], folded[:, frames:].flatten(1)
