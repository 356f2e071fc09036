"""Audio to frames of spectra and back.

Frame t of a `Framing` covers the hop tH … (t + 1)H, `before` samples in front of it and `after` behind it,
zeros beyond the ends of the signal; the window is W = before + H + after long. So S = T·H samples make T
frames, and T frames make T·H samples. Letters: F frequencies of a frame.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.errors import OptionError
from codecvq.networks.interface import zero_padding

LONGEST_WINDOW = 2**17  # samples: nearly three seconds at 44.1 kHz


class Framing(nn.Module):
    """Windowed spectra and their inverse.

    Args: lengths in samples; `after` by default half of what the window has beside the hop, so that frames
    are centred on their hops, under Hann windows. Where `after` is given, the window rises slowly and falls
    within the last quarter of a hop: it hears the newest samples well, on which everything hangs that is
    decoded without waiting. (Under a Hann window small causal codecs had a mel loss of 6.1 instead of 5.1
    after the same 250 steps, no better than waiting for a frame more.)
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
        """Complex spectra: `[B, 1, S]` -> `[B, T, F]`, T = S/H."""
        padded = F.pad(wav[:, 0].float(), (self.before, self.after))
        frames = padded.unfold(1, self.window_length, self.hop_length)  # [B, T, W]
        return torch.fft.rfft(frames * self.window, dim=2)

    def overlap_add(self, spectra: Tensor, mask: Tensor | None, envelope: Tensor | None = None) -> Tensor:
        """The inverse: `[B, T, F]` complex -> `[B, 1, T * H]`, divided by the sum of the squared windows of
        real frames, `envelope` where it is at hand.
        """
        pieces = torch.fft.irfft(spectra, n=self.window_length, dim=2) * self.window  # [B, T, W]
        if envelope is None:
            envelope = self.envelope(spectra.shape[1], mask)
        return (self._fold(zero_padding(pieces, mask)) / envelope)[:, None]

    def envelope(self, frames: int, mask: Tensor | None) -> Tensor:
        """The sum of the squared windows of `frames` frames, of the real ones with a mask `[B, T]`: `[1, T *
        H]` or `[B, T * H]`.
        """
        real = self.window.new_ones(1, frames) if mask is None else mask.to(self.window.dtype)
        return self._fold(real[:, :, None] * self.window.square()).clamp(min=1e-4)

    def _fold(self, pieces: Tensor) -> Tensor:
        """Pieces `[B, T, W]` added where they belong, without the outer overlap: `[B, T * H]`."""
        batch, frames, _ = pieces.shape
        hops = -(-self.window_length // self.hop_length)
        pieces = F.pad(pieces, (0, hops * self.hop_length - self.window_length))
        folded = pieces.new_zeros(batch, frames + hops - 1, self.hop_length)
        for n, part in enumerate(pieces.split(self.hop_length, dim=2)):
            folded[:, n : n + frames] += part
        return folded.flatten(1)[:, self.before : self.before + frames * self.hop_length]

    @property
    def overlapping_frames(self) -> int:
        """Frames on either side of a hop that `overlap_add` adds to it, where frames are centred."""
        return math.ceil(self.before / self.hop_length)


def framing_of(window_length: int | None, hop_length: int, after: int | None = None) -> Framing:
    """A `Framing` of lengths that were given, by default of four hops. Raises OptionError for lengths that do
    not fit.
    """
    length = 4 * hop_length + hop_length % 2 if window_length is None else window_length
    if length < hop_length or (after is None and (length - hop_length) % 2):
        raise OptionError(
            f"spectral: window_length {length} and hop_length {hop_length}: the window must be at least a "
            "hop, and the difference even. Usual is window_length = 4 * hop_length."
        )
    if length > LONGEST_WINDOW:
        raise OptionError(
            f"spectral: window_length is {length}, which is more than {LONGEST_WINDOW} samples."
        )
    return Framing(length, hop_length, after)


class Crossfade(nn.Module):
    """Spectra to audio without a look-ahead: the signal of frame t lasts from tH to (t + 3/2)H, and follows
    that of frame t - 1 in a fade over half a hop.

    A window that covers the hops before its own, as `Framing` has it, would make audio wait for frames to
    come; one that covers only hops to come, in the shape of a Hann window, would give most weight to frames
    that have not heard them. Half a hop is short enough that the rest of the hop is the newest frame's alone,
    and long enough that the seam is not heard. Frame -1 is silence.
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
        """`[B, T, F]` complex -> `[B, 1, T * H]`. Padding is at the end, where no real frame hears it: `mask`
        changes nothing.
        """
        del mask
        pieces = torch.fft.irfft(spectra, n=self.length, dim=2)  # [B, T, 3/2 H]
        hops, tails = pieces.split([self.hop_length, self.overlap], dim=2)
        start, rest = hops.split([self.overlap, self.hop_length - self.overlap], dim=2)
        before = F.pad(tails[:, :-1], (0, 0, 1, 0))  # of the frame before each
        start = self.fade * start + (1 - self.fade) * before
        return rearrange(torch.cat([start, rest], dim=2), "b t h -> b 1 (t h)")

    @property
    def overlapping_frames(self) -> int:
        """Frames before a hop's own that are added to it."""
        return 1
