"""Train a recipe for a number of minutes, evaluate it, and write results that can be transferred back.

    scripts/gpu/train speech-16k-natural --minutes 5 [--init-from CODEC] [--out FOLDER] [KEY=VALUE ...]

One such training is called a leg. It runs the training of `codecvq train` with `training.minutes` and
`corpus.cache: device`. If packed speech has been unpacked (.gpu/clips), it replaces the recipe's corpus: the
same clips with the same split, without test clips. Weights are initialized from `--init-from`, by default
from the best codec (scripts/gpu/best) if it exists, else from the recipe's `init_from`. FOLDER (by default
$OUT) gets:

    leg.json                  settings, steps, seconds, device utilization and scores of this training leg
    metrics.jsonl             the curves
    best.tar.*, codec.tar.*   the best and the last codec, weights in float16, in parts of at most 15 MiB;
                              unpack them with: cat best.tar.* | tar x
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from codecvq.codec import Codec, load
from codecvq.errors import CodecvqError, MissingExtra
from codecvq.evaluation.compare import compare
from codecvq.evaluation.metrics import prepare
from codecvq.training.builders import recipe_corpus
from codecvq.training.loop import train
from codecvq.training.progress import TrainingProgress
from codecvq.training.recipe import Recipe, load_recipe

HERE = Path(__file__).resolve().parents[2]
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from scripts.gpu.utilization import Utilization  # noqa: E402

CLIPS = Path(os.environ.get("CODECVQ_PACKED", ".gpu")) / "clips" / "manifest.jsonl"
BEST_CODEC = HERE / "scripts" / "gpu" / "best"
PART_BYTES, MAX_PARTS, MAX_BYTES = 15 * 2**20, 6, 60 * 2**20  # limits are 16 MiB, 8 files and 64 MiB
METRICS = ("pesq_wb", "stoi", "estoi", "mel_distance")
MAX_EVALUATED_CLIPS = 24  # validation clips


def main() -> None:
    """Run the training leg of the command line."""
    options = arguments()
    out = Path(options.out or os.environ.get("OUT") or "leg")
    out.mkdir(parents=True, exist_ok=True)
    try:
        recipe = leg_recipe(options)
        leg = run(recipe, options.run or Path(tempfile.mkdtemp(prefix="leg-")) / "run", out)
    except CodecvqError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(leg, indent=1))


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="a YAML file or a registered name")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys of the recipe")
    parser.add_argument(
        "--minutes", type=float, required=True, help="minutes of training, without evaluation"
    )
    parser.add_argument("--init-from", help="a codec folder, a run folder, or a registered name")
    parser.add_argument("--out", type=Path, help="FOLDER; by default $OUT")
    parser.add_argument("--run", type=Path, help="the run folder, by default a temporary one")
    return parser.parse_intermixed_args()


def leg_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe with the settings of this leg."""
    keys = [f"training.minutes={options.minutes}", "corpus.cache=device", "training.workers=0"]
    # Only a final checkpoint: it has 600 MB with the discriminators, which are not transferred back.
    keys += ["training.checkpoint_every=1000000"]
    if CLIPS.is_file():
        keys += ["corpus.name=null", f"corpus.manifest={CLIPS.resolve()}"]
    start = options.init_from or (str(BEST_CODEC) if (BEST_CODEC / "config.json").is_file() else None)
    if start is not None:
        keys += [f"training.init_from={json.dumps(start)}", "training.init_partial=true"]
    return load_recipe(options.recipe, [*keys, *options.overrides])


