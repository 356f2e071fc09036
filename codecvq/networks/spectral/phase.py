"""Phase retrieval: audio whose magnitude spectra are close to given magnitudes.

It uses the fast Griffin-Lim algorithm (Perraudin, Balazs and Søndergaard 2013,
doi:10.1109/WASPAA.2013.6701851). With magnitudes M, momentum α, and the projection P of spectra to the
spectra of a signal (overlap-add, then STFT),

    T_n = P(M e^(iφ_(n-1)))      φ_n = arg(T_n - α/(1 + α) T_(n-1))      φ_0 = 0

It uses no random numbers and does not depend on the position of a frame, so decoding is reproducible, also in
chunks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from codecvq.networks.spectral.framing import Framing

MOMENTUM = 0.99


def retrieve_phases(framing: Framing, magnitudes: Tensor, iterations: int, mask: Tensor | None) -> Tensor:
    """Return unit complex numbers (0 at zero magnitude) `[B, T, F]` for magnitudes `[B, T, F]`.

    More `iterations` give a better fit; each costs two Fourier transforms. `mask` `[B, T]` is True at valid
    frames.
    """
    envelope = framing.envelope(magnitudes.shape[1], mask)
    spectra = magnitudes.to(torch.complex64)
    before = torch.zeros_like(spectra)
    for _ in range(iterations):
        wav = framing.overlap_add(spectra, mask, envelope)
        if mask is not None:  # silence after the end of an item, as after the end of the batch
            wav = wav * mask.repeat_interleave(framing.hop_length, dim=1)[:, None]
        projected = framing.spectra(wav)
        ahead = projected.sub(before, alpha=MOMENTUM / (1 + MOMENTUM))
        spectra, before = scale_complex(ahead, magnitudes * _inverse_size(ahead)), projected
    return unit_phases(ahead)


def unit_phases(spectra: Tensor) -> Tensor:
    """Divide spectra by their magnitudes; the result is 0 at zero magnitude."""
    return scale_complex(spectra, _inverse_size(spectra))


def scale_complex(spectra: Tensor, factors: Tensor) -> Tensor:
    """Multiply complex by real numbers, without converting the latter to complex."""
    return torch.view_as_complex(torch.view_as_real(spectra) * factors[..., None])


def _inverse_size(spectra: Tensor) -> Tensor:
    real, imaginary = torch.view_as_real(spectra).unbind(dim=-1)
    return real.square().addcmul(imaginary, imaginary).clamp(min=1e-18).rsqrt()


def phase_reach(framing: Framing, iterations: int) -> int:
    """Return the number of frames on either side on which the phases of a frame depend."""
    overlapping = math.ceil(framing.window_length / framing.hop_length) - 1
    return iterations * overlapping
