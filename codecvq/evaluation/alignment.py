"""Removal of the delay of a codec before a comparison of samples."""

from __future__ import annotations

import numpy as np

MAX_DELAY_S = 0.15  # maximum delay of the search; no codec for telephone calls has a longer delay


def align(
    reference: np.ndarray, decoded: np.ndarray, sample_rate: int, max_delay_s: float = MAX_DELAY_S
) -> np.ndarray:
    """Return the decoded signal, shifted to maximum correlation with the reference and cut to its length.

    Shapes: reference `[S]`, decoded `[S']` -> `[S]`, zero-padded at the end. The shift is a whole number of
    samples. Use it only for codecs that preserve the waveform: with a synthesized phase, the correlation is
    random.
    """
    return remove_delay(
        decoded, delay_samples(reference, decoded, round(max_delay_s * sample_rate)), reference.size
    )


def remove_delay(decoded: np.ndarray, delay: int, size: int) -> np.ndarray:
    """Return `size` samples of a signal from sample `delay` on.

    Shapes: `[S']` -> `[size]`, zero-padded at the end.
    """
    shifted = decoded[delay : delay + size]
    return np.pad(shifted, (0, size - shifted.size))


def delay_samples(reference: np.ndarray, decoded: np.ndarray, max_delay: int) -> int:
    """Return the delay of `decoded` in samples, 0 to `max_delay`; 0 if either signal is silent.

    The delay maximizes r[d] = sum over t of reference[t] decoded[t + d], computed by FFT for all d.
    """
    if not (np.any(reference) and np.any(decoded)):
        return 0
    size = 1 << (reference.size + decoded.size).bit_length()  # avoids circular wrap-around
    spectrum = np.conj(np.fft.rfft(reference, size)) * np.fft.rfft(decoded, size)
    return int(np.argmax(np.fft.irfft(spectrum, size)[: max_delay + 1]))
