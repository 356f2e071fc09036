"""Run all checks that need a GPU, within a time limit.

    scripts/gpu/check [--seconds 230] [--out FOLDER]

Parts, in this order; parts that do not fit into the time are listed as not run:

    tests        tests marked gpu, compared with the CPU
    recipes      every recipe at full size in bf16, with discriminators from the first step: seconds per step
                 after warm-up, peak memory, finite losses, device utilization
    codec        real-time factors of encode, decode and tokenize, by batch size
    quantizers   benchmarks/quantizers.py, compared with vector-quantize-pytorch
    compiled     some of the recipes again, with torch.compile

The script prints one table at the end and writes check.json to FOLDER (by default $OUT). `--device cpu
--small` runs everything on a CPU at a small size, to test this script.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

import codecvq
from codecvq.data import open_corpus
from codecvq.data.device_segments import DeviceSegments
from codecvq.plugins import registry
from codecvq.tokens.engine import tokenize
from codecvq.training.builders import recipe_corpus, recipe_segments
from codecvq.training.learner import Learner
from codecvq.training.recipe import Recipe, load_recipe
from codecvq.training.smoke import smoke_recipe

HERE = Path(__file__).resolve().parents[2]
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from scripts.gpu.utilization import Utilization  # noqa: E402

CPU_RECIPES = ("quickstart", "speech-16k")  # measured elsewhere, on CPUs
COMPILED = ("speech-16k-natural", "tts-24k-residual-fsq", "tts-24k-rotation-vq", "encodec-24k")
WARM_UP, STEPS = 10, 20
BATCHES, AUDIO_S = (1, 8, 32), 8.0
QUANTIZERS = ("vq 8192×8", "residual_vq", "simvq 8192", "lfq 2^10", "fsq 8,5,5,5", "residual_fsq")


class CheckRun:
    """The results of a run and its remaining time. Rows are written to disk as soon as they are complete."""

    def __init__(self, options: argparse.Namespace, out: Path) -> None:
        self.device, self.small, self.out = torch.device(options.device), options.small, out
        self.ends = time.monotonic() + options.seconds - max(0.0, time.time() - options.began)
        self.file = out / "check.json"
        self.rows: list[dict[str, Any]] = []
        if options.resume:
            self.rows = json.loads(self.file.read_text(encoding="utf-8"))["rows"]

    @property
    def left_s(self) -> float:
        """Remaining seconds."""
        return self.ends - time.monotonic()

    def run(self, part: str, name: str, needed_s: float, do: Callable[[], dict[str, Any]]) -> None:
        """Add a row with the results or the error of `do`; skip it if less than `needed_s` seconds remain."""
        if any((row["part"], row["name"]) == (part, name) for row in self.rows):
            return
        began, row = time.monotonic(), dict[str, Any](part=part, name=name)
        failed = False
        if self.left_s < needed_s:
            row["not_run"] = f"{self.left_s:.0f} s remained"
        else:
            try:
                row |= do()
            except Exception as error:  # any failure: continue with the other checks
                failed = True
                row["error"] = self._record_error(f"{part} {name}", error)
        row["took_s"] = round(time.monotonic() - began, 1)
        self.rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        text = json.dumps({"machine": machine(self.device), "rows": self.rows}, indent=1)
        self.file.write_text(text + "\n", encoding="utf-8")
        if failed:
            self._restart_if_device_failed()

    def _record_error(self, what: str, error: Exception) -> str:
        """One line of an error with its innermost location in this repository; errors.txt gets the rest."""
        text = traceback.format_exc()
        with (self.out / "errors.txt").open("a", encoding="utf-8") as file:
            file.write(f"# {what}\n{text}\n")
        places = re.findall(r'File "[^"]*?((?:codecvq|plugins|scripts)[^"]*)", line (\d+)', text)
        where = ":".join(places[-1]) if places else "?"
        first = str(error).splitlines()[0] if str(error) else ""
        return f"{type(error).__name__} at {where}: {first}"

    def _restart_if_device_failed(self) -> None:
        """Restart in a new process after a GPU fault, after which nothing works in this one."""
        if self.device.type != "cuda":
            return
        try:
            torch.cuda.synchronize()
        except Exception:
            arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
            sys.stderr.flush()
            os.execv(sys.executable, [sys.executable, __file__, *arguments, "--resume"])


def main() -> None:
    """Run the checks, print a table, and exit with 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=230)
    parser.add_argument("--began", type=float, default=time.time(), help="start of these seconds, Unix time")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="run everything at a small size, for a CPU")
    parser.add_argument("--only", default="", help="run only parts and names that contain this")
    parser.add_argument("--resume", action="store_true", help="skip rows that check.json in FOLDER has")
    parser.add_argument("--out", type=Path, help="FOLDER; by default $OUT")
    options = parser.parse_args()
    out = Path(options.out or os.environ.get("OUT") or "check")
    out.mkdir(parents=True, exist_ok=True)
    check = CheckRun(options, out)
    before = ""
    for part, name, needed_s, do in jobs(check):
        if options.only not in f"{part} {name}":
            continue
        if part == "compiled" != before:  # print before the part that a time limit may interrupt
            print(table(check), flush=True)
        before = part
        check.run(part, name, needed_s, do)
    print(table(check))
    sys.exit(any("error" in row for row in check.rows))


