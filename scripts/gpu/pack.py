"""Pack what a GPU machine without a network lacks: wheels, and speech to train on.

    python scripts/gpu/pack.py --root /root/sounds --out .gpu

writes .gpu/wheels, .gpu/speech-1, .gpu/speech-2, ... and .gpu/parts.json with their sizes and checksums. Each
folder is at most 30 MiB, since a transfer takes 64 MiB with the working tree's 27. There,
`source scripts/gpu/environment.sh` unpacks them. The same corpora give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import yaml

# The tree's own codecvq and plugins, installed or not.
HERE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE), str(HERE / "plugins")]

from codecvq.data import open_corpus  # noqa: E402
from codecvq.errors import CodecvqError  # noqa: E402
from codecvq.files import write_atomically  # noqa: E402
from scripts.gpu import speech, wheels  # noqa: E402

RECIPE = HERE / "recipes" / "speech-16k.yaml"
MIB = 1 << 20


def main() -> None:
    """Pack what the command line says, and print the parts."""
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
    print(f"each is below {options.limit_mib:g} MiB; their checksums: {options.out / 'parts.json'}")


def read_options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="where the corpora lie, if not where they are installed")
    parser.add_argument("--out", type=Path, default=HERE / ".gpu", help="the folder to write; %(default)s")
    parser.add_argument("--corpus", nargs="+", help=f"registered names; those of {RECIPE.name}")
    parser.add_argument("--coding", choices=("opus", "flac"), default="opus", help="%(default)s")
    parser.add_argument("--bitrate", type=int, default=30000, help="of Opus, bit/s; %(default)s")
    parser.add_argument("--limit-mib", type=float, default=30.0, help="of a folder; %(default)s")
    parser.add_argument("--most-parts", type=int, default=5, help="of speech; %(default)s")
    parser.add_argument("--only", choices=("wheels", "speech"), help="pack nothing else")
    parser.add_argument("--python", help="a Python 3.12 that builds wheels; found by itself if there is one")
    return parser.parse_args()


def pack_wheels(folder: Path, python: str | None) -> None:
    """Bring the wheels, and check that nothing is missing."""
    wheels.fetch(folder, python or wheels.find_python())
    needed = wheels.requirements(HERE / "pyproject.toml")
    wheels.check(needed, wheels.read_requirements(folder), wheels.read_image())


def pack_speech(options: argparse.Namespace) -> None:
    """Write the parts of speech, and print what they hold."""
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
    """Each folder that travels: its bytes, and size and sha256 of its files."""
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
    """Raise WheelError or CorpusError for a folder that is too large to travel."""
    for name, row in rows.items():
        if row["bytes"] > limit_bytes:
            error = wheels.WheelError if name == "wheels" else CodecvqError
            raise error(f"{name} has {row['bytes']} bytes, more than {limit_bytes}. Leave something out.")


if __name__ == "__main__":
    main()
