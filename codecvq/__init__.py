"""A plugin-based toolkit for neural speech codecs.

Public names load on first use: `import codecvq` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from codecvq.api.codec import AudioCodec, LatentCodec
from codecvq.api.hookspecs import (
    CodecSpec,
    CorpusSpec,
    EstimatorSpec,
    LossSpec,
    MetricSpec,
    NetworkPartSpec,
    NetworkSpec,
    QuantizerSpec,
    ReaderSpec,
    RecipeSpec,
    TeacherSpec,
    hookimpl,
)
from codecvq.errors import AudioError, CodecvqError, CorpusError, OptionError

if TYPE_CHECKING:
    from codecvq.api.training import TrainRun
    from codecvq.codec import Codec, WrappedCodec, load
    from codecvq.data import Clip
    from codecvq.evaluation.metrics import MetricUndefined
    from codecvq.quantizer import Quantized, Quantizer, Terms, build_quantizer

__version__ = "0.2.0"

__all__ = [
    "AudioCodec",
    "AudioError",
    "Clip",
    "Codec",
    "CodecSpec",
    "CodecvqError",
    "CorpusError",
    "CorpusSpec",
    "EstimatorSpec",
    "LatentCodec",
    "LossSpec",
    "MetricSpec",
    "MetricUndefined",
    "NetworkPartSpec",
    "NetworkSpec",
    "OptionError",
    "Quantized",
    "Quantizer",
    "QuantizerSpec",
    "ReaderSpec",
    "RecipeSpec",
    "TeacherSpec",
    "Terms",
    "TrainRun",
    "WrappedCodec",
    "build_quantizer",
    "hookimpl",
    "load",
]

_LAZY = {
    "Clip": "codecvq.data",
    "MetricUndefined": "codecvq.evaluation.metrics",
    "Codec": "codecvq.codec",
    "WrappedCodec": "codecvq.codec",
    "load": "codecvq.codec",
    "Quantized": "codecvq.quantizer",
    "Quantizer": "codecvq.quantizer",
    "Terms": "codecvq.quantizer",
    "TrainRun": "codecvq.api.training",
    "build_quantizer": "codecvq.quantizer",
}


def __getattr__(name: str) -> Any:  # Any: depends on the name
    if name not in _LAZY:
        raise AttributeError(f"module 'codecvq' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
