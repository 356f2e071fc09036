"""Taking a codec's delay away before samples are compared with samples."""

from __future__ import annotations

import numpy as np

MAX_DELAY_S = 0.15  # the longest delay looked for: more than any codec for calls has


def align(
    reference: np.ndarray, decoded: np.ndarray, sample_rate: int, max_delay_s: float = MAX_DELAY_S
) -> np.ndarray:
    """The decoded signal, begun where its correlation with the reference is largest, and as long as it.

    Shapes: reference `[S]`, decoded `[S']` -> `[S]`, with 0 where the decoded one has ended. Whole samples
    only. For codecs that code the waveform; one that makes its own phase correlates by chance.
    """
    return remove_delay(
        decoded, delay_samples(reference, decoded, round(max_delay_s * sample_rate)), reference.size
    )


def remove_delay(decoded: np.ndarray, delay: int, size: int) -> np.ndarray:
    """`size` samples of a signal from sample `delay` on. Shapes: `[S']` -> `[size]`, with 0 at the end."""
    shifted = decoded[delay : delay + size]
    return np.pad(shifted, (0, size - shifted.size))


def delay_samples(reference: np.ndarray, decoded: np.ndarray, max_delay: int) -> int:
    """By how many samples `decoded` comes after `reference`, 0 to `max_delay`; 0 where either is silent.

    The maximum of r[d] = sum over t of reference[t] decoded[t + d], all d at once by way of the spectrum.
    """
    if not (np.any(reference) and np.any(decoded)):
        return 0
    size = 1 << (reference.size + decoded.size).bit_length()  # so that nothing wraps around
    spectrum = np.conj(np.fft.rfft(reference, size)) * np.fft.rfft(decoded, size)
    return int(np.argmax(np.fft.irfft(spectrum, size)[: max_delay + 1]))
