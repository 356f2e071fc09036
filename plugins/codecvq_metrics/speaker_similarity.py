"""How much the decoded voice is the original's: cosine of two speaker embeddings, by `Resemblyzer`.

The embedding (GE2E, arXiv:1710.10467; three LSTM layers over mel spectrograms of 16 kHz, 256 dimensions,
non-negative) is the mean over windows of 1.6 s. Both clips are samples whole and at one level, -30 dBFS, so
that a gain changes nothing. The package's own preprocessing makes quiet clips louder and leaves loud ones,
and cuts pauses by a voice detector, which cuts a codec's clip elsewhere than the original: scores of tools
that use it are some hundredths lower. 1 is the same voice; two people have about 0.5 to 0.75, since with
non-negative embeddings nothing comes near 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from codecvq import MetricUndefined
from codecvq.audio import resample
from codecvq.errors import PluginError

SAMPLE_RATE = 16_000  # Hz
RMS_LEVEL = 10 ** (-30 / 20)  # RMS of what the network hears: -30 dBFS, as in its training
MIN_DURATION_S = 0.4  # from less, padded to 1.6 s with zeros, no voice is known
SILENCE_LEVEL = 1e-4  # -80 dBFS


def make() -> Callable[[np.ndarray, np.ndarray, int], dict[str, float]]:
    """The metric `speaker_similarity`, 0 to 1; the network is loaded once, here."""
    encoder = _encoder_class()("cpu", verbose=False)  # fast enough: 10 ms a second of audio

    def voice(name: str, signal: np.ndarray, sample_rate: int) -> np.ndarray:
        samples = resample(signal, sample_rate, SAMPLE_RATE)
        if samples.size < MIN_DURATION_S * SAMPLE_RATE:
            raise MetricUndefined(
                f"{samples.size / SAMPLE_RATE:.3f} s are shorter than the {MIN_DURATION_S} s of a voice"
            )
        if np.abs(samples).max() < SILENCE_LEVEL:
            raise MetricUndefined(f"the {name} is silent")
        # [256], of length 1
        return encoder.embed_utterance(samples * (RMS_LEVEL / np.sqrt(np.square(samples).mean())))

    def similarity(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> dict[str, float]:
        both = voice("reference", reference, sample_rate) @ voice("decoded clip", decoded, sample_rate)
        return {"speaker_similarity": min(1.0, float(both))}  # rounding may leave a bit more

    return similarity


def _encoder_class() -> Callable[..., Any]:  # Any: a class of a package without types
    """Its network, or a PluginError that says how to mend a well-known fault of what it imports."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a name of scipy's that moved
            from resemblyzer import VoiceEncoder
    except ModuleNotFoundError as error:
        if error.name != "pkg_resources":
            raise
        raise PluginError(
            "the package webrtcvad imports pkg_resources, which setuptools no longer has. Replace it with: "
            "pip uninstall webrtcvad && pip install --force-reinstall webrtcvad-wheels"
        ) from error
    return VoiceEncoder
