"""Features of audio frames, the input of the spectral network's encoder."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from codecvq.errors import OptionError
from codecvq.networks.fourier import mel_filters
from codecvq.networks.spectral.framing import LONGEST_WINDOW, Framing, framing_of
from codecvq.networks.spectral.parts import FrontEnd

FLOOR = 1e-5  # smallest magnitude before the logarithm: -100 dB


def make_log_mel(
    *,
    sample_rate: int,
    hop_length: int,
    causal: bool,
    lookahead_frames: int,
    window_length: int | None = None,
    num_mels: int = 100,
    detail_window_length: int = 0,
) -> FrontEnd:
    """Build log-mel features of one window, or of two.

    Args:
        sample_rate: Samples per second.
        hop_length: Samples per frame.
        causal: Whether windows end with their hop.
        lookahead_frames: Number of hops after its own hop at which a causal window ends.
        window_length: Samples per window, by default four hops.
        num_mels: Number of mel bands.
        detail_window_length: Samples of a second, shorter window for onsets, which the long one smears; 0:
            none.
    """
    framing = _framing(window_length, hop_length, causal, lookahead_frames)
    if not 1 <= num_mels <= framing.bins or not 0 <= detail_window_length <= LONGEST_WINDOW:
        raise OptionError(
            f"spectral: num_mels is {num_mels} and detail_window_length {detail_window_length}; needed are 1 "
            f"to {framing.bins} bands, the number of frequencies of the window, and at most "
            f"{LONGEST_WINDOW} samples."
        )
    front = LogMel(framing, sample_rate, num_mels)
    if not detail_window_length:
        return front
    after = lookahead_frames * hop_length if causal else None
    return ConcatFeatures(front, DetailMel(detail_window_length, hop_length, sample_rate, num_mels, after))


def make_stft(
    *,
    sample_rate: int,
    hop_length: int,
    causal: bool,
    lookahead_frames: int,
    window_length: int | None = None,
) -> FrontEnd:
    """Build compressed spectra of one window, by default of four hops."""
    del sample_rate
    return CompressedStft(_framing(window_length, hop_length, causal, lookahead_frames))


def _framing(window_length: int | None, hop_length: int, causal: bool, lookahead_frames: int) -> Framing:
    if not causal:
        return framing_of(window_length, hop_length)
    framing = framing_of(window_length, hop_length, lookahead_frames * hop_length)
    if not 0 <= framing.after <= framing.window_length - hop_length:
        raise OptionError(
            f"spectral: lookahead_frames is {lookahead_frames}; with a window of {framing.window_length} "
            f"samples and hops of {hop_length}, needed is 0 to {framing.window_length // hop_length - 1}."
        )
    return framing


class LogMel(FrontEnd):
    """Log-mel features: `[B, 1, S]` -> `[B, T, F]`.

    Mel filters (Slaney's scale) on magnitudes, and decimal logarithms scaled to -1.5 … about 1.
    """

    mel: Tensor  # [bins, F]; saved with the weights, so that codes do not depend on a library version

    def __init__(self, framing: Framing, sample_rate: int, num_mels: int) -> None:
        super().__init__()
        self.framing = framing
        self.num_features, self.before, self.after = num_mels, framing.before, framing.after
        self.register_buffer("mel", mel_filters(sample_rate, framing.window_length, num_mels))

    def forward(self, wav: Tensor) -> Tensor:
        """Compute features of audio: `[B, 1, S]` -> `[B, T, F]`."""
        return self.of_padded(F.pad(wav, (self.before, self.after)))

    def of_padded(self, wav: Tensor) -> Tensor:
        """Compute features of audio with context: `[B, 1, before + S + after]` -> `[B, T, F]`."""
        magnitudes = self.framing.spectra_of_padded(wav).abs() / self.framing.window.sum()
        return (magnitudes @ self.mel).clamp(min=FLOOR).log10() / 2 + 1


class DetailMel(FrontEnd):
    """Log-mel features of a short window at several positions per frame: `[B, 1, S]` -> `[B, T, R * F]`.

    R is the number of windows per frame, F the number of bands that contain a frequency.

    Args:
        window_length: Samples per window.
        hop_length: Samples per frame.
        sample_rate: Samples per second.
        num_mels: Number of mel bands of the long window; the short one has fewer in proportion.
        after: As in `Framing`, for the last of the R windows.
    """

    def __init__(
        self, window_length: int, hop_length: int, sample_rate: int, num_mels: int, after: int | None = None
    ) -> None:
        super().__init__()
        # the smallest divisor of the hop for which windows overlap by half
        divisors = (r for r in range(1, hop_length + 1) if hop_length % r == 0)
        self.windows_per_frame = next(
            (r for r in divisors if 2 * hop_length <= window_length * r), hop_length
        )
        step = hop_length // self.windows_per_frame
        if window_length < step or (after is None and (window_length - step) % 2):
            raise OptionError(
                f"spectral: detail_window_length {window_length} does not fit hop_length {hop_length}: the "
                f"window must have at least {step} samples, and the difference to {step} must be even. "
                "Usual are 256 and 512 for a hop of 320."
            )
        framing = Framing(window_length, step, None if after is None else min(after, window_length - step))
        self.log_mel = LogMel(framing, sample_rate, num_mels * window_length // (4 * hop_length))
        self.num_features = self.windows_per_frame * self.log_mel.mel.shape[1]
        self.before, self.after = framing.before, framing.after

    def forward(self, wav: Tensor) -> Tensor:
        """Compute features of audio: `[B, 1, S]` -> `[B, T, R * F]`."""
        return self.of_padded(F.pad(wav, (self.before, self.after)))

    def of_padded(self, wav: Tensor) -> Tensor:
        """Compute features of audio with context: `[B, 1, before + S + after]` -> `[B, T, R * F]`."""
        return rearrange(self.log_mel.of_padded(wav), "b (t r) f -> b t (r f)", r=self.windows_per_frame)


class ConcatFeatures(FrontEnd):
    """Concatenates two kinds of features for each frame."""

    def __init__(self, first: FrontEnd, second: FrontEnd) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.num_features = first.num_features + second.num_features
        self.before, self.after = max(first.before, second.before), max(first.after, second.after)

    def forward(self, wav: Tensor) -> Tensor:
        """Compute features of audio: `[B, 1, S]` -> `[B, T, F]`."""
        return self.of_padded(F.pad(wav, (self.before, self.after)))

    def of_padded(self, wav: Tensor) -> Tensor:
        """Compute features of audio with context: `[B, 1, before + S + after]` -> `[B, T, F]`."""
        parts = []
        for front in (self.first, self.second):
            start, end = self.before - front.before, wav.shape[2] - (self.after - front.after)
            parts.append(front.of_padded(wav[:, :, start:end]))
        return torch.cat(parts, dim=2)


class CompressedStft(FrontEnd):
    """Real and imaginary parts of spectra with magnitudes to the power 0.3.

    Shapes: `[B, 1, S]` -> `[B, T, 2 * bins]`.
    """

    def __init__(self, framing: Framing) -> None:
        super().__init__()
        self.framing = framing
        self.num_features, self.before, self.after = 2 * framing.bins, framing.before, framing.after

    def forward(self, wav: Tensor) -> Tensor:
        """Compute features of audio: `[B, 1, S]` -> `[B, T, 2 * bins]`."""
        return self.of_padded(F.pad(wav, (self.before, self.after)))

    def of_padded(self, wav: Tensor) -> Tensor:
        """Compute features of audio with context: `[B, 1, before + S + after]` -> `[B, T, 2 * bins]`."""
        spectra = self.framing.spectra_of_padded(wav) / self.framing.window.sum()
        scaled = spectra * spectra.abs().clamp(min=FLOOR).pow(-0.7)
        return torch.cat([scaled.real, scaled.imag], dim=2)
