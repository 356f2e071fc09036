"""Checks of randomness: a quantizer draws from its own generator and leaves the global ones alone.

The first line of each says the promise.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from codecvq.quantizer import Quantizer
from codecvq.testing.case import QuantizerCase, expect_same_state, state_of
from codecvq.testing.check import expect, expect_equal


def generator_is_used(case: QuantizerCase) -> None:
    """With `generator` set, all random numbers come from it, and no global random state changes."""
    for name, quantizer in case.new_and_trained():
        quantizer.generator = torch.Generator().manual_seed(1)
        for mode in (True, False):
            quantizer.train(mode)
            for what, call in _calls(quantizer, case.latents()).items():
                before = _global_states()
                call()
                changed = [of for of, state in _global_states().items() if state != before[of]]
                expect(
                    not changed,
                    f"{name}, {'train' if mode else 'eval'}: {what} changes the random numbers of "
                    f"{', '.join(changed)}. Draw with generator=self.generator, and never seed.",
                )


def global_seed_unchanged(case: QuantizerCase) -> None:
    """Neither construction nor any call seeds torch's global random numbers."""
    after = []
    for seed in (11, 12):
        quantizer = case.build(seed)
        after.append({"the constructor": torch.get_rng_state()})
        for mode in (True, False):
            for what, call in _calls(quantizer.train(mode), case.latents()).items():
                call()
                after[-1][f"{what} in {'train' if mode else 'eval'}"] = torch.get_rng_state()
    for what, state in after[0].items():
        expect(
            not torch.equal(state, after[1][what]),
            f"{what} seeds torch's global random numbers: they are the same after it whatever they were "
            "before. Use a torch.Generator of its own, or torch.random.fork_rng.",
        )


def equal_generators(case: QuantizerCase) -> None:
    """Two with the same weights and equal generators train alike, whatever torch's global seed is."""
    quantizers = [case.build(seed=0), case.build(seed=0)]
    results: list[list[Tensor]] = []
    for seed, quantizer in enumerate(quantizers):
        quantizer.generator = torch.Generator().manual_seed(5)
        torch.default_generator.manual_seed(seed)
        results.append([quantizer(case.latents(seed=step)).latents for step in range(3)])
    for step, (one, other) in enumerate(zip(*results, strict=True)):
        expect_equal(other, one, f"latents of step {step}, with equal generators and another global seed")
    expect_same_state(state_of(quantizers[1]), state_of(quantizers[0]), "after 3 steps, equal generators")


TESTS = (generator_is_used, global_seed_unchanged, equal_generators)


def _calls(quantizer: Quantizer, latents: Tensor) -> dict[str, Callable[[], object]]:
    return {
        "forward": lambda: quantizer(latents),
        "encode": lambda: quantizer.encode(latents),
        "decode": lambda: quantizer.decode(quantizer.encode(latents)),
    }


def _global_states() -> dict[str, object]:
    """What draws from the global generators change."""
    numpy = np.random.get_state(legacy=False)
    return {
        "torch (global)": torch.get_rng_state().numpy().tobytes(),
        "numpy (global)": str(numpy),
        "random": random.getstate(),
    }
