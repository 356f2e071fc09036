"""Check on a GPU all that could not be checked without one, in at most so many seconds.

    scripts/gpu/check [--seconds 230] [--out FOLDER]

Parts, in this order; what does not fit into the time is listed as not run:

    tests        those marked gpu, against the CPU
    recipes      every recipe at its real size in bf16, discriminators from the first step: seconds a step
                 after warm-up, peak memory, finite losses, the share of time in which the device works
    codec        real-time factors of encode, decode and tokenize, by batch size
    quantizers   benchmarks/quantizers.py against vector-quantize-pytorch
    compiled     some of the recipes again, by torch.compile

One table is printed last, and FOLDER (by default $OUT) gets check.json. `--device cpu --small` runs all of it
on a CPU with everything small: that checks this script.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

import codecvq
from codecvq.plugins import registry
from codecvq.tokens.engine import tokenize
from codecvq.training.corpus import open_corpus
from codecvq.training.device_segments import DeviceSegments
from codecvq.training.learner import Learner
from codecvq.training.parts import recipe_corpus, recipe_segments
from codecvq.training.recipe import Recipe, load_recipe
from codecvq.training.smoke import smoke_recipe

HERE = Path(__file__).resolve().parents[2]
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from scripts.gpu.busy import Busy  # noqa: E402

ON_LAPTOPS = ("quickstart", "speech-16k")  # recipes that are measured elsewhere
COMPILED = ("speech-16k-natural", "tts-24k-residual-fsq", "tts-24k-rotation-vq", "encodec-24k")
WARM_UP, STEPS = 10, 20
BATCHES, AUDIO_S = (1, 8, 32), 8.0
QUANTIZERS = ("vq 8192×8", "residual_vq", "simvq 8192", "lfq 2^10", "fsq 8,5,5,5", "residual_fsq")


class Check:
    """What was found, and how much time is left."""

    def __init__(self, options: argparse.Namespace, out: Path) -> None:
        self.device, self.small, self.out = torch.device(options.device), options.small, out
        self.ends = time.monotonic() + options.seconds
        self.rows: list[dict[str, Any]] = []

    def run(self, part: str, name: str, needed_s: float, do: Callable[[], dict[str, Any]]) -> None:
        """Add a row of what `do` finds, or of its error; not run where less than `needed_s` are left."""
        began = time.monotonic()
        row: dict[str, Any] = {"part": part, "name": name}
        if self.ends - began < needed_s:
            row["not_run"] = f"{self.ends - began:.0f} s were left"
        else:
            try:
                row |= do()
            except Exception as error:  # whatever a first run on a GPU gives: the rest goes on
                row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        row["took_s"] = round(time.monotonic() - began, 1)
        self.rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        text = json.dumps({"machine": machine(self.device), "rows": self.rows}, indent=1)
        (self.out / "check.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Check, print a table, and exit with 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=230)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="everything small, for a CPU")
    parser.add_argument("--only", default="", help="only parts and names that contain this")
    parser.add_argument("--out", type=Path, help="by default $OUT")
    options = parser.parse_args()
    out = Path(options.out or os.environ.get("OUT") or "check")
    out.mkdir(parents=True, exist_ok=True)
    check = Check(options, out)
    for part, name, needed_s, do in jobs(check):
        if options.only in f"{part} {name}":
            check.run(part, name, needed_s, do)
    print(table(check))
    sys.exit(any("error" in row for row in check.rows))


def jobs(check: Check) -> Iterator[tuple[str, str, float, Callable[[], dict[str, Any]]]]:
    """Part, name, seconds that it is not begun below, and what it does."""
    yield "tests", "marked gpu", 60, lambda: run_tests(check)
    for name in sorted(registry().recipes()):
        if name not in ON_LAPTOPS and registry().find("recipes", name).path().parent.name == "recipes":
            yield "recipes", name, 10, lambda name=name: steps_of(check, name, compiled=False)
    for batch in BATCHES:
        yield "codec", f"speech-16k, batch {batch}", 10, lambda batch=batch: codec_speed(check, batch)
    yield "codec", "tokenize", 10, lambda: tokenize_speed(check)
    yield "quantizers", "against vector-quantize-pytorch", 20, lambda: quantizer_ratios(check)
    for name in COMPILED:
        yield "compiled", name, 45, lambda name=name: steps_of(check, name, compiled=True)


def run_tests(check: Check) -> dict[str, Any]:
    """Counts of the tests marked gpu, and the names of those that failed."""
    report = check.out / "tests.txt"
    marks = "gpu and not slow"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rfE",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "tests/gpu",
    ]
    if check.small:
        command += ["-k", "autocast or path_of_a_pitch"]
    environment = {**os.environ, "CODECVQ_GPU_TESTS": check.device.type}
    limit_s = max(30.0, check.ends - time.monotonic() - 60)
    with report.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [*command, "-m", marks],
            cwd=HERE,
            env=environment,
            stdout=file,
            stderr=file,
            timeout=limit_s,
            check=False,
        )
    lines = report.read_text(encoding="utf-8").splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    found = {"result": lines[-1] if lines else "no output"}
    return found | (
        {"error": "; ".join(failed) or f"pytest ended with {done.returncode}"} if done.returncode else {}
    )


# recipes


def real_recipe(check: Check, name: str, compiled: bool) -> Recipe:
    """The recipe at its own size on the speech in the box, its discriminators active from the first step."""
    keys = ["corpus.name=prompts", "corpus.root=null", "corpus.cache=device", "training.workers=0"]
    keys += ["training.init_from=null", "training.init_partial=false", "training.freeze=[]"]
    recipe = load_recipe(name, [*keys, f"training.compile={str(compiled).lower()}"])
    if check.small:
        recipe = smoke_recipe(recipe)
    if recipe.discriminator is not None:
        section = recipe.discriminator.model_copy(update={"start_step": 0})
        recipe = recipe.model_copy(update={"discriminator": section})
    frozen = load_recipe(name).training.freeze
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"freeze": frozen})})


def steps_of(check: Check, name: str, compiled: bool) -> dict[str, Any]:
    """How fast steps of a recipe are, and what they take."""
    recipe = real_recipe(check, name, compiled)
    AcceleratorState._reset_state(reset_partial_state=True)
    precision = "bf16" if check.device.type == "cuda" else "no"
    learner = Learner(recipe, "codec", Accelerator(cpu=check.device.type == "cpu", mixed_precision=precision))
    segments = recipe_segments(recipe, recipe_corpus(recipe.corpus), learner.codec.hop_length)
    on_device = DeviceSegments(segments, learner.accelerator.device)
    warm_up, steps = (1, 2) if check.small else (WARM_UP, STEPS)
    if check.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for step in range(warm_up):
        learner.step(step, on_device.batch(step))
    learner.outcomes.take()
    warm_s = time.perf_counter() - began
    with Busy(check.device) as busy:
        for step in range(warm_up, warm_up + steps):
            learner.step(step, on_device.batch(step))
        scalars = learner.outcomes.take()  # waits for the device
    items, seconds = recipe.training.batch_size, recipe.corpus.segment_s
    return {
        "step_s": round(busy.seconds / steps, 4),
        "audio_s_per_s": round(items * seconds * steps / busy.seconds, 1),
        "warm_up_s": round(warm_s, 1),
        "peak_gb": peak_gb(check.device),
        "busy": busy.share,
        "loss": scalars.get("loss/total"),
        **({} if finite(scalars, learner) else {"error": "losses are not finite, or steps were skipped"}),
    }


def finite(scalars: dict[str, float], learner: Learner) -> bool:
    """Whether all losses are, and no step was skipped."""
    return bool(scalars) and not learner.outcomes.skipped and all(map(math.isfinite, scalars.values()))


def peak_gb(device: torch.device) -> float | None:
    """Memory that tensors took at most."""
    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if device.type == "cuda" else None


# the codec in the box


def codec_speed(check: Check, batch: int) -> dict[str, Any]:
    """Seconds of audio a second that are encoded and decoded, in batches."""
    codec = codecvq.load("speech-16k", check.device)
    clip = open_corpus("prompts").clips[0].read(16000)
    seconds = 1.0 if check.small else AUDIO_S
    samples = torch.from_numpy(clip).repeat(math.ceil(seconds * 16000 / len(clip)))[: round(seconds * 16000)]
    wav = samples.expand(batch, 1, -1).to(check.device)
    codes = codec.encode(wav)
    return {
        "encode": round(batch * seconds / median_s(check.device, lambda: codec.encode(wav))),
        "decode": round(batch * seconds / median_s(check.device, lambda: codec.decode(codes))),
    }


def median_s(device: torch.device, do: Callable[[], Any], repeats: int = 5) -> float:
    """Median seconds of a call, from an idle device to an idle device; the first is not counted."""
    times = []
    for _ in range(repeats + 1):
        wait(device)
        began = time.perf_counter()
        do()
        wait(device)
        times.append(time.perf_counter() - began)
    return sorted(times[1:])[repeats // 2]


def wait(device: torch.device) -> None:
    """Until a GPU has done all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def tokenize_speed(check: Check) -> dict[str, Any]:
    """Seconds of audio a second that become a token dataset: reading, encoding, writing."""
    codec = codecvq.load("speech-16k", check.device)
    clips = open_corpus("prompts").clips
    with tempfile.TemporaryDirectory() as folder:
        done = tokenize(codec, clips[:4] if check.small else clips, Path(folder) / "tokens")
    return {"audio_s_per_s": round(done.audio_s / done.elapsed_s), "clips": done.clips}


