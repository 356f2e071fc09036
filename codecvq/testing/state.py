"""Checks of the state that `update` and `set_progress` change without gradients.

The first line of each docstring states the guarantee.
"""

from __future__ import annotations

import copy

import torch

from codecvq.quantizer import Progress, Quantizer
from codecvq.testing.case import QuantizerCase
from codecvq.testing.check import SEED, about, expect

UPDATES = 3


@about("update")
@torch.no_grad()
def update_without_vectors(case: QuantizerCase) -> None:
    """`update` with M = 0 vectors, as one of several processes may have, leaves all state finite."""
    for name, quantizer in case.new_and_trained():
        for member in filter(_updates, _members(quantizer)):
            width = len(member.codebook_sizes)
            for _ in range(UPDATES):
                member.update(torch.zeros(0, member.code_dim), torch.zeros(0, width, dtype=torch.int64))
        for tensor, value in quantizer.state_dict().items():
            expect(
                not value.is_floating_point() or bool(value.isfinite().all()),
                f"{name}: {int((~value.isfinite()).sum())} of {value.numel()} values of {tensor} are "
                f"non-finite after {UPDATES} updates with M = 0. Check for a division by a count of 0.",
            )


@about("set_progress")
def progress(case: QuantizerCase) -> None:
    """`set_progress` reaches all stages; with `uses_progress` the step is saved with the weights."""
    quantizer = case.build()
    for given in (Progress(3, 10), Progress(7, None)):
        quantizer.set_progress(given.step, given.steps)
        others = [n for n, each in enumerate(_members(quantizer)) if each.progress != given]
        expect(
            not others,
            f"after set_progress({given.step}, {given.steps}) members {others} have a different progress",
        )
        for prefix, member in quantizer.named_modules():
            if isinstance(member, Quantizer):
                _expect_saved(quantizer, f"{prefix}." if prefix else "", member, given)
        other = case.build(seed=1)
        other.load_state_dict(quantizer.state_dict())
        for member, loaded in zip(_members(quantizer), _members(other), strict=True):
            if member.uses_progress:
                expect(loaded.progress == given, f"progress is {loaded.progress} after loading, not {given}")


@about("progress", "quantize")
def undeclared_progress(case: QuantizerCase) -> None:
    """Without `uses_progress`, a step gives the same result at every `progress`, because it is not saved."""
    quantizer = case.without_dropout().trained()
    results = []
    for step in (0, 50, 100):
        copied = copy.deepcopy(quantizer)
        copied.set_progress(step, 100)
        torch.default_generator.manual_seed(SEED)
        results.append(copied(case.latents()))
    first = results[0]
    for out in results[1:]:
        pairs = [(out.latents, first.latents), (out.codes, first.codes)]
        pairs += [(value, first.losses[name]) for name, value in out.losses.items()]
        expect(
            all(torch.equal(one, other) for one, other in pairs),
            "results depend on `progress`, which is not saved. Declare uses_progress = True.",
        )


def has_update(quantizer: Quantizer) -> bool:
    """Whether the quantizer or one of its stages overrides `update`."""
    return any(map(_updates, _members(quantizer)))


def _expect_saved(quantizer: Quantizer, prefix: str, member: Quantizer, given: Progress) -> None:
    saved = quantizer.state_dict().get(f"{prefix}progress")
    if member.uses_progress:
        steps = -1 if given.steps is None else given.steps
        expect(
            saved is not None and saved.tolist() == [given.step, steps],
            f"uses_progress is True, but {prefix}progress in the state dict is {saved}, not "
            f"[{given.step}, {steps}]",
        )


def _updates(member: Quantizer) -> bool:
    return type(member).update is not Quantizer.update


def _members(quantizer: Quantizer) -> list[Quantizer]:
    return [member for member in quantizer.modules() if isinstance(member, Quantizer)]
