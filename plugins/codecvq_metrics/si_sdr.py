"""The scale-invariant signal-to-distortion ratio of Le Roux et al. (arXiv:1811.02508, eq. 3), in dB.

With reference s and decoded d, the target is a s with a = <d, s> / <s, s>: the projection of d on s.
The ratio is 10 log10(|a s|² / |d - a s|²), which does not depend on the gain of d. No mean is subtracted: an
offset counts as distortion.

Decoders that synthesize their own phase, as vocoder-like codecs do, have a low or negative SI-SDR even if
they sound good. The signals are not aligned: a delay of one sample counts in full.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codecvq import MetricUndefined


def make() -> Callable[[np.ndarray, np.ndarray, int], dict[str, float]]:
    """The metric `si_sdr`, in dB."""
    return si_sdr


def si_sdr(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> dict[str, float]:
    """`{"si_sdr": dB}` of one clip. Raises MetricUndefined if it would be infinite. Shapes: both `[S]`."""
    s, d = reference.astype(np.float64), decoded.astype(np.float64)
    energy = float(s @ s)
    if energy == 0:
        raise MetricUndefined("the reference is silent")
    target = (float(d @ s) / energy) * s
    signal, distortion = float(target @ target), float(np.square(d - target).sum())
    if signal == 0:
        raise MetricUndefined("the decoded clip is silent or orthogonal to the reference")
    if distortion == 0:
        raise MetricUndefined("the decoded clip is a scaled copy of the reference: the ratio is infinite")
    return {"si_sdr": 10 * float(np.log10(signal / distortion))}
