"""The quality cost of packing: packed clips compared with the originals.

    python scripts/gpu/unpack.py .gpu
    python scripts/gpu/quality.py --root /root/sounds --packed .gpu

prints a line per corpus: the bit rate and, for `--clips` clips drawn with a fixed seed, the PESQ-WB of packed
against original clips, the SNR, the number of identical clips, and the largest delay.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

# Import codecvq and plugins from this checkout, even if another version is installed.
HERE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE), str(HERE / "plugins")]

from codecvq.data import Clip, Corpus, open_corpus  # noqa: E402
from scripts.gpu.speech import to_int16  # noqa: E402

FloatArray = npt.NDArray[np.float32]

RECIPE = HERE / "recipes" / "speech-16k.yaml"
SAMPLE_RATE = 16000  # Hz
MIN_DURATION_S = 0.75  # PESQ of shorter clips is not informative
MAX_DELAY = 400  # samples, searched in both directions


@dataclass(frozen=True)
class Score:
    """A packed clip compared with its original."""

    bits: int
    duration_s: float
    pesq_wb: float
    snr_db: float  # infinite if all samples are equal
    delay: int  # samples


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of the corpora; default: where they are installed")
    parser.add_argument(
        "--packed", type=Path, default=HERE / ".gpu", help="output of pack.py; default: %(default)s"
    )
    parser.add_argument("--clips", type=int, default=40, help="per corpus; default: %(default)s")
    options = parser.parse_args()
    names = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["corpus"]["name"]
    originals = open_corpus(names, root=options.root)
    packed = open_corpus(manifest=options.packed / "clips" / "manifest.jsonl")
    print(
        "| corpus | kbit/s | PESQ-WB: mean | lowest | SNR, dB | equal | delay |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name, pairs in draw_pairs(originals, packed, options.clips).items():
        print(table_row(name, [score(original, packed_clip) for original, packed_clip in pairs]), flush=True)


def draw_pairs(originals: Corpus, packed: Corpus, count: int) -> dict[str, list[tuple[Clip, Clip]]]:
    """Draw at most `count` pairs of original and packed clips for each corpus, by its name."""
    originals_by_id = {clip.id: clip for clip in originals}
    pairs = defaultdict(list)
    for clip in packed:
        if (clip.duration_s or 0.0) >= MIN_DURATION_S:
            pairs[clip.id.partition("/")[0]].append((originals_by_id[clip.id], clip))
    rng = random.Random(0)
    return {name: rng.sample(clips, min(count, len(clips))) for name, clips in pairs.items()}


def score(original: Clip, packed_clip: Clip) -> Score:
    """Compare one packed clip with its original."""
    from pesq import NoUtterancesError, pesq

    before, after = original.read(SAMPLE_RATE), packed_clip.read(SAMPLE_RATE)
    before = to_int16(before).astype(np.float32) / np.float32(32768)  # as in training
    assert before.shape == after.shape, f"{original.id}: {len(before)} samples became {len(after)}"
    try:
        quality = pesq(SAMPLE_RATE, before, after, "wb")
    except NoUtterancesError:
        quality = float("nan")
    with np.errstate(divide="ignore"):
        snr_db = 10 * np.log10(np.sum(before**2) / np.sum((before - after) ** 2))
    # Unpacked WAV files were transferred as G.722 streams.
    file = original.path if original.path.suffix == ".g722" else packed_clip.path
    return Score(
        8 * file.stat().st_size, len(before) / SAMPLE_RATE, quality, float(snr_db), delay(before, after)
    )


def delay(before: FloatArray, after: FloatArray) -> int:
    """Delay of `after` in samples, at the maximum of the cross-correlation."""
    size = 1 << (len(before) + MAX_DELAY).bit_length()
    cross = np.fft.irfft(np.fft.rfft(after, size) * np.fft.rfft(before, size).conj())
    return int(np.argmax(np.roll(cross, MAX_DELAY)[: 2 * MAX_DELAY + 1])) - MAX_DELAY


def table_row(name: str, scores: list[Score]) -> str:
    """The table row of a corpus."""
    rate = sum(score.bits for score in scores) / sum(score.duration_s for score in scores) / 1000
    quality = [score.pesq_wb for score in scores if np.isfinite(score.pesq_wb)]
    finite = [score.snr_db for score in scores if np.isfinite(score.snr_db)]
    snr = f"{np.mean(finite):.1f}" if finite else "∞"
    equal = sum(np.isinf(score.snr_db) for score in scores)
    late = max((score.delay for score in scores), key=abs)
    return (
        f"| `{name}` | {rate:.1f} | {np.mean(quality):.3f} | {min(quality):.2f} | {snr} "
        f"| {equal} of {len(scores)} | {late} |"
    )


if __name__ == "__main__":
    main()
