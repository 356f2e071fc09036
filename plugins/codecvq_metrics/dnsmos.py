"""DNSMOS P.835 and P.808 (arXiv:2110.01763, arXiv:2010.15258) by the package `speechmos`, models inside.

Networks that scorer to the decoded clip alone and guess what people would say of it: `dnsmos` overall,
`dnsmos_sig` of the voice, `dnsmos_bak` of the background, and `dnsmos_p808` by the other recommendation's
scale. They were trained on noisy calls: a clean original of a quiet room has 3.2 or so, not 5, and a codec
can pass the original. A score means something only beside the original's, which `codecvq compare original`
tells. What was said, and by whom, is not measured.

A clip shorter than 9 s is repeated until it has them; a longer one is scored in windows of 9 s, one a second.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codecvq import MetricUndefined
from codecvq.audio import resample

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SAMPLE_RATE = 16_000  # Hz
COLUMNS = {  # ours -> the package's
    "dnsmos": "ovrl_mos",
    "dnsmos_sig": "sig_mos",
    "dnsmos_bak": "bak_mos",
    "dnsmos_p808": "p808_mos",
}


def make() -> Callable[[np.ndarray, np.ndarray, int], dict[str, float]]:
    """The metric `dnsmos`: four mean opinion scores of 1 to 5; the models are loaded once, here."""
    scorer = _load_scorer()

    def dnsmos(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> dict[str, float]:
        if not decoded.size:
            raise MetricUndefined("the clip has no samples")
        # The package refuses samples beyond full scale, which a decoder and a resampler may overshoot a bit.
        samples = np.clip(resample(decoded, sample_rate, SAMPLE_RATE), -1.0, 1.0)
        scores = scorer(samples, SAMPLE_RATE, False)
        return {ours: float(scores[theirs]) for ours, theirs in COLUMNS.items()}

    return dnsmos


def _load_scorer() -> Any:  # Any: a class of a package without types, made here, with sessions of our own
    import speechmos
    from speechmos.dnsmos import DNSMOS

    class SingleThreadDNSMOS(DNSMOS):
        """DNSMOS whose sessions keep to one thread: by default each takes a thread a core, and they spin."""

        def __init__(self) -> None:
            models = Path(speechmos.__file__).parent / "dnsmos_models"
            self.onnx_sess = _session(models / "sig_bak_ovr.onnx")
            self.p808_onnx_sess = _session(models / "model_v8.onnx")

    return SingleThreadDNSMOS()


def _session(model: str | os.PathLike[str]) -> InferenceSession:
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
