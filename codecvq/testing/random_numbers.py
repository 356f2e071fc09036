"""Checks of random numbers: a quantizer draws from its own generator and does not touch global state.

The first line of each docstring states the guarantee.
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
    """With `generator` set, all random numbers come from it and no global random state changes."""
    for name, quantizer in case.new_and_trained():
        quantizer.generator = torch.Generator().manual_seed(1)
        for mode in (True, False):
            quantizer.train(mode)
            for what, call in _calls(quantizer, case.latents()).items():
                before = _global_states()
                call()
                changed = [name_ for name_, state in _global_states().items() if state != before[name_]]
                expect(
                    not changed,
                    f"{name}, {'train' if mode else 'eval'}: {what} changes the random state of "
                    f"{', '.join(changed)}. Draw with generator=self.generator, and do not seed.",
                )


def global_seed_unchanged(case: QuantizerCase) -> None:
    """Neither the constructor nor any call seeds torch's global generator."""
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
            f"{what} seeds torch's global generator: its state is the same afterwards for different initial "
            "seeds. Use a separate torch.Generator, or torch.random.fork_rng.",
        )


def equal_generators(case: QuantizerCase) -> None:
    """Two quantizers with equal weights and generators train identically for any global seed of torch."""
    quantizers = [case.build(seed=0), case.build(seed=0)]
    results: list[list[Tensor]] = []
    for seed, quantizer in enumerate(quantizers):
        quantizer.generator = torch.Generator().manual_seed(5)
        torch.default_generator.manual_seed(seed)
        results.append([quantizer(case.latents(seed=step)).latents for step in range(3)])
    for step, (one, other) in enumerate(zip(*results, strict=True)):
        expect_equal(other, one, f"latents of step {step}, with equal generators and a different global seed")
    expect_same_state(state_of(quantizers[1]), state_of(quantizers[0]), "after 3 steps, equal generators")


TESTS = (generator_is_used, global_seed_unchanged, equal_generators)


def _calls(quantizer: Quantizer, latents: Tensor) -> dict[str, Callable[[], object]]:
    return {
        "forward": lambda: quantizer(latents),
        "encode": lambda: quantizer.encode(latents),
        "decode": lambda: quantizer.decode(quantizer.encode(latents)),
    }


def _global_states() -> dict[str, object]:
    """The global random states that a draw would change."""
    numpy = np.random.get_state(legacy=False)
    return {
        "torch (global)": torch.get_rng_state().numpy().tobytes(),
        "numpy (global)": str(numpy),
        "random": random.getstate(),
    }