def run(recipe: Recipe, folder: Path, out: Path) -> dict[str, Any]:
    """Train, write the codecs, compare them with the initial codec, and return the results."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    output, started = OutputFolder(folder, out), time.monotonic()
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    leg: dict[str, Any] = {"recipe": recipe.model_dump(mode="json"), "device": name}
    leg["torch"] = torch.__version__
    output.write_leg(leg)
    try:
        with Utilization(device) as utilization:
            trained = train(recipe, folder, output.report)
    finally:  # results are written however the training ends
        output.copy_results()
    leg |= {
        "steps": trained.steps,
        "train_s": round(time.monotonic() - started, 1),
        "device_busy": utilization.share,
        "skipped": trained.skipped,
        "unreadable": len(trained.failures),
        "left_behind": output.skipped_codecs,
    }
    output.write_leg(leg)
    leg["scores"] = scores(recipe, folder, str(device))
    leg["all_s"] = round(time.monotonic() - started, 1)
    output.write_leg(leg)
    return leg


class OutputFolder:
    """Writes the files of a run to the output folder as soon as they exist.

    The machine may stop at any time.
    """

    def __init__(self, run: Path, out: Path) -> None:
        self.run, self.out = run, out
        self.skipped_codecs: list[str] = []  # codecs that are too large to transfer
        self._copied_at: dict[str, float] = {}  # modification time of each copied codec, by name

    def report(self, progress: TrainingProgress) -> None:
        """Print a line every hundred steps and copy new results."""
        if progress.step % 100 == 0 or progress.step == progress.steps:
            loss = progress.scalars.get("loss/total", float("nan"))
            print(f"step {progress.step}/{progress.steps}  loss {loss:.3f}", file=sys.stderr, flush=True)
            self.copy_results()

    def copy_results(self) -> None:
        """Copy the curves and new codecs, the best one first."""
        if (self.run / "metrics.jsonl").is_file():
            shutil.copy(self.run / "metrics.jsonl", self.out / "metrics.jsonl")
        for name in ("best", "codec"):
            config = self.run / name / "config.json"
            if config.is_file() and self._copied_at.get(name) != config.stat().st_mtime:
                self._copied_at[name] = config.stat().st_mtime
                self._write(load(self.run / name), name)

    def _write(self, codec: Codec, name: str) -> None:
        """Write the codec's folder as a tar file in parts, weights in float16, unless it is too large."""
        with tempfile.TemporaryDirectory() as temporary:
            codec.save(Path(temporary) / name, dtype=torch.float16)
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as tar:
                tar.add(Path(temporary) / name, arcname=name)
        data = packed.getvalue()
        others = [path for path in self.out.glob("*.tar.*") if not path.name.startswith(name)]
        parts = -(-len(data) // PART_BYTES)
        if (
            sum(path.stat().st_size for path in others) + len(data) > MAX_BYTES
            or len(others) + parts > MAX_PARTS
        ):
            self.skipped_codecs = sorted({*self.skipped_codecs, name})
            return
        for n in range(parts):
            (self.out / f"{name}.tar.{n}").write_bytes(data[n * PART_BYTES : (n + 1) * PART_BYTES])

    def write_leg(self, leg: dict[str, Any]) -> None:
        """Write leg.json with the current results."""
        (self.out / "leg.json").write_text(json.dumps(leg, indent=1) + "\n", encoding="utf-8")


def scores(recipe: Recipe, folder: Path, device: str) -> dict[str, Any]:
    """Mean scores on validation clips of the best, the last and the initial codec.

    Each is evaluated with all codebooks and, if the first codebooks can be decoded alone, with half of them.
    """
    last = load(folder / "codec")
    depths = {last.num_codebooks}
    if last.quantizer.prefix_decodable:
        depths.add(-(-last.num_codebooks // 2))
    sources = [str(path) for path in (folder / "best", folder / "codec") if (path / "config.json").is_file()]
    sources += [recipe.training.init_from] if recipe.training.init_from else []
    codecs = [f"{source}@{depth}" for depth in sorted(depths) for source in sources]
    clips = recipe_corpus(recipe.corpus).split("validation").clips
    ready = [name for name in METRICS if is_available(name)]
    compared = compare(codecs, clips, ready, max_clips=MAX_EVALUATED_CLIPS, device=device)
    print(compared.markdown())
    return {
        codec.name: {column.name: codec.mean(column.name).value for column in compared.columns}
        for codec in compared.codecs
    }


def is_available(metric: str) -> bool:
    """Whether a metric can be used on this machine; PESQ is a compiled package."""
    try:
        return bool(prepare([metric]).ready)
    except MissingExtra:
        return False


if __name__ == "__main__":
    main()
