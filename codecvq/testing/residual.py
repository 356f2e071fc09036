"""Checks of quantizers with decodable prefixes of the codes: depth, quantizer dropout, refinement.

The first line of each docstring states the guarantee.
"""

from __future__ import annotations

import copy
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from codecvq.errors import ShapeError
from codecvq.quantizer import Grouped, Quantized, Quantizer, Residual
from codecvq.testing.case import QuantizerCase, expect_same_state, state_of
from codecvq.testing.check import expect, expect_close, expect_equal, expect_error

ITEMS = 64  # batch size with quantizer dropout
SEEDS = 4  # draws of the dropout depth of a single item


def prefix(case: QuantizerCase) -> None:
    """With num_codebooks=n, encode and forward return the first n of all N codes, and decode accepts them."""
    for name, quantizer in case.new_and_trained():
        quantizer.eval()
        latents = case.latents()
        codes = quantizer.encode(latents)
        for n in _supported_depths(quantizer):
            what = f"{name}, {n} of {quantizer.num_codebooks} codebooks"
            expect_equal(quantizer.encode(latents, num_codebooks=n), codes[:, :n], f"{what}: codes")
            out = quantizer(latents, num_codebooks=n)
            expect_equal(out.codes, codes[:, :n], f"{what}: codes of forward")
            expect_equal(
                quantizer.decode(codes[:, :n]), out.latents, f"{what}: decode, compared with forward"
            )


def depth_is_checked(case: QuantizerCase) -> None:
    """A depth of 0 or above N raises ShapeError."""
    quantizer, latents = case.trained().eval(), case.latents()
    for n in (0, quantizer.num_codebooks + 1):
        expect_error(ShapeError, partial(quantizer.encode, latents, num_codebooks=n), f"encode with {n}")
        expect_error(ShapeError, partial(quantizer, latents, num_codebooks=n), f"forward with {n}")


def training_depth(case: QuantizerCase) -> None:
    """Training with fewer codebooks gives the values of those codebooks and finite losses."""
    case = case.without_dropout()
    for n in _supported_depths(case.build(dropout=1.0)):
        quantizer, before = case.trained(dropout=1.0), case.trained(dropout=1.0).eval()
        # Set only now: groups support depths only if they are built with dropout.
        quantizer.dropout = 0.0  # type: ignore[assignment]
        out = quantizer(case.latents(), num_codebooks=n)
        expect(out.codes.shape[1] == n, f"{n} codebooks in training: codes {list(out.codes.shape)}")
        if not quantizer.training_values_differ:
            expect_close(
                out.latents,
                before.decode(out.codes),
                f"{n} codebooks in training: latents, compared with decode",
            )
        for loss, value in out.losses.items():
            expect(
                bool(value.isfinite()), f"{n} codebooks in training: loss {loss} is {float(value.detach())}"
            )


def dropout_per_item(case: QuantizerCase) -> None:
    """With quantizer dropout, each item has its own depth, which is the same for all its frames."""
    quantizer, before = case.trained(dropout=1.0), case.trained(dropout=1.0).eval()
    latents = case.latents(ITEMS, 4)
    out = quantizer(latents)
    depths = [_active_depth(before, out, b) for b in range(ITEMS)]
    unknown = [b for b, depth in enumerate(depths) if depth == 0]
    expect(not unknown, f"the values of items {unknown[:5]} are not the sum of their first codebooks")
    for b, depth in enumerate(depths):
        expect(
            not bool(out.codes[b, depth:].any()),
            f"item {b} has dropout depth {depth}, but codes of its dropped codebooks are not 0",
        )
    drawn = sorted(set(depths))
    needed = sorted(set(getattr(quantizer, "dropout_depths", ()))) or _supported_depths(quantizer)
    expect(drawn == needed, f"{ITEMS} items with dropout 1 have the depths {drawn}, not each of {needed}")


