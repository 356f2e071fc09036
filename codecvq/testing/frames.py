"""Checks of dependence between frames: items of a batch, parts of an item, blocks of frames.

The first line of each docstring states the guarantee.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from codecvq.errors import ShapeError
from codecvq.quantizer import Quantizer, join_codes, split_codes
from codecvq.testing.case import QuantizerCase, block_length, comparable_modes, has_independent_frames
from codecvq.testing.check import about, expect, expect_close, expect_equal, expect_error

LENGTHS = (8, 3, 0, 5)  # valid frames of each item of a padded batch; the third is all padding
MAX_TESTED_FRAMES = 512  # frames of context; a longer reach is tested up to this length


@about("quantize", "dequantize", "bound", "forward")
def items_are_independent(case: QuantizerCase) -> None:
    """A batch item gets the same values as alone, for any contents of the other items and of the padding."""
    case = case.without_dropout()
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]  # [B, T]
    scales = torch.tensor([1.0, 100.0, 1.0, 100.0])[:, None, None]  # makes small leaks between items visible
    latents = scales * case.latents(len(LENGTHS), max(LENGTHS))
    latents = torch.where(mask[:, None], latents, math.nan)
    for mode in comparable_modes(case.build()):
        if mode and case.draws_random_numbers():
            continue  # the numbers drawn for a frame depend on the batch
        quantizer = case.trained().train(mode)
        batch = copy.deepcopy(quantizer)(latents, mask).latents
        decoded = quantizer.decode(quantizer.encode(latents, mask=mask), mask)
        for b, length in enumerate(LENGTHS):
            item, what = latents[b : b + 1, :, :length], f"{'train' if mode else 'eval'}, item {b} alone"
            alone = copy.deepcopy(quantizer)(item).latents
            # Compare values, not codes: rounding decides between two identical codewords.
            expect_close(batch[b : b + 1, :, :length], alone, f"values of forward in a batch, and of {what}")
            alone = quantizer.decode(quantizer.encode(item))
            expect_close(
                decoded[b : b + 1, :, :length], alone, f"decode(encode(z)) in a batch, and of {what}"
            )


@about("quantize", "dequantize", "bound", "forward")
def frames_are_independent(case: QuantizerCase) -> None:
    """Codes and values of a frame depend on no other frame, so an utterance can be cut anywhere."""
    quantizer = case.trained().eval()
    latents = case.latents(2, 6)
    whole = quantizer.decode(quantizer.encode(latents))
    for t in range(latents.shape[2]):
        alone = quantizer.decode(quantizer.encode(latents[:, :, t : t + 1]))
        expect_close(alone, whole[:, :, t : t + 1], f"values of frame {t} alone, compared with the whole")


@about("quantize", "dequantize", "bound", "forward")
def declared_reach(case: QuantizerCase) -> None:
    """Frames beyond the declared `reach` change nothing: a part with that much context equals the whole."""
    quantizer = case.trained().eval()
    block, reach = block_length(quantizer), quantizer.reach
    past = None if reach.past is None else _round_up_to_blocks(min(reach.past, MAX_TESTED_FRAMES), block)
    future = _round_up_to_blocks(min(reach.future, MAX_TESTED_FRAMES), block)
    # Long enough that each part excludes some frames.
    latents = case.latents(2, _round_up_to_blocks((past or 0) + future + 4, block) + 2 * block)
    frames = latents.shape[2]
    codes = quantizer.encode(latents)
    values = quantizer.decode(codes)
    for start in range(0, frames, block):
        end = min(start + block, frames)
        low = 0 if past is None else max(0, start - past)
        high = min(frames, end + future)
        what = f"frames {start} … {end - 1} of {frames}, with frames {low} … {high - 1} ({reach})"
        piece = codes.clone()
        part_codes = quantizer.encode(latents[:, :, low:high])
        piece[:, :, start:end] = part_codes[:, :, start - low : end - low]
        expect_close(quantizer.decode(piece), values, f"encode of {what}, compared with the whole")
        decoded = quantizer.decode(codes[:, :, low:high])[:, :, start - low : end - low]
        expect_close(decoded, values[:, :, start:end], f"decode of {what}, compared with the whole")


@about("strides", "quantize", "dequantize")
def strides(case: QuantizerCase) -> None:
    """A codebook of stride s has one code per block of s frames, also if s does not divide T."""
    quantizer = case.trained().eval()
    block = block_length(quantizer)
    for frames in sorted({1, block - 1, block, block + 1, 2 * block + 1} - {0}):
        latents = case.latents(2, frames)
        for what, codes in {
            "encode": quantizer.encode(latents),
            "forward": quantizer(latents).codes,
        }.items():
            parts = split_codes(codes, quantizer.strides)  # raises if codes change within a block
            expect_equal(
                join_codes(parts, quantizer.strides, frames), codes, f"codes of {what}, split and joined"
            )
    n, stride = max(enumerate(quantizer.strides), key=lambda pair: pair[1])
    codes = quantizer.encode(case.latents(2, 2 * block))
    codes[:, n, stride - 1] = (codes[:, n, stride - 1] + 1) % quantizer.codebook_sizes[n]
    expect_error(
        ShapeError, partial(quantizer.decode, codes), f"codes of codebook {n} that change within a block"
    )


def absent_codes(case: QuantizerCase) -> None:
    """Absent codes are -1, in the last codebooks of a frame; decode accepts them only there."""
    quantizer = case.trained().eval()
    codes = quantizer.encode(case.latents())
    shorter = codes.clone()
    shorter[:, -1, ::2] = -1  # a frame may have fewer codebooks than `encode` used
    for what, given in {
        "codes of encode": codes,
        "codes with fewer codebooks in some frames": shorter,
    }.items():
        expect(not bool(_gaps(given).any()), f"{what}: an absent codebook precedes a present one")
        values = quantizer.decode(given)
        expect(bool(values.isfinite().all()), f"decode of {what} is non-finite")
    if quantizer.num_codebooks > 1:
        gap = codes.clamp(min=0)
        gap[:, 0, 1] = -1
        expect_error(ShapeError, partial(quantizer.decode, gap), "codebook 0 absent before codebook 1")


def tests_for(quantizer: Quantizer) -> list[Callable[[QuantizerCase], None]]:
    """The checks of this module that apply to a quantizer."""
    cut = frames_are_independent if has_independent_frames(quantizer) else declared_reach
    tests: list[Callable[[QuantizerCase], None]] = [items_are_independent, cut]
    if block_length(quantizer) > 1:
        tests.append(strides)
    if quantizer.variable_depth:
        tests.append(absent_codes)
    return tests


def _gaps(codes: Tensor) -> Tensor:
    """True where a codebook is absent and the next one is present: bool `[B, N - 1, T]`."""
    absent = codes == -1
    return absent[:, :-1] & ~absent[:, 1:]


def _round_up_to_blocks(frames: int, block: int) -> int:
    return -(-frames // block) * block
