"""Checks of what must not affect results: padding, eval mode, autocast, memory layout, saving, copying.

The first line of each docstring states the guarantee.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor

from codecvq.quantizer import Quantized, Quantizer
from codecvq.testing.case import (
    TRAINING_STEPS,
    QuantizerCase,
    comparable_modes,
    expect_same_state,
    has_independent_frames,
    state_of,
)
from codecvq.testing.check import SEED, about, expect, expect_close, expect_equal
from codecvq.testing.frames import LENGTHS


def padding_values(case: QuantizerCase) -> None:
    """The contents of the padding affect no value, code or metric; outputs at padding are zero."""
    mask, real = _mask(), _mask().flatten()
    for mode in (True, False):
        for name, quantizer in case.without_dropout().new_and_trained():
            one, other = (
                _forward(copy_, _latents_with_padding(case, fill), mask)
                for copy_, fill in _two_copies(quantizer.train(mode))
            )
            what = f"{name}, {'train' if mode else 'eval'}, other padding"
            expect_equal(
                _rows(one.latents)[real], _rows(other.latents)[real], f"{what}: latents of real frames"
            )
            expect_equal(one.codes, other.codes, f"{what}: codes")
            for metric, value in one.metrics.items():
                expect_equal(value, other.metrics[metric], f"{what}: metric {metric}")
            expect(not bool(_rows(one.latents)[~real].any()), f"{what}: latents at padding are not zero")


@about("terms")
def padding_losses(case: QuantizerCase) -> None:
    """Losses are means over valid frames: padding with any contents does not change them."""
    for name, quantizer in case.without_dropout().new_and_trained():
        batch = _batch(case, quantizer)
        for mode in comparable_modes(quantizer):
            one, other = (
                _forward(copy_, batch.padded(fill), batch.mask)
                for copy_, fill in _two_copies(quantizer.train(mode))
            )
            unpadded = _forward(copy.deepcopy(quantizer), batch.unpadded, None)
            for loss, value in one.losses.items():
                what = f"{name}, {'train' if mode else 'eval'}: loss {loss}"
                expect_equal(other.losses[loss], value, f"{what} with other padding")
                expect_close(value, unpadded.losses[loss], f"{what}, compared with an unpadded batch")


@about("bound", "terms", "quantize")
def padding_gradients(case: QuantizerCase) -> None:
    """Gradients of latents and parameters are equal with and without padding; padding gets no gradient."""
    for name, quantizer in case.without_dropout().new_and_trained():
        batch, real = _batch(case, quantizer), _batch(case, quantizer).mask.flatten()
        padded, unpadded = _two_copies(quantizer.train(comparable_modes(quantizer)[0]))
        grad, parameters = _gradients(padded[0], batch.padded(math.nan), batch.mask)
        needed, needed_parameters = _gradients(unpadded[0], batch.unpadded, None)
        expect_close(_rows(grad)[real], _rows(needed), f"{name}: gradient of real frames")
        expect(not bool(_rows(grad)[~real].any()), f"{name}: padding has a gradient")
        for parameter, value in needed_parameters.items():
            expect_close(parameters[parameter], value, f"{name}: gradient of {parameter}")


@about("update", "quantize")
def padding_state(case: QuantizerCase) -> None:
    """Codebook state after a training step is the same with any padding and without padding."""
    for name, quantizer in case.without_dropout().new_and_trained():
        batch, pairs = _batch(case, quantizer), _two_copies(quantizer)
        one, other = (_state_after(copy_, batch.padded(fill), batch.mask) for copy_, fill in pairs)
        expect_same_state(one, other, f"{name}: after a batch with other padding")
        if not quantizer.training_values_differ:  # random numbers may differ if the frames differ
            unpadded = _state_after(quantizer, batch.unpadded, None)
            expect_same_state(
                one, unpadded, f"{name}: after a padded batch, and one without padding", tolerance=1e-4
            )


def padding_width(case: QuantizerCase) -> None:
    """The amount of padding affects nothing, even with dropout: values, losses, gradients, state."""
    mask, wide = _mask(), torch.nn.functional.pad(_mask(), (0, 4))
    latents = _latents_with_padding(case, math.nan)
    for name, quantizer in case.new_and_trained():
        quantizer.train(has_independent_frames(quantizer) or not quantizer.training_values_differ)
        (one, _), (other, _) = _two_copies(quantizer)
        out, longer = _forward(one, latents, mask), _forward(other, _append_nan_frames(latents, 4), wide)
        for what in ("latents", "codes"):
            got, needed = (_rows(getattr(each, what)) for each in (longer, out))
            expect_equal(got[wide.flatten()], needed[mask.flatten()], f"{name}: {what} of real frames")
        for loss, value in out.losses.items():
            expect_close(longer.losses[loss], value, f"{name}: loss {loss}")
        expect_same_state(state_of(other), state_of(one), f"{name}: after a wider batch", tolerance=1e-5)
        needed, _ = _gradients(one, latents, mask)
        got, _ = _gradients(other, _append_nan_frames(latents, 4), wide)
        expect_close(got[:, :, : mask.shape[1]], needed, f"{name}: gradient of the latents", tolerance=1e-4)


def all_padding(case: QuantizerCase) -> None:
    """A batch that is all padding has latents and losses of 0, and changes no state."""
    for name, quantizer in case.new_and_trained():
        before = state_of(quantizer)
        latents = case.latents().requires_grad_()
        out = quantizer(latents, torch.zeros(latents.shape[0], latents.shape[2], dtype=torch.bool))
        expect(not bool(out.latents.any()), f"{name}: latents are not zero")
        for loss, value in out.losses.items():
            expect(float(value.detach()) == 0.0, f"{name}: loss {loss} is {float(value.detach())}, not 0")
        expect_same_state(state_of(quantizer), before, f"{name}: all padding")


def eval_changes_nothing(case: QuantizerCase) -> None:
    """In eval, forward, encode and decode change no parameter or buffer, and forward is repeatable."""
    for name, quantizer in case.new_and_trained():
        quantizer.eval()
        before, latents = state_of(quantizer), case.latents()
        first = quantizer(latents)
        quantizer.decode(quantizer.encode(latents))
        second = quantizer(latents)
        expect_same_state(state_of(quantizer), before, f"{name}, in eval")
        expect_equal(second.latents, first.latents, f"{name}, in eval: second forward of the same latents")
        for loss, value in first.losses.items():
            expect(not value.requires_grad, f"{name}, in eval: loss {loss} is not detached")


def encode_changes_nothing(case: QuantizerCase) -> None:
    """In training mode, encode and decode change no state, and encode gives the codes of eval mode."""
    for name, quantizer in case.new_and_trained():
        before, latents = state_of(quantizer), case.latents()
        codes = quantizer.encode(latents)
        quantizer.decode(codes)
        expect_same_state(state_of(quantizer), before, f"{name}, encode in training mode")
        expect_equal(
            quantizer.eval().encode(latents), codes, f"{name}: codes in eval, compared with training mode"
        )


def input_unchanged(case: QuantizerCase) -> None:
    """forward and encode do not modify the input latents."""
    quantizer, latents = case.trained(), case.latents()
    original = latents.clone()
    quantizer(latents)
    quantizer.encode(latents)
    expect_equal(latents, original, "the latents, after forward and encode")


def autocast(case: QuantizerCase) -> None:
    """Under autocast everything is computed in float32: codes, latents and losses are the same."""
    for mode in (True, False):
        inside, outside = (pair[0] for pair in _two_copies(case.trained().train(mode)))
        latents = case.latents()
        needed = _forward(outside, latents, None)
        codes = outside.encode(latents)
        with torch.autocast("cpu", torch.bfloat16):
            got = _forward(inside, latents, None)
            expect_equal(inside.encode(latents), codes, "codes of encode inside autocast")
            decoded = inside.decode(codes)
        expect_equal(decoded, outside.decode(codes), "decode inside autocast")
        expect_equal(got.codes, needed.codes, "codes inside autocast")
        expect_equal(got.latents, needed.latents, "latents inside autocast")
        for loss, value in needed.losses.items():
            expect_equal(got.losses[loss], value, f"loss {loss} inside autocast")


def half_precision(case: QuantizerCase) -> None:
    """bfloat16, float16 and float64 latents keep their dtype and get the codes of their float32 values."""
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        quantizer = case.trained().eval()
        latents = case.latents().to(dtype)
        out, needed = quantizer(latents), quantizer(latents.float())
        expect_equal(out.codes, needed.codes, f"codes of {dtype} latents")
        expect_equal(out.latents, needed.latents.to(dtype), f"latents in {dtype}")
        expect_equal(quantizer.encode(latents), needed.codes, f"encode of {dtype} latents")


def dtype_conversion(case: QuantizerCase) -> None:
    """.bfloat16(), .half() and .double() leave weights and buffers unchanged, and so the codes."""
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        quantizer, latents = case.trained().eval(), case.latents()
        before, codes = state_of(quantizer), quantizer.encode(latents)
        decoded = quantizer.decode(codes)
        torch.nn.Sequential(quantizer).to(dtype)
        expect_same_state(state_of(quantizer), before, f"after .to({dtype})")
        expect_equal(quantizer.encode(latents), codes, f"codes after .to({dtype})")
        expect_equal(quantizer.decode(codes), decoded, f"decode after .to({dtype})")


def memory_layout(case: QuantizerCase) -> None:
    """Non-contiguous latents and codes give the same results as contiguous ones."""
    quantizer, latents = case.trained().eval(), case.latents()
    needed = quantizer.encode(latents)
    for what, strided in {
        "transposed": latents.transpose(1, 2).contiguous().transpose(1, 2),
        "every second frame of a tensor": torch.stack([latents, latents + 1], dim=3).flatten(2)[:, :, ::2],
    }.items():
        expect_equal(quantizer.encode(strided), needed, f"codes, {what}")
        expect_equal(quantizer(strided).latents, quantizer(latents).latents, f"latents, {what}")
    strided_codes = needed.transpose(1, 2).contiguous().transpose(1, 2)
    expect_equal(quantizer.decode(strided_codes), quantizer.decode(needed), "decode of strided codes")


def save_load(case: QuantizerCase) -> None:
    """Saved with safetensors and loaded into a new quantizer: same codes, latents and state."""
    quantizer, other = case.trained().eval(), case.build(seed=1).eval()
    latents = case.latents()
    other(latents)  # fills eval caches, which loading must invalidate
    content = safetensors.torch.save({name: t.contiguous() for name, t in quantizer.state_dict().items()})
    other.load_state_dict(safetensors.torch.load(content))
    expect_same_state(state_of(other), state_of(quantizer), "after loading")
    expect_equal(other.encode(latents), quantizer.encode(latents), "codes after loading")
    expect_equal(other(latents).latents, quantizer(latents).latents, "latents after loading")


def deepcopy(case: QuantizerCase) -> None:
    """A deep copy gives the same results, and training the copy leaves the original unchanged."""
    quantizer = case.trained()
    quantizer.generator = torch.Generator().manual_seed(1)
    twin, before, latents = copy.deepcopy(quantizer), state_of(quantizer), case.latents()
    expect_equal(twin.encode(latents), quantizer.encode(latents), "codes of a copy")
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    twin(latents)
    expect_same_state(state_of(quantizer), before, "the original, after training its copy")


def same_seed(case: QuantizerCase) -> None:
    """The same seed gives the same weights, the same training and the same codes."""
    first, second = case.trained(seed=3), case.trained(seed=3)
    expect_same_state(state_of(second), state_of(first), f"same seed, after {TRAINING_STEPS} steps")
    latents = case.latents()
    expect_equal(second.encode(latents), first.encode(latents), "codes with the same seed")


TESTS = (
    padding_values,
    padding_losses,
    padding_gradients,
    padding_state,
    padding_width,
    all_padding,
    eval_changes_nothing,
    encode_changes_nothing,
    input_unchanged,
    autocast,
    half_precision,
    dtype_conversion,
    memory_layout,
    save_load,
    deepcopy,
    same_seed,
)


def _mask() -> Tensor:
    return torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]  # [B, T]


def _latents_with_padding(case: QuantizerCase, fill: float) -> Tensor:
    """Latents whose padding has the value `fill`."""
    latents = case.latents(len(LENGTHS), max(LENGTHS))
    return torch.where(_mask()[:, None], latents, fill)


def _append_nan_frames(latents: Tensor, frames: int) -> Tensor:
    """Append `frames` frames of NaN to the latents."""
    return torch.nn.functional.pad(latents, (0, frames), value=math.nan)


@dataclass(frozen=True)
class _Batch:
    """A padded batch, and the same valid frames in the same order without padding."""

    latents: Tensor  # [B, D, T]
    mask: Tensor  # [B, T]
    unpadded: Tensor  # [b, D, t]

    def padded(self, fill: float) -> Tensor:
        """The latents with the value `fill` at padding."""
        return torch.where(self.mask[:, None], self.latents, fill)


def _batch(case: QuantizerCase, quantizer: Quantizer) -> _Batch:
    """A batch for comparing padded and unpadded input.

    With independent frames: items of several lengths, whose valid frames form one unpadded item. Otherwise:
    items of equal length, padded by a few frames.
    """
    if has_independent_frames(quantizer):
        latents, mask = _latents_with_padding(case, 0.0), _mask()
        return _Batch(latents, mask, _rows(latents)[mask.flatten()].T[None].contiguous())
    latents = case.latents()
    mask = torch.ones(latents.shape[0], latents.shape[2], dtype=torch.bool)
    return _Batch(_append_nan_frames(latents, 4), torch.nn.functional.pad(mask, (0, 4)), latents)


def _rows(tensor: Tensor) -> Tensor:
    """`[B, X, T]` -> `[B·T, X]`."""
    return tensor.transpose(1, 2).flatten(0, 1)


def _two_copies(quantizer: Quantizer) -> list[tuple[Quantizer, float]]:
    """Two copies, each with a different padding value."""
    return [(copy.deepcopy(quantizer), 1e4), (copy.deepcopy(quantizer), math.nan)]


def _forward(quantizer: Quantizer, latents: Tensor, mask: Tensor | None) -> Quantized:
    """Run forward with the same random numbers each time."""
    torch.default_generator.manual_seed(SEED)
    return quantizer(latents, mask)


def _state_after(quantizer: Quantizer, latents: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """The state after a training step."""
    _forward(quantizer, latents, mask)
    return state_of(quantizer)


def _gradients(
    quantizer: Quantizer, latents: Tensor, mask: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients of latents and parameters, of a loss over the outputs and all loss terms."""
    latents = latents.detach().requires_grad_()
    out = _forward(quantizer, latents, mask)
    total = out.latents.square().sum() + torch.stack([out.latents.sum(), *out.losses.values()]).sum()
    if total.requires_grad:
        total.backward()
    mode = "training" if quantizer.training else "eval"
    expect(
        latents.grad is not None,
        f"in {mode} mode no gradient reaches the latents. With own_gradient, values must carry a gradient in "
        "eval mode too, as vectors + (values - vectors).detach().",
    )
    assert latents.grad is not None, "checked above"
    parameters = {name: p.grad for name, p in quantizer.named_parameters() if p.grad is not None}
    return latents.grad, parameters