def dropped_stages_untouched(case: QuantizerCase) -> None:
    """A stage that no item uses, through dropout or a smaller depth, changes no state and has no gradient."""
    for depth in (None, _supported_depths(case.build(dropout=1.0))[0]):
        for seed in range(SEEDS):
            quantizer = case.build(dropout=1.0)
            stages = _parts_by_first_codebook(quantizer)
            quantizer(case.latents(ITEMS, 4))  # initializes every codebook
            quantizer.generator = torch.Generator().manual_seed(seed)
            before, states = copy.deepcopy(quantizer).eval(), [state_of(stage) for stage in stages.values()]
            out = quantizer(case.latents(1).requires_grad_(), num_codebooks=depth)
            active = _active_depth(before, out, 0)
            (out.latents.sum() + torch.stack([*out.losses.values(), torch.zeros(())]).sum()).backward()
            for (n, stage), state in zip(stages.items(), states, strict=True):
                if n >= active:
                    what = f"stage of codebook {n}, with {active} of {quantizer.num_codebooks} active"
                    expect_same_state(state_of(stage), state, what)
                    trained = [name for name, p in stage.named_parameters() if _has_gradient(p)]
                    expect(not trained, f"{what}: {trained} have a gradient")


def dropout_off_in_eval(case: QuantizerCase) -> None:
    """Quantizer dropout has no effect in eval, and encode always returns all codebooks."""
    dropping, plain = case.build(dropout=1.0).eval(), case.build(dropout=0.0).eval()
    latents = case.latents()
    expect_equal(dropping(latents).codes, plain(latents).codes, "codes in eval, with and without dropout")
    expect_equal(
        dropping(latents).latents, plain(latents).latents, "latents in eval, with and without dropout"
    )
    expect_equal(
        dropping.train().encode(latents), plain.encode(latents), "encode in training mode with dropout"
    )


def refinement(case: QuantizerCase) -> None:
    """Each stage of a refining grid (`refines`, `stage_scale`) reduces the distance to the bounded vector."""
    quantizer = case.trained().eval()
    vectors = case.latents(8, 32).transpose(1, 2).flatten(0, 1)
    with torch.no_grad():
        target = quantizer.to_code_space(vectors)
        codes = quantizer.encode(vectors.T[None])[0].T
        errors = [
            float((quantizer.dequantize(codes[:, :n]) - target).square().mean())
            for n in range(1, codes.shape[1] + 1)
        ]
    shown = ", ".join(f"{error:.3g}" for error in errors)
    expect(
        all(b < a for a, b in pairwise(errors)),
        f"mean squared errors after 1, 2, … stages are {shown}; each must be lower than the one before",
    )


def is_refining(quantizer: Quantizer) -> bool:
    """Whether the quantizer is a residual stack of successively finer grids."""
    return isinstance(quantizer, Residual) and quantizer.stage(0).refines


TESTS = (prefix, depth_is_checked)
DROPOUT_TESTS = (training_depth, dropout_per_item, dropped_stages_untouched, dropout_off_in_eval)


def _parts_by_first_codebook(quantizer: Quantizer) -> dict[int, Quantizer]:
    """Return the stages or groups by their first codebook; empty if all codebooks share one stage."""
    if isinstance(quantizer, Grouped):
        groups = [group for group in quantizer.groups if isinstance(group, Quantizer)]
        firsts = accumulate([group.num_codebooks for group in groups[:-1]], initial=0)
        return dict(zip(firsts, groups, strict=True))
    if not isinstance(quantizer, Residual) or len(quantizer.stages) < quantizer.num_codebooks:
        return {}
    return {n: quantizer.stage(n) for n in range(quantizer.num_codebooks)}


def _supported_depths(quantizer: Quantizer) -> list[int]:
    """The depths that the quantizer supports; the last group of a grouped quantizer must be complete."""
    if isinstance(quantizer, Grouped):
        return [*list(_parts_by_first_codebook(quantizer))[1:], quantizer.num_codebooks]
    return list(range(1, quantizer.num_codebooks + 1))


def _has_gradient(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


def _active_depth(quantizer: Quantizer, out: Quantized, item: int) -> int:
    """The largest depth whose decoded codes equal the latents of an item; 0 if there is none.

    If training values differ from decoded values, the depth is read from `out.active`.
    """
    latents, codes = out.latents[item : item + 1], out.codes[item : item + 1]
    if quantizer.training_values_differ:
        return codes.shape[1] if out.active is None else int(out.active[item, :, 0].sum())
    for n in reversed([n for n in _supported_depths(quantizer) if n <= codes.shape[1]]):
        decoded = quantizer.decode(codes[:, :n])
        if torch.allclose(decoded, latents, rtol=1e-4, atol=1e-4):
            return n
    return 0
