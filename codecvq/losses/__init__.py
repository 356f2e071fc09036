"""Training losses, and teachers for some of them. The built-in ones are registered like those of a plugin.

The exported names are imported on first use, so that listing plugins does not import torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from codecvq.api.hookspecs import LossSpec, TeacherSpec, hookimpl

if TYPE_CHECKING:
    from codecvq.losses.build import build_loss
    from codecvq.losses.complex_stft import ComplexStftLoss
    from codecvq.losses.distillation import DistillationLoss
    from codecvq.losses.feature_reconstruction import FeatureReconstructionLoss
    from codecvq.losses.interface import AudioLoss, Loss, LossInputs
    from codecvq.losses.loudness import LoudnessLoss
    from codecvq.losses.mel import MelLoss
    from codecvq.losses.similarity import SimilarityLoss
    from codecvq.losses.spread import SpreadLoss
    from codecvq.losses.stft import StftLoss
    from codecvq.losses.teacher import Teacher, build_teacher
    from codecvq.losses.waveform import WaveformLoss

__all__ = [
    "AudioLoss",
    "ComplexStftLoss",
    "DistillationLoss",
    "FeatureReconstructionLoss",
    "Loss",
    "LossInputs",
    "LoudnessLoss",
    "MelLoss",
    "SimilarityLoss",
    "SpreadLoss",
    "StftLoss",
    "Teacher",
    "WaveformLoss",
    "build_loss",
    "build_teacher",
]

_LAZY = {
    "AudioLoss": "interface",
    "ComplexStftLoss": "complex_stft",
    "DistillationLoss": "distillation",
    "FeatureReconstructionLoss": "feature_reconstruction",
    "Loss": "interface",
    "LossInputs": "interface",
    "LoudnessLoss": "loudness",
    "MelLoss": "mel",
    "SimilarityLoss": "similarity",
    "SpreadLoss": "spread",
    "StftLoss": "stft",
    "Teacher": "teacher",
    "WaveformLoss": "waveform",
    "build_loss": "build",
    "build_teacher": "teacher",
}


def __getattr__(name: str) -> Any:  # Any: every exported name
    if name not in _LAZY:
        raise AttributeError(f"module 'codecvq.losses' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


@hookimpl
def codecvq_losses() -> Iterable[LossSpec]:
    """Register the spectral, waveform and perceptual losses, and the losses with a teacher."""
    yield LossSpec(
        name="mel",
        factory="codecvq.losses.mel:MelLoss",
        summary="L1 of log-mel magnitudes under several windows",
        reference="arXiv:2306.06546",
    )
    yield LossSpec(
        name="stft",
        factory="codecvq.losses.stft:StftLoss",
        summary="magnitudes under several windows: spectral convergence and L1 of logarithms",
        reference="arXiv:1910.11480",
    )
    yield LossSpec(
        name="complex_stft",
        factory="codecvq.losses.complex_stft:ComplexStftLoss",
        summary="complex spectra under several windows, including the phase",
    )
    yield LossSpec(name="waveform", factory="codecvq.losses.waveform:WaveformLoss", summary="L1 of samples")
    yield LossSpec(
        name="loudness",
        factory="codecvq.losses.loudness:LoudnessLoss",
        summary="loudness in critical bands, weighted as in PESQ; use about 1.5 times the weight of mel",
        reference="ITU-T P.862",
    )
    yield LossSpec(
        name="similarity",
        factory="codecvq.losses.similarity:SimilarityLoss",
        summary="similarity of neurograms, as in ViSQOL; use about 3 times the weight of mel",
        reference="arXiv:2004.09584",
    )
    yield LossSpec(
        name="spread",
        factory="codecvq.losses.spread:SpreadLoss",
        summary="local variance of log magnitudes, against over-smoothing",
        reference="doi:10.1093/ietisy/e90-d.5.816",
    )
    yield LossSpec(
        name="distillation",
        factory="codecvq.losses.distillation:DistillationLoss",
        summary="projected latents of a codebook against features of a frozen teacher",
        reference="arXiv:2308.16692",
    )
    yield LossSpec(
        name="feature_reconstruction",
        factory="codecvq.losses.feature_reconstruction:FeatureReconstructionLoss",
        summary="features of a frozen teacher: decoded against recorded audio",
        reference="arXiv:1603.08155",
    )


@hookimpl
def codecvq_teachers() -> Iterable[TeacherSpec]:
    """Register teachers: spectra, cepstra, and networks of the transformers library."""
    yield TeacherSpec(
        name="log_mel",
        factory="codecvq.losses.mel_teacher:MelTeacher",
        summary="normalized log-mel spectra; needs no download",
    )
    yield TeacherSpec(
        name="mfcc",
        factory="codecvq.losses.mel_teacher:MfccTeacher",
        summary="normalized cepstra and their differences; needs no download",
        reference="doi:10.1109/TASSP.1980.1163420",
    )
    yield TeacherSpec(
        name="transformers",
        factory="codecvq.losses.transformers_teacher:build_transformers_teacher",
        summary="HuBERT, WavLM, wav2vec 2.0 or the Whisper encoder, from a folder or a hub",
        reference="arXiv:2106.07447",
    )
