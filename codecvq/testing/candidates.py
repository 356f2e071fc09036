"""Checks of `candidates` and of the beam search that uses it.

The first line of each docstring states the guarantee.
"""

from __future__ import annotations

import torch

from codecvq.quantizer import Context, Quantizer, Residual
from codecvq.testing.case import QuantizerCase, block_length
from codecvq.testing.check import about, expect, expect_close

COUNT = 8  # candidates per vector
BEAM = 4
ROUNDING = 1e-5


@about("candidates")
@torch.no_grad()
def candidates(case: QuantizerCase) -> None:
    """`candidates` lists each code once, best first; the first one is the code that `quantize` selects."""
    quantizer = case.trained().eval()
    vectors = quantizer.to_code_space(case.latents().transpose(1, 2).flatten(0, 1))
    context = Context.of_one_item(len(vectors), vectors.device)
    count = min(COUNT, quantizer.codebook_sizes[0])
    codes = quantizer.candidates_with_context(vectors, count, context)
    expect(
        codes.shape == (len(vectors), count) and codes.dtype == torch.int64,
        f"candidates are {codes.dtype} {list(codes.shape)}, not int64 [M, count] = {[len(vectors), count]}",
    )
    low, high = int(codes.min()), int(codes.max())
    expect(
        low >= 0 and high < quantizer.codebook_sizes[0],
        f"candidates span {low} … {high}; K is {quantizer.codebook_sizes[0]}",
    )
    twice = [row for row in codes.tolist() if len(set(row)) < count]
    expect(not twice, f"candidates {twice[:1]} list a code more than once")
    values = torch.stack([quantizer.dequantize_with_context(column[:, None], context) for column in codes.T])
    errors = (values - vectors).square().sum(dim=2)  # [count, M]
    wrong = (errors[1:] < errors[:-1] - ROUNDING * (1 + errors[:-1])).any(dim=0).nonzero()
    if len(wrong):
        shown = ", ".join(f"{float(error):.3g}" for error in errors[:, int(wrong[0])])
        expect(False, f"the candidates of vector {int(wrong[0])} have squared errors {shown}: not best first")
    chosen, _ = quantizer.quantize_with_context(vectors, context)
    expect_close(values[0], chosen, "values of the first candidates, compared with the values of quantize")


@about("candidates")
@torch.no_grad()
def beam(case: QuantizerCase) -> None:
    """Beam search is never worse: the mean error with beam 4 is at most the mean error with beam 1."""
    case = case.without_dropout()
    errors = []
    for width in (1, BEAM):
        quantizer = case.trained(beam=width).eval()
        latents = case.latents(8, 16)
        errors.append(float((quantizer(latents).latents - latents).square().mean()))
    expect(
        errors[1] <= errors[0] * (1 + ROUNDING),
        f"the mean squared error is {errors[1]:.6g} with beam {BEAM} and {errors[0]:.6g} with beam 1",
    )


def searches_beams(quantizer: Quantizer) -> bool:
    """Whether the quantizer is a residual stack that supports `beam` and measures errors in latent space."""
    return (
        isinstance(quantizer, Residual)
        and quantizer.stage(0).lists_candidates
        and not quantizer.own_gradient
        and not quantizer.stage(0).refines
        and block_length(quantizer) == 1
    )
