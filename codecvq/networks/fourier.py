"""Power spectra with a fast backward pass, local means, and mel filters.

torch differentiates `rfft` through a complex transform of full length on a zero-filled buffer. The gradient
is in fact an inverse real transform. With X_k = Σ_n x_n e^(-2πikn/N), k = 0 … N/2, P_k = |X_k|² and g_k =
∂L/∂P_k,

    ∂L/∂x_n = Re Σ_k 2 g_k X_k e^(2πikn/N)

while N·irfft(Y) = Re Y_0 + 2 Re Σ_{0<k<N/2} Y_k e^(…) + Re Y_{N/2} (-1)^n. So ∂L/∂x = N·irfft(Y) with Y_k =
g_k X_k for 0 < k < N/2, and Y_k = 2 g_k X_k for k = 0 and k = N/2. `benchmarks/mel_loss.py` measures the
gain.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F


class _PowerSpectra(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, frames: Tensor) -> Tensor:
        spectra = torch.fft.rfft(frames, dim=-1)
        ctx.save_for_backward(spectra)
        parts = torch.view_as_real(spectra)
        return parts.square().sum(dim=-1)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        (spectra,) = ctx.saved_tensors  # type: ignore[attr-defined]
        length = 2 * (spectra.shape[-1] - 1)
        weighted = spectra * gradients[0]
        weighted[..., 0] *= 2
        weighted[..., -1] *= 2
        return torch.fft.irfft(weighted, n=length, dim=-1) * length


def power_spectra(frames: Tensor) -> Tensor:
    """Compute |rfft|² of real frames of even length: float `[..., W]` -> `[..., W/2 + 1]`."""
    assert frames.shape[-1] % 2 == 0, f"frames are {frames.shape[-1]} samples long; the length must be even"
    return _PowerSpectra.apply(frames)


def local_mean(levels: Tensor, width: int) -> Tensor:
    """Average `width` values around each value along the last axis, fewer at the ends; `width` is odd.

    Shapes: `[B, X, Y]` -> `[B, X, Y]`.
    """
    rows = levels.flatten(0, 1)[:, None]
    means = F.avg_pool1d(rows, width, stride=1, padding=width // 2, count_include_pad=False)
    return means.view_as(levels)


def mel_filters(sample_rate: int, window_length: int, num_mels: int, norm: str | None = None) -> Tensor:
    """Return triangular filters on Slaney's mel scale: `[bins, F]`.

    Each has a peak of 1 or, with `norm` "slaney", an area of 1. A filter that lies between two bins is 0.
    """
    with warnings.catch_warnings():  # zero filters are expected for short windows; callers remove them
        warnings.simplefilter("ignore", UserWarning)
        import torchaudio.functional

        return torchaudio.functional.melscale_fbanks(
            window_length // 2 + 1, 0.0, sample_rate / 2, num_mels, sample_rate, norm=norm, mel_scale="slaney"
        )
