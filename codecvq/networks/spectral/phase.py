"""Phases for magnitudes: audio whose spectra have magnitudes as near as can be to those that are wanted.

The fast Griffin-Lim algorithm (Perraudin, Balazs and Søndergaard 2013, doi:10.1109/WASPAA.2013.6701851).
With magnitudes M, the projection P of spectra on those of a signal (overlap-add, and its spectra again), and
momentum α,

    T_n = P(M e^(iφ_(n-1)))      φ_n = arg(T_n - α/(1 + α) T_(n-1))      φ_0 = 0

Nothing in it is random, nor hangs on where a frame stands: decoding is the same each time, and in pieces.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from codecvq.networks.spectral.framing import Framing

MOMENTUM = 0.99


def retrieve_phases(framing: Framing, magnitudes: Tensor, iterations: int, mask: Tensor | None) -> Tensor:
    """Complex numbers of size 1 (0 where nothing sounds), `[B, T, F]`, for magnitudes `[B, T, F]`; mask `[B,
    T]` is true at real frames. More `iterations` are better, each at the cost of two Fourier transforms.
    """
    envelope = framing.envelope(magnitudes.shape[1], mask)
    spectra = magnitudes.to(torch.complex64)
    before = torch.zeros_like(spectra)
    for _ in range(iterations):
        wav = framing.overlap_add(spectra, mask, envelope)
        if mask is not None:  # behind the end there is nothing, as where the batch ends there
            wav = wav * mask.repeat_interleave(framing.hop_length, dim=1)[:, None]
        projected = framing.spectra(wav)
        ahead = projected.sub(before, alpha=MOMENTUM / (1 + MOMENTUM))
        spectra, before = scale_complex(ahead, magnitudes * _inverse_size(ahead)), projected
    return unit_phases(ahead)


def unit_phases(spectra: Tensor) -> Tensor:
    """Spectra divided by their magnitudes; 0 where these are."""
    return scale_complex(spectra, _inverse_size(spectra))


def scale_complex(spectra: Tensor, factors: Tensor) -> Tensor:
    """Complex times real numbers, without making these complex first."""
    return torch.view_as_complex(torch.view_as_real(spectra) * factors[..., None])


def _inverse_size(spectra: Tensor) -> Tensor:
    real, imaginary = torch.view_as_real(spectra).unbind(dim=-1)
    return real.square().addcmul(imaginary, imaginary).clamp(min=1e-18).rsqrt()


def phase_reach(framing: Framing, iterations: int) -> int:
    """Frames on either side that the phases of a frame hang on."""
    overlapping = math.ceil(framing.window_length / framing.hop_length) - 1
    return iterations * overlapping
