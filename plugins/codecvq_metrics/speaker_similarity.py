"""Similarity of the decoded voice to the original: cosine of two speaker embeddings of `Resemblyzer`.

The embedding (GE2E, arXiv:1710.10467; three LSTM layers over mel spectrograms of 16 kHz audio, 256
non-negative dimensions) is a mean over windows of 1.6 s. Both clips are embedded whole and at the same level,
-30 dBFS, so a gain has no effect. The package's own preprocessing amplifies only quiet clips and cuts pauses
with a voice detector, which cuts original and decoded clip differently. Scores of tools that use it are some
hundredths lower.

1 means the same voice. Two different speakers have about 0.5 to 0.75: non-negative embeddings do not get
close to 0.
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
RMS_LEVEL = 10 ** (-30 / 20)  # RMS of the network's input: -30 dBFS, as in its training
MIN_DURATION_S = 0.4  # shorter clips, zero-padded to 1.6 s, do not identify a voice
SILENCE_LEVEL = 1e-4  # -80 dBFS


def make() -> Callable[[np.ndarray, np.ndarray, int], dict[str, float]]:
    """The metric `speaker_similarity`, 0 to 1. Loads the network once."""
    encoder = _encoder_class()("cpu", verbose=False)  # fast enough: 10 ms per second of audio

    def voice(name: str, signal: np.ndarray, sample_rate: int) -> np.ndarray:
        samples = resample(signal, sample_rate, SAMPLE_RATE)
        if samples.size < MIN_DURATION_S * SAMPLE_RATE:
            raise MetricUndefined(
                f"the {name} has {samples.size / SAMPLE_RATE:.3f} s, but a voice needs {MIN_DURATION_S} s"
            )
        if np.abs(samples).max() < SILENCE_LEVEL:
            raise MetricUndefined(f"the {name} is silent")
        # [256], of length 1
        return encoder.embed_utterance(samples * (RMS_LEVEL / np.sqrt(np.square(samples).mean())))

    def similarity(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> dict[str, float]:
        cosine = voice("reference", reference, sample_rate) @ voice("decoded clip", decoded, sample_rate)
        return {"speaker_similarity": min(1.0, float(cosine))}  # rounding may exceed 1

    return similarity


def _encoder_class() -> Callable[..., Any]:  # Any: a class of a package without types
    """The network's class. Raises PluginError with a fix for a known fault of its dependencies."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a scipy function that moved
            from resemblyzer import VoiceEncoder
    except ModuleNotFoundError as error:
        if error.name != "pkg_resources":
            raise
        raise PluginError(
            "the package webrtcvad imports pkg_resources, which setuptools no longer provides. Replace it: "
            "pip uninstall webrtcvad && pip install --force-reinstall webrtcvad-wheels"
        ) from error
    return VoiceEncoder
