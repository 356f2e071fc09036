"""A decoder of G.722 at 64 kbit/s, bit-identical to FFmpeg's. No library on the GPU machine has one.

Each byte contains two samples at 16 kHz: 6 bits of the lower band, 2 bits of the upper band. Both bands are
adaptive differential codes; a filter bank of 24 taps joins them. Steps and tables are named as in
ITU-T Recommendation G.722 (09/2012), clauses 6.2.1 (lower band), 6.2.2 (upper band) and 5.2 (filter bank).

Each sample depends on all earlier ones, so numpy cannot vectorize the loop. If numba is installed, it
compiles the loop: an hour of audio takes five seconds on one core. Without numba it takes half an hour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

Function = TypeVar("Function", bound=Callable[..., object])
Int16Array = npt.NDArray[np.int16]
Int64Array = npt.NDArray[np.int64]

SAMPLE_RATE = 16000  # Hz


try:
    import numba

    COMPILED = True
except Exception:  # numba also raises for unsupported, newer versions of numpy
    COMPILED = False


def _compiled(function: Function) -> Function:
    """Compile the function with numba, if numba can be imported."""
    return cast(Function, numba.njit(nogil=True)(function)) if COMPILED else function


def _table(*values: int) -> Int64Array:
    return np.array(values, dtype=np.int64)


#: Quantizer outputs: 2 bits of the upper band; of the lower band, 4 bits for its predictor, 6 for its output.
QM2 = _table(-7408, -1616, 7408, 1616)
QM4 = _table(
    0, -20456, -12896, -8968, -6288, -4240, -2584, -1200, 20456, 12896, 8968, 6288, 4240, 2584, 1200, 0
)
QM6_STEPS = (
    24808, 21904, 19008, 16704, 14984, 13512, 12280, 11192, 10232, 9360, 8576, 7856, 7192, 6576, 6000, 5456,
    4944, 4464, 4008, 3576, 3168, 2776, 2400, 2032, 1688, 1360, 1040, 728,
)  # fmt: skip
QM6 = _table(*[-136] * 4, *(-step for step in QM6_STEPS), *QM6_STEPS, 432, 136, -432, -136)
#: Change of the logarithmic step size per code: for 4 bits of the lower band, 2 bits of the upper band.
WL = _table(-60, 3042, 1198, 538, 334, 172, 58, -30, 3042, 1198, 538, 334, 172, 58, -30, -60)
WH = _table(798, -214, 798, -214)
ILB = _table(
    2048, 2093, 2139, 2186, 2233, 2282, 2332, 2383, 2435, 2489, 2543, 2599, 2656, 2714, 2774, 2834, 2896,
    2960, 3025, 3091, 3158, 3228, 3298, 3371, 3444, 3520, 3597, 3676, 3756, 3838, 3922, 4008,
)  # fmt: skip
QMF = _table(3, -11, 12, 32, -210, 951, 3876, -805, 362, -156, 53, -11)
LOWER, UPPER = 0, 1
#: By band: the largest logarithm of the step size (the smallest is 0), and the shift of its table.
LARGEST = _table(18432, 22528)
SHIFT = _table(8, 10)
# Indices into a band's state: logarithmic step, step, estimate, zero section of the estimate; two poles; two
# reconstructed samples; two partial samples; six zeros; six differences.
NB, DET, S, SZ, A1, A2, R1, R2, P1, P2, B, D, SIZE = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 22


@_compiled
def _clip(value: int, largest: int) -> int:
    return max(-largest - 1, min(largest, value))


@_compiled
def _scale(band: Int64Array, which: int, weight: int) -> None:
    """Update the step size of a band (LOGSCL and SCALEL, or LOGSCH and SCALEH)."""
    band[NB] = max(0, min(LARGEST[which], (band[NB] * 127 >> 7) + weight))
    shift = SHIFT[which] - (band[NB] >> 11)
    mantissa = ILB[band[NB] >> 6 & 31]
    band[DET] = (mantissa >> shift if shift >= 0 else mantissa << -shift) << 2


@_compiled
def _poles(band: Int64Array, partial: int) -> None:
    """Update the two poles of a band's predictor (UPPOL2, UPPOL1)."""
    same1, same2 = (partial < 0) == (band[P1] < 0), (partial < 0) == (band[P2] < 0)
    product = _clip(band[A1] << 2, 32767)
    product = min(-product if same1 else product, 32767)
    a2 = (product >> 7) + (128 if same2 else -128) + (band[A2] * 32512 >> 15)
    a2 = max(-12288, min(12288, a2))
    a1 = (band[A1] * 32640 >> 15) + (192 if same1 else -192)
    most = 15360 - a2
    band[A1], band[A2] = max(-most, min(most, a1)), a2


@_compiled
def _predict(band: Int64Array, difference: int) -> None:
    """Adapt the predictor of a band to a difference and compute the next estimate (block 4)."""
    reconstructed = _clip(band[S] + difference, 32767)
    partial = _clip(band[SZ] + difference, 32767)
    _poles(band, partial)
    step = 128 if difference else 0
    for i in range(6):
        same = (difference < 0) == (band[D + i] < 0)
        band[B + i] = _clip((band[B + i] * 32640 >> 15) + (step if same else -step), 32767)
    for i in range(5, 0, -1):
        band[D + i] = band[D + i - 1]
    band[D] = difference
    band[R2], band[R1], band[P2], band[P1] = band[R1], reconstructed, band[P1], partial
    poles = (band[A1] * _clip(2 * band[R1], 32767) >> 15) + (band[A2] * _clip(2 * band[R2], 32767) >> 15)
    zeros = 0
    for i in range(6):
        zeros += band[B + i] * _clip(2 * band[D + i], 32767) >> 15
    band[SZ] = _clip(zeros, 32767)
    band[S] = _clip(_clip(poles, 32767) + band[SZ], 32767)


@_compiled
def _decode(codes: npt.NDArray[np.uint8], out: Int16Array) -> None:
    """Decode into `out` `[2 * len(codes)]`."""
    lower, upper = np.zeros(SIZE, dtype=np.int64), np.zeros(SIZE, dtype=np.int64)
    lower[DET], upper[DET] = 32, 8
    past = np.zeros(24, dtype=np.int64)  # alternating sums and differences of the bands
    for n in range(len(codes)):
        low, high = int(codes[n]) & 63, int(codes[n]) >> 6
        low_sample = _clip(lower[S] + (lower[DET] * QM6[low] >> 15), 16383)
        difference = lower[DET] * QM4[low >> 2] >> 15
        _scale(lower, LOWER, WL[low >> 2])
        _predict(lower, difference)
        difference = upper[DET] * QM2[high] >> 15
        high_sample = _clip(upper[S] + difference, 16383)
        _scale(upper, UPPER, WH[high])
        _predict(upper, difference)
        past[:22] = past[2:].copy()
        past[22], past[23] = low_sample + high_sample, low_sample - high_sample
        first, second = 0, 0
        for i in range(12):
            second += past[2 * i] * QMF[i]
            first += past[2 * i + 1] * QMF[11 - i]
        out[2 * n], out[2 * n + 1] = _clip(first >> 11, 32767), _clip(second >> 11, 32767)


def decode(stream: bytes) -> Int16Array:
    """Samples `[2 * len(stream)]` at 16 kHz of a raw G.722 stream (suffix .g722)."""
    out = np.zeros(2 * len(stream), dtype=np.int16)
    _decode(np.frombuffer(stream, dtype=np.uint8), out)
    return out
