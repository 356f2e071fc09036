"""Short-time magnitude spectra whose scale does not depend on the window length."""

from __future__ import annotations

import numpy as np

FLOOR = 1e-5  # magnitude, 100 dB below a full-scale sine; lower magnitudes are raised to it


def magnitudes(signal: np.ndarray, window: int, hop: int) -> np.ndarray:
    """Magnitude spectra `[frames, window // 2 + 1]`, in which a full-scale sine has the peak 1.

    Frames are centered on the samples 0, hop, 2 hop …, with zeros beyond both ends, so that all samples have
    equal weight. Shapes: signal `[S]`, S > 0.
    """
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    padded = np.pad(signal.astype(np.float64), (window // 2, window))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[: signal.size : hop]
    return np.abs(np.fft.rfft(frames * hann, axis=-1)) * (2 / hann.sum())


def mel_filters(bands: int, window: int, sample_rate: int) -> np.ndarray:
    """Mel filters `[window // 2 + 1, bands]`: triangles of height 1, evenly spaced in mel.

    They span 0 to half the sample rate. The mel scale is 2595 log10(1 + f / 700).
    """
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    bins_hz = np.arange(window // 2 + 1)[:, None] * (sample_rate / window)
    rising = (bins_hz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None)
