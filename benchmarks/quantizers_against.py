"""Quantizers of two checkouts of codecvq compared: time of encode, decode and a training step.

    git worktree add ../before COMMIT
    python benchmarks/quantizers_against.py ../before [--turns 5]

Each side is a process with one thread. The sides alternate, case by case. A time is the median over the turns
of the fastest of several runs, in processor time. A ratio above 1 means that this checkout is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parents[1]
DIM, BATCH, MIN_MEASURED_S = 64, 8, 0.15
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vq": ("vq", {"codebook_size": 1024}),
    "simvq": ("simvq", {"codebook_size": 8192}),
    "fsq": ("fsq", {"levels": [8, 5, 5, 5]}),
    "lfq": ("lfq", {"bits": 10}),
    "grouped_vq": ("grouped_vq", {"codebook_size": 1024, "num_codebooks": 2}),
    "residual_vq": ("residual_vq", {"codebook_size": 1024, "num_codebooks": 8}),
    "residual_vq, projected, dropout": (
        "residual_vq",
        {"codebook_size": 1024, "num_codebooks": 8, "codebook_dim": 8, "dropout": 0.5},
    ),
    "residual_fsq": ("residual_fsq", {"levels": [8, 5, 5, 5], "num_codebooks": 4, "dropout": 0.5}),
    "residual_lfq": ("residual_lfq", {"bits": 10, "num_codebooks": 4}),
}
MODES, FRAMES = ("encode", "decode", "train"), (50, 500)  # frames of each of 8 items


def serve() -> None:
    """Read lines `[case, mode, frames]` from stdin and print the seconds of a run for each."""
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        print(seconds(*json.loads(line)), flush=True)


def seconds(case: str, mode: str, frames: int) -> float:
    """Seconds of the fastest run of a case."""
    import torch

    import codecvq

    name, options = CASES[case]
    torch.manual_seed(0)
    quantizer = codecvq.build_quantizer(name, dim=DIM, **options)
    quantizer(torch.randn(4, DIM, 64))
    quantizer.train(mode == "train")
    latents = torch.randn(BATCH, DIM, frames)
    codes = quantizer.encode(latents)
    runs: dict[str, Callable[[], object]] = {
        "encode": lambda: quantizer.encode(latents),
        "decode": lambda: quantizer.decode(codes),
        "train": lambda: step(quantizer, latents),
    }
    return fastest(runs[mode])


def step(quantizer: Any, latents: Any) -> None:  # Any: types of either checkout
    out = quantizer(latents.clone().requires_grad_())
    (out.latents.square().mean() + sum(out.losses.values())).backward()


def fastest(run: Callable[[], object]) -> float:
    run()
    times, start_time = [], time.process_time()
    while len(times) < 2 or time.process_time() - start_time < MIN_MEASURED_S:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def start_server(checkout: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(checkout), str(checkout / "plugins")])
    return subprocess.Popen(
        [sys.executable, __file__, "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )


def request(side: subprocess.Popen[str], question: tuple[str, str, int]) -> float:
    assert side.stdin is not None
    assert side.stdout is not None
    print(json.dumps(question), file=side.stdin, flush=True)
    return float(side.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("against", type=Path, nargs="?", help="another checkout of codecvq")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve()
    if options.against is None:
        parser.error("give the folder of another checkout")
    sides = [start_server(options.against.resolve()), start_server(HERE)]
    ratios = []
    print(f"{'quantizer':34}{'mode':8}{'vectors':>8}{'before ms':>12}{'now ms':>10}{'ratio':>8}")
    for case in CASES:
        for mode in MODES:
            for frames in FRAMES:
                turns = [
                    [request(side, (case, mode, frames)) for side in sides] for _ in range(options.turns)
                ]
                before, now = (1e3 * median(turn[side] for turn in turns) for side in (0, 1))
                ratios.append(before / now)
                print(
                    f"{case:34}{mode:8}{BATCH * frames:8d}{before:12.3f}{now:10.3f}{ratios[-1]:8.2f}",
                    flush=True,
                )
    print(f"median ratio {median(ratios):.2f}, lowest {min(ratios):.2f}, highest {max(ratios):.2f}")


if __name__ == "__main__":
    main()