def quantizer_ratios(check: Check) -> dict[str, Any]:
    """How many times as fast as the peer's each of our quantizers is."""
    found: dict[str, Any] = {}
    script, file = HERE / "benchmarks" / "quantizers.py", check.out / "quantizers.json"
    for only in QUANTIZERS[-2:] if check.small else QUANTIZERS:
        left_s = check.ends - time.monotonic()
        if left_s < 10:
            found[only] = "not run"
            continue
        command = [sys.executable, script, "--quick", "--only", only, "--device", check.device.type]
        command += ["--vectors", "64" if check.small else "8192", "--json", file]
        done = subprocess.run(command, capture_output=True, text=True, timeout=left_s, check=False)
        if done.returncode:
            return found | {"error": f"{only}: {done.stderr.splitlines()[-1] if done.stderr else 'failed'}"}
        for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
            found[f"{row['quantizer']} {row['mode']}"] = round(row["peer_ms"] / row["ours_ms"], 2)
    return found


# what is printed


def machine(device: torch.device) -> dict[str, Any]:
    """What ran this."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__, "codecvq": codecvq.__version__}


def table(check: Check) -> str:
    """All rows, as Markdown."""
    lines = [f"{machine(check.device)}", "", "| part | what | found | s |", "|---|---|---|---|"]
    for row in check.rows:
        hidden = ("part", "name", "took_s")
        found = ", ".join(f"{key} {_shown(value)}" for key, value in row.items() if key not in hidden)
        lines.append(f"| {row['part']} | {row['name']} | {found} | {row['took_s']} |")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