def jobs(check: CheckRun) -> Iterator[tuple[str, str, float, Callable[[], dict[str, Any]]]]:
    """Yield part, name, the seconds that it needs, and the function that runs it."""
    yield "tests", "marked gpu", 60, lambda: run_tests(check)
    for name in sorted(registry().all("recipes")):
        if name not in CPU_RECIPES and registry().find("recipes", name).path().parent.name == "recipes":
            yield "recipes", name, 10, lambda name=name: measure_steps(check, name, compiled=False)
    for batch in BATCHES:
        yield "codec", f"speech-16k, batch {batch}", 10, lambda batch=batch: codec_speed(check, batch)
    yield "codec", "tokenize", 10, lambda: tokenize_speed(check)
    yield "quantizers", "against vector-quantize-pytorch", 20, lambda: quantizer_speedups(check)
    for name in COMPILED:
        needed_s = 10 if check.small else 100  # compilation cannot be interrupted
        yield "compiled", name, needed_s, lambda name=name: measure_steps(check, name, compiled=True)


def run_tests(check: CheckRun) -> dict[str, Any]:
    """Run the tests marked gpu; returns the counts, and the names of failed tests."""
    report = check.out / "tests.txt"
    command = [sys.executable, "-m", "pytest", "-v", "-rfE", "--tb=short", "-p", "no:cacheprovider"]
    command += ["tests/gpu", "-m", "gpu and not slow"]
    command += ["-k", "autocast or path_of_a_pitch"] if check.small else []
    environment = {**os.environ, "CODECVQ_GPU_TESTS": check.device.type}
    with report.open("w", encoding="utf-8") as file:
        tests = subprocess.Popen(
            command, cwd=HERE, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            code: int | None = tests.wait(timeout=max(30.0, min(120.0, check.left_s - 60)))
        except subprocess.TimeoutExpired:
            os.killpg(tests.pid, signal.SIGKILL)  # including child processes that would occupy the GPU
            code = None
    lines = report.read_text(encoding="utf-8").splitlines()
    result = {"result": lines[-1] if lines else "no output"}
    if code == 0:
        return result
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    stopped = "the tests took too long" if code is None else f"pytest ended with {code}"
    return result | {"error": "; ".join(failed) or stopped}


# recipes


def full_size_recipe(check: CheckRun, name: str, compiled: bool) -> Recipe:
    """The recipe at its own size on the bundled corpus, with discriminators active from the first step."""
    keys = ["corpus.name=prompts", "corpus.root=null", "corpus.cache=device", "training.workers=0"]
    keys += ["training.init_from=null", "training.init_partial=false", "training.freeze=[]"]
    recipe = load_recipe(name, keys)
    if check.small:
        recipe = smoke_recipe(recipe)
    if recipe.discriminator is not None:
        section = recipe.discriminator.model_copy(update={"start_step": 0})
        recipe = recipe.model_copy(update={"discriminator": section})
    frozen = load_recipe(name).training.freeze
    training = {"freeze": frozen, "compile": compiled and not check.small}  # compiling on a CPU takes minutes
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=training)})


