"""Make the folder of a pretrained codec from a run: weights in float16, and the curves of the run.

    python scripts/package_pretrained.py runs/speech-16k speech-16k

writes plugins/codecvq_pretrained/speech_16k: config.json and model.safetensors as `Codec.save` writes them,
curves.png, and metrics.jsonl with every third logged row and all validations. The model card, README.md, is
written by hand from the output of `codecvq compare`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from codecvq.codec import load

ROW_INTERVAL = 3  # one of this many rows is written to metrics.jsonl
FOLDER = Path(__file__).resolve().parents[1] / "plugins" / "codecvq_pretrained"


def main() -> None:
    """Write the folder for the run and name on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("name", help="the registered name: speech-16k")
    arguments = parser.parse_args()
    folder = FOLDER / arguments.name.replace("-", "_")
    codec = load(arguments.run)
    codec.name = arguments.name
    for name, buffer in codec.named_buffers():
        if name.endswith(".mel"):  # `save` does not round buffers, and stores rounded ones in half the bytes
            buffer.copy_(buffer.half())
    codec.save(folder, dtype=torch.float16)
    lines = (arguments.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    selected = [line for n, line in enumerate(lines) if n % ROW_INTERVAL == 0 or "validation/" in line]
    (folder / "metrics.jsonl").write_text("\n".join(selected) + "\n", encoding="utf-8")
    draw_curves([json.loads(line) for line in lines], folder / "curves.png")
    size = (folder / "model.safetensors").stat().st_size
    print(f"{folder}: {size / 1e6:.2f} MB of weights, sha256 {load(folder).weights_sha256}")


def draw_curves(rows: list[dict[str, float]], picture: Path) -> None:
    """Plot losses, quality on validation clips and codebook usage over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "mel loss": ("loss/mel", "validation/mel"),
        "validation": ("validation/pesq_wb", "validation/stoi"),
        "adversarial": ("discriminator/win_rate", "loss/feature_matching"),
        "share of codes in use": tuple(f"codebook/usage/{n}" for n in range(6)),
    }
    logged = {name for row in rows for name in row}
    panels = {title: names for title, names in panels.items() if logged & set(names)}
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(8, 2.5 * len(panels)), sharex=True)
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                axis.plot(*zip(*points, strict=True), label=name, marker="." if "validation" in name else "")
        axis.legend(fontsize=8)
        axis.set_title(title, loc="left", fontsize=10)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    figure.tight_layout()
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    main()
