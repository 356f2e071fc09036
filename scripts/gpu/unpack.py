"""Unpack the speech parts that are present, and join their manifests.

    python scripts/gpu/unpack.py .gpu

writes .gpu/clips/manifest.jsonl and the clips that it names, with G.722 decoded to WAV. Parts that were
unpacked before are not unpacked again. If a part is missing, the manifest lacks its clips and is otherwise
the same.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import zipfile
from collections.abc import Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from scripts.gpu import g722  # noqa: E402

CLIPS, MANIFEST, CHECKSUM = "clips.zip", "manifest.jsonl", "sha256"
G722 = ".g722"
#: The suffix of decoded WAV files. With `.wav`, training would read only the segment of files longer than a
#: minute; from G.722 it cuts the segment out of the whole file, which can differ by one sample.
DECODED = ".wave"


def main() -> None:
    """Unpack the folder given on the command line, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".gpu"), help="output of pack.py")
    options = parser.parse_args()
    manifest = unpack(options.folder, options.folder / "clips")
    parts = sum(1 for _ in packed_parts(options.folder))
    clips = manifest.read_text(encoding="utf-8").count("\n")
    print(f"{clips} clips of {parts} parts: corpus.name=null corpus.manifest={manifest}")


def packed_parts(folder: Path) -> Iterable[Path]:
    """The archives of the parts, in order."""
    archives = folder.glob(f"speech-*/{CLIPS}")
    return sorted(archives, key=lambda path: int(path.parent.name.removeprefix("speech-")))


def unpack(folder: Path, clips: Path) -> Path:
    """Unpack all parts below `folder` into `clips`, and return the joined manifest."""
    archives = packed_parts(folder)
    names = {archive.parent.name for archive in archives}
    for stale in clips.glob("speech-*"):
        if stale.name not in names:
            shutil.rmtree(stale)
    for archive in archives:
        unpack_part(archive, clips / archive.parent.name)
    clips.mkdir(parents=True, exist_ok=True)
    rows = (clips / archive.parent.name / MANIFEST for archive in archives)
    manifest = clips / MANIFEST
    manifest.write_bytes(b"".join(path.read_bytes() for path in rows))
    return manifest


def unpack_part(archive: Path, folder: Path) -> None:
    """Unpack one part, unless `folder` already contains it."""
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    done = folder / CHECKSUM
    if done.is_file() and done.read_text(encoding="utf-8") == checksum:
        return
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    for old in (folder, unfinished):
        shutil.rmtree(old, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with zipfile.ZipFile(archive) as file:
        file.extractall(unfinished)
    decode_g722(sorted(unfinished.glob(f"*{G722}")))
    (unfinished / CHECKSUM).write_text(checksum, encoding="utf-8")
    unfinished.rename(folder)


def decode_g722(paths: list[Path]) -> None:
    """Replace each G.722 file with a WAV file, on all cores."""
    pool: Executor = ThreadPoolExecutor() if g722.COMPILED else ProcessPoolExecutor()
    with pool:
        for _ in pool.map(to_wav, paths):
            pass


def to_wav(path: Path) -> None:
    """Replace a G.722 file with a 16-bit WAV file."""
    import soundfile

    samples = g722.decode(path.read_bytes())
    soundfile.write(path.with_suffix(DECODED), samples, g722.SAMPLE_RATE, format="WAV", subtype="PCM_16")
    path.unlink()


if __name__ == "__main__":
    main()
