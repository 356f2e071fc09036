"""The cost of a training step of a recipe on this processor, and the share of the data path.

    python benchmarks/training_step.py [--recipe speech-16k] [--threads 1] [--steps 20] [--against CHECKOUT]

A step does the same as in `codecvq train`: a thread prepares batches ahead, and results are read every ten
steps. With `--adversarial` the discriminators are active from the first step on. With `--against`, this
checkout and another one alternate, each time in a fresh process, and the script prints the ratio of the
medians: above 1, this checkout is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parents[1]
WARM_UP = 5


def measure(recipe_name: str, threads: int, steps: int, adversarial: bool) -> dict[str, float]:
    """Seconds per step, and the shares spent waiting for a batch and making one in the loader thread."""
    import torch
    from accelerate import Accelerator

    from codecvq.data.loading import load_batches
    from codecvq.training.builders import recipe_corpus, recipe_segments
    from codecvq.training.device import best_precision
    from codecvq.training.learner import Learner
    from codecvq.training.recipe import load_recipe

    torch.set_num_threads(threads)
    keys = ["corpus.name=prompts", "corpus.root=null", "training.validation_clips=0"]
    recipe = load_recipe(recipe_name, keys)
    if recipe.discriminator is not None:
        start = 0 if adversarial else recipe.training.steps - 1
        section = recipe.discriminator.model_copy(update={"start_step": start})
        recipe = recipe.model_copy(update={"discriminator": section})
    precision = {"fp32": "no"}.get(best_precision(), best_precision())
    learner = Learner(recipe, "codec", Accelerator(cpu=True, mixed_precision=precision))
    segments = recipe_segments(recipe, recipe_corpus(recipe.corpus), learner.codec.hop_length)
    for clip in range(len(segments.corpus)):  # training decodes each clip once, not in every step
        segments.batch(clip)
    start = time.perf_counter()
    for step in range(steps):
        segments.batch(step)
    batch_s = (time.perf_counter() - start) / steps
    batches = load_batches(segments, 0, WARM_UP + steps)
    times, waits = [], []
    for step in range(WARM_UP + steps):
        start = time.perf_counter()
        batch: Any = next(batches)
        waited = time.perf_counter() - start
        learner.step(step, getattr(batch, "wav", batch))
        if step % 10 == 9 and hasattr(learner, "step_metrics"):
            learner.step_metrics.take_means()
        if step >= WARM_UP:
            times.append(time.perf_counter() - start)
            waits.append(waited)
    step_s = median(times)
    return {"step_s": step_s, "waits": sum(waits) / sum(times), "data": batch_s / step_s}


def measure_checkout(checkout: Path, options: argparse.Namespace) -> dict[str, float]:
    """Run the measurement in a fresh process with the code of a checkout."""
    paths = [str(checkout), str(checkout / "plugins")]
    arguments = ["--recipe", options.recipe, "--threads", str(options.threads), "--steps", str(options.steps)]
    arguments += ["--adversarial"] if options.adversarial else []
    done = subprocess.run(
        [sys.executable, __file__, *arguments, "--json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(options.threads)},
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{checkout}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="speech-16k")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--adversarial", action="store_true")
    parser.add_argument("--against", type=Path, help="another checkout of codecvq")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.json:
        return print(json.dumps(measure(options.recipe, options.threads, options.steps, options.adversarial)))
    sides = {"this": HERE} | ({"other": options.against.resolve()} if options.against else {})
    results: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(options.turns):
        for side, checkout in sides.items():
            results[side].append(measure_checkout(checkout, options))
    kind = "adversarial" if options.adversarial else "without discriminators"
    print(f"{options.recipe}, {kind}, {options.threads} thread(s), medians of {options.turns} processes")
    for side, rows in results.items():
        step_s, waits, data = (median(row[key] for row in rows) for key in ("step_s", "waits", "data"))
        shares = f"waiting for batches {100 * waits:.1f} %, loader thread {100 * data:.1f} %"
        print(f"{side:6} {step_s:.3f} s per step, {1 / step_s:.2f} steps per second; {shares}")
    if options.against:
        ours, theirs = (median(row["step_s"] for row in results[side]) for side in ("this", "other"))
        print(f"ratio  {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