def measure_steps(check: CheckRun, name: str, compiled: bool) -> dict[str, Any]:
    """Time, memory and losses of training steps of a recipe."""
    recipe = full_size_recipe(check, name, compiled)
    gc.collect()  # frees the previous learner, which is in a reference cycle, before memory is measured
    if check.device.type == "cuda":
        torch.cuda.empty_cache()
    if compiled:
        torch._dynamo.reset()
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
    learner.step_metrics.take_means()
    warm_s = time.perf_counter() - began
    with Utilization(check.device) as utilization:
        for step in range(warm_up, warm_up + steps):
            learner.step(step, on_device.batch(step))
        scalars = learner.step_metrics.take_means()  # synchronizes with the device
    items, seconds = recipe.training.batch_size, recipe.corpus.segment_s
    return {
        "step_s": round(utilization.seconds / steps, 4),
        "audio_s_per_s": round(items * seconds * steps / utilization.seconds, 1),
        "warm_up_s": round(warm_s, 1),
        "peak_gb": peak_gb(check.device),
        "busy": utilization.share,
        "loss": scalars.get("loss/total"),
        **({} if is_finite(scalars, learner) else {"error": "losses are not finite, or steps were skipped"}),
    }


def is_finite(scalars: dict[str, float], learner: Learner) -> bool:
    """Whether all losses are finite and no step was skipped."""
    return bool(scalars) and not learner.step_metrics.skipped and all(map(math.isfinite, scalars.values()))


def peak_gb(device: torch.device) -> float | None:
    """Peak memory of tensors in GB; None on a CPU."""
    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if device.type == "cuda" else None


# the bundled codec


def codec_speed(check: CheckRun, batch: int) -> dict[str, Any]:
    """Seconds of audio per second that are encoded and decoded, in batches."""
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
    """Median seconds of a call, between two synchronizations; the first call is not counted."""
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        began = time.perf_counter()
        do()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return sorted(times[1:])[repeats // 2]


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def tokenize_speed(check: CheckRun) -> dict[str, Any]:
    """Seconds of audio per second that become a token dataset: reading, encoding, writing."""
    codec = codecvq.load("speech-16k", check.device)
    clips = open_corpus("prompts").clips
    with tempfile.TemporaryDirectory() as folder:
        done = tokenize(codec, clips[:4] if check.small else clips, Path(folder) / "tokens")
    return {"audio_s_per_s": round(done.audio_s / done.elapsed_s), "clips": done.clips}


def quantizer_speedups(check: CheckRun) -> dict[str, Any]:
    """Speedup of each codecvq quantizer over the peer library."""
    script, file = HERE / "benchmarks" / "quantizers.py", check.out / "quantizers.json"
    command = [sys.executable, script, "--quick", "--device", check.device.type, "--json", file]
    command += ["--vectors", "64" if check.small else "8192", "--only"]
    command += QUANTIZERS[-2:] if check.small else QUANTIZERS
    speedups: dict[str, Any] = {}
    try:
        limit_s = max(10.0, min(60.0, check.left_s - 5))
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
        if done.returncode:
            speedups["error"] = (
                done.stderr.splitlines()[-1] if done.stderr else f"ended with {done.returncode}"
            )
    except subprocess.TimeoutExpired:
        speedups["stopped_after_s"] = limit_s
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    return speedups | {f"{r['quantizer']} {r['mode']}": round(r["peer_ms"] / r["ours_ms"], 2) for r in rows}


# output


def machine(device: torch.device) -> dict[str, Any]:
    """The device and the versions of this run."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__, "codecvq": codecvq.__version__}


def table(check: CheckRun) -> str:
    """All rows as Markdown."""
    lines = [f"{machine(check.device)}", "", "| part | what | results | s |", "|---|---|---|---|"]
    for row in check.rows:
        hidden = ("part", "name", "took_s")
        results = ", ".join(
            f"{key} {_format_value(value)}" for key, value in row.items() if key not in hidden
        )
        lines.append(f"| {row['part']} | {row['name']} | {results} | {row['took_s']} |")
    return "\n".join(lines)


def _format_value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
