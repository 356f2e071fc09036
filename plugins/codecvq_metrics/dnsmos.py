"""DNSMOS P.835 and P.808 (arXiv:2110.01763, arXiv:2010.15258) by the package `speechmos`, models included.

Networks rate the decoded clip alone, without the reference: `dnsmos` overall, `dnsmos_sig` the voice,
`dnsmos_bak` the background, `dnsmos_p808` on the scale of P.808. They were trained on noisy calls. A clean
original from a quiet room has about 3.2, not 5, and a codec can exceed the original. A score is meaningful
only next to the original's score, from `codecvq compare original`. The metric does not measure what is said
or by whom.

A clip shorter than 9 s is repeated to that length. A longer clip is scored in windows of 9 s, one per second.
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
COLUMNS = {  # column of the metric -> key of speechmos
    "dnsmos": "ovrl_mos",
    "dnsmos_sig": "sig_mos",
    "dnsmos_bak": "bak_mos",
    "dnsmos_p808": "p808_mos",
}


def make() -> Callable[[np.ndarray, np.ndarray, int], dict[str, float]]:
    """The metric `dnsmos`: four mean opinion scores from 1 to 5. Loads the models once."""
    scorer = _load_scorer()

    def dnsmos(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> dict[str, float]:
        if not decoded.size:
            raise MetricUndefined("the clip has no samples")
        # The package rejects samples beyond full scale, which decoders and resamplers may slightly exceed.
        samples = np.clip(resample(decoded, sample_rate, SAMPLE_RATE), -1.0, 1.0)
        scores = scorer(samples, SAMPLE_RATE, False)
        return {ours: float(scores[theirs]) for ours, theirs in COLUMNS.items()}

    return dnsmos


def _load_scorer() -> Any:  # Any: the package has no types
    import speechmos
    from speechmos.dnsmos import DNSMOS

    class SingleThreadDNSMOS(DNSMOS):
        """DNSMOS whose sessions use one thread. By default each session has a spinning thread per core."""

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
