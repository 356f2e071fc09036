"""The cost of an adversarial training step relative to a step without discriminators, on a CPU.

    python benchmarks/adversarial_step.py [--recipe speech-16k] [--threads 1] [--repeats 5]

Both kinds of step run in one process, interleaved; the script prints medians and their ratio. With `in_turn`,
a round has a step of each discriminator and as many steps of the codec alone. Exits with 1 if the ratio is
above `--most`.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median

import torch
from accelerate import Accelerator

from codecvq.training.builders import recipe_corpus, recipe_segments
from codecvq.training.learner import Learner
from codecvq.training.recipe import load_recipe


def prepare_learner(recipe_name: str, precision: str) -> tuple[Learner, torch.Tensor]:
    """A learner, and a batch of the bundled corpus; its contents do not affect the cost of a step."""
    recipe = load_recipe(recipe_name, ["corpus.name=prompts", "training.validation_clips=0"])
    if recipe.discriminator is None:
        sys.exit(f"recipe {recipe_name} has no discriminator, so there is nothing to compare")
    # For every recipe, start the discriminators at step 1: step 0 trains the codec alone.
    section = recipe.discriminator.model_copy(update={"start_step": 1})
    recipe = recipe.model_copy(update={"discriminator": section})
    learner = Learner(recipe, "codec", Accelerator(mixed_precision=precision))
    segments = recipe_segments(recipe, recipe_corpus(recipe.corpus), learner.codec.hop_length)
    return learner, torch.from_numpy(segments.batch(0))


def seconds(learner: Learner, step: int, wav: torch.Tensor) -> float:
    start = time.perf_counter()
    learner.step(step, wav)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="speech-16k")
    parser.add_argument("--precision", default="no", choices=["no", "bf16"], help="no: float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds, after one warm-up round")
    parser.add_argument("--most", type=float, default=2.5, help="largest accepted ratio")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    learner, wav = prepare_learner(options.recipe, options.precision)
    section = learner.recipe.discriminator
    assert section is not None
    turns = len(section.networks) if section.in_turn else 1
    alone: list[float] = []
    adversarial: list[list[float]] = [[] for _ in range(turns)]
    for repeat in range(options.repeats + 1):
        for turn in range(turns):
            # The step number determines whether discriminators are active and which one is trained.
            times = (
                seconds(learner, 0, wav),
                seconds(learner, section.start_step + turn * section.every_step, wav),
            )
            if repeat:
                alone.append(times[0])
                adversarial[turn].append(times[1])
    adversarial_s = sum(median(times) for times in adversarial) / turns
    ratio = adversarial_s / median(alone)
    items = f"{wav.shape[0]} x {wav.shape[2] / learner.recipe.sample_rate:g} s"
    print(f"{options.recipe}, {items}, {options.threads} thread(s), precision {options.precision}")
    print(f"codec alone      {1000 * median(alone):8.1f} ms a step, median of {len(alone)}")
    print(
        f"adversarial      {1000 * adversarial_s:8.1f} ms a step, "
        f"mean of {turns} medians of {options.repeats}"
    )
    print(f"ratio            {ratio:8.2f} (at most {options.most:g})")
    sys.exit(ratio > options.most)


if __name__ == "__main__":
    main()
