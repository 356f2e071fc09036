"""PESQ by the package `pesq` (ITU-T's code): wideband P.862.2 at 16 kHz, narrowband P.862.1 at 8 kHz.

The two are different scales; a score is comparable only together with its band. soxr resamples both signals
at very high quality. The package then applies the time alignment of the recommendation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codecvq import MetricUndefined
from codecvq.audio import resample

#: P.862.3 recommends signals of 8 to 30 s. The upper limit is enforced here: the reference code stores at
#: most 50 utterances in unchecked arrays, and 60 utterances (a minute of single words) caused a segmentation
#: fault. An utterance and its pause take at least 0.4 s, and speech of up to 30 s has fewer than 50 of them.
MAX_DURATION_S = 30.0
MIN_DURATION_S = 0.25  # the reference code rejects shorter signals
SILENCE_LEVEL = 1e-4  # -80 dBFS: inaudible, below the quantization step of 14-bit audio

Score = Callable[[np.ndarray, np.ndarray, int], dict[str, float]]


def wideband() -> Score:
    """P.862.2 (`pesq_wb`): a mean opinion score (MOS-LQO) from 1.02 to 4.64."""
    return lambda reference, decoded, sample_rate: {"pesq_wb": score(reference, decoded, sample_rate, "wb")}


def narrowband() -> Score:
    """P.862.1 (`pesq_nb`): a mean opinion score (MOS-LQO) from 1.02 to 4.55, of the band up to 4 kHz."""
    return lambda reference, decoded, sample_rate: {"pesq_nb": score(reference, decoded, sample_rate, "nb")}


def score(reference: np.ndarray, decoded: np.ndarray, sample_rate: int, band: str) -> float:
    """MOS-LQO of one clip; `band` is "wb" or "nb". Shapes: both `[S]`.

    Raises MetricUndefined if PESQ does not apply: wrong length, low sample rate, silence.
    """
    from pesq import BufferTooShortError, NoUtterancesError, pesq

    _check(reference, decoded, sample_rate, band)
    rate = 16_000 if band == "wb" else 8_000
    try:
        return float(
            pesq(rate, resample(reference, sample_rate, rate), resample(decoded, sample_rate, rate), band)
        )
    except (NoUtterancesError, BufferTooShortError) as error:
        text = error.args[0] if error.args else error
        raise MetricUndefined(text.decode() if isinstance(text, bytes) else str(text)) from error


def _check(reference: np.ndarray, decoded: np.ndarray, sample_rate: int, band: str) -> None:
    duration_s = reference.size / sample_rate
    if band == "wb" and sample_rate < 16_000:
        raise MetricUndefined(
            f"wideband PESQ needs a sample rate of at least 16 kHz, not {sample_rate} Hz; use pesq_nb"
        )
    if duration_s > MAX_DURATION_S:
        raise MetricUndefined(
            f"{duration_s:.1f} s is longer than PESQ's {MAX_DURATION_S:.0f} s; evaluate shorter clips"
        )
    if duration_s < MIN_DURATION_S:
        raise MetricUndefined(f"{duration_s:.3f} s is shorter than PESQ's {MIN_DURATION_S} s")
    for name, signal in (("reference", reference), ("decoded clip", decoded)):
        if np.abs(signal).max() < SILENCE_LEVEL:
            raise MetricUndefined(f"the {name} is silent")
