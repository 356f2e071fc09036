"""Pack what a GPU machine without a network lacks: wheels, and speech for training.

    python scripts/gpu/pack.py --root /root/sounds --out .gpu

writes .gpu/wheels, .gpu/speech-1, .gpu/speech-2, ... and .gpu/parts.json with their sizes and checksums. Each
folder has at most 30 MiB: a transfer is limited to 64 MiB, of which the working tree takes 27. On the GPU
machine, `source scripts/gpu/environment.sh` unpacks the folders. The same corpora give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import yaml

# Import codecvq and plugins from this checkout, even if another version is installed.
HERE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE), str(HERE / "plugins")]

from codecvq.data import open_corpus  # noqa: E402
from codecvq.errors import CodecvqError  # noqa: E402
from codecvq.files import write_atomically  # noqa: E402
from scripts.gpu import speech, wheels  # noqa: E402

RECIPE = HERE / "recipes" / "speech-16k.yaml"
MIB = 1 << 20


def main() -> None:
    """Pack as the command line requests, and print the parts."""
    options = read_options()
    try:
        if options.only != "speech":
            pack_wheels(options.out / "wheels", options.python)
        if options.only != "wheels":
            pack_speech(options)
        rows = describe(options.out)
        check_sizes(rows, round(options.limit_mib * MIB))
    except (CodecvqError, wheels.WheelError) as error:
        sys.exit(str(error))
    write_atomically(options.out / "parts.json", json.dumps(rows, indent=1) + "\n")
    for name, row in rows.items():
        print(f"{name:10} {row['bytes'] / MIB:6.2f} MiB  {len(row['files'])} files")
    print(f"each is below {options.limit_mib:g} MiB; checksums are in {options.out / 'parts.json'}")


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="folder of the corpora; default: where they are installed")
    parser.add_argument("--out", type=Path, default=HERE / ".gpu", help="output folder; default: %(default)s")
    parser.add_argument("--corpus", nargs="+", help=f"registered corpora; default: those of {RECIPE.name}")
    parser.add_argument("--coding", choices=("opus", "flac"), default="opus", help="default: %(default)s")
    parser.add_argument("--bitrate", type=int, default=30000, help="of Opus, bit/s; default: %(default)s")
    parser.add_argument(
        "--limit-mib", type=float, default=30.0, help="maximum size of a folder; default: %(default)s"
    )
    parser.add_argument(
        "--most-parts", type=int, default=5, help="maximum number of speech folders; default: %(default)s"
    )
    parser.add_argument("--only", choices=("wheels", "speech"), help="pack only these")
    parser.add_argument("--python", help="a Python 3.12 that builds wheels; default: the first one found")
    return parser.parse_args()


def pack_wheels(folder: Path, python: str | None) -> None:
    """Fetch the wheels and check that none is missing."""
    wheels.fetch(folder, python or wheels.find_python())
    needed = wheels.requirements(HERE / "pyproject.toml")
    wheels.check(needed, wheels.read_requirements(folder), wheels.read_image())


def pack_speech(options: argparse.Namespace) -> None:
    """Write the speech parts and print their contents."""
    names = options.corpus or yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["corpus"]["name"]
    corpus = open_corpus(names, root=options.root)
    parts = speech.pack_speech(
        corpus,
        options.out,
        coding=options.coding,
        bitrate_bps=options.bitrate,
        limit_bytes=round(options.limit_mib * MIB),
        max_parts=options.most_parts,
    )
    for part in parts:
        print(f"{part.folder.name}: {part.clips} clips, {part.duration_s / 60:.1f} minutes", file=sys.stderr)


def describe(out: Path) -> dict[str, dict[str, Any]]:  # Any: JSON values
    """Size of each folder to transfer, with size and sha256 of its files."""
    folders = sorted(path for path in out.iterdir() if path.name == "wheels" or path.name[:7] == "speech-")
    rows: dict[str, dict[str, Any]] = {}
    for folder in folders:
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in sorted(folder.iterdir())
        }
        rows[folder.name] = {"bytes": sum(file["bytes"] for file in files.values()), "files": files}
    return rows


def check_sizes(rows: dict[str, dict[str, Any]], limit_bytes: int) -> None:
    """Raise WheelError or CodecvqError for a folder that exceeds the transfer limit."""
    for name, row in rows.items():
        if row["bytes"] > limit_bytes:
            error = wheels.WheelError if name == "wheels" else CodecvqError
            raise error(f"{name} has {row['bytes']} bytes, more than {limit_bytes}. Pack less.")


if __name__ == "__main__":
    main()
