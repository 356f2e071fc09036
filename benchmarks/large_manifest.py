"""Memory and time to open, split, measure and segment a manifest with many rows.

    python benchmarks/large_manifest.py --rows 2000000

Each row names one of a hundred files, with an id, a text and one of a thousand speakers. Bytes per row are
the increase of the process's resident memory (without mapped files) since before it opened the manifest.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from codecvq.audio import write_audio
from codecvq.data.corpus import open_corpus
from codecvq.data.segments import Segments

RATE = 16_000
FILES, SPEAKERS = 100, 1000
Result = TypeVar("Result")


def write_manifest(folder: Path, rows: int) -> Path:
    for n in range(FILES):
        samples = np.random.default_rng(n).normal(0, 0.1, RATE)
        write_audio(folder / f"recording-{n}.wav", samples, RATE)
    path = folder / "manifest.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for n in range(rows):
            row = {
                "path": f"recording-{n % FILES}.wav",
                "id": f"speaker-{n % SPEAKERS}/utterance-{n}",
                "text": f"this is the text of utterance number {n}",
                "speaker": f"speaker-{n % SPEAKERS}",
                "duration": 1.0,
            }
            file.write(json.dumps(row) + "\n")
    return path


def memory_bytes(key: str = "RssAnon") -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--measure", action="store_true", help="also read the header of every clip's file")
    rows = (options := parser.parse_args()).rows

    def timed(what: str, make: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        result = make()
        seconds = time.perf_counter() - start
        gc.collect()
        each = (memory_bytes() - before) / rows
        print(f"{what:30} {seconds:8.1f} s  {1e6 * seconds / rows:7.2f} µs/row  {each:8.1f} bytes/row")
        return result

    with tempfile.TemporaryDirectory(prefix="codecvq-benchmark-") as folder:
        few = write_manifest(Path(folder), 100).rename(Path(folder) / "few.jsonl")
        manifest = write_manifest(Path(folder), rows)
        open_corpus(manifest=few).measured()  # warm-up: imports, and memory of threads
        gc.collect()
        before = memory_bytes()
        corpus = timed("open_corpus", lambda: open_corpus(manifest=manifest))
        parts = timed("three splits", lambda: [corpus.split(s) for s in ("train", "validation", "test")])  # type: ignore[arg-type]
        if options.measure:
            corpus = timed("measured", corpus.measured)
            parts = timed("three splits", lambda: [corpus.split(s) for s in ("train", "validation", "test")])  # type: ignore[arg-type]
            segments = timed("Segments", lambda: Segments(parts[0], RATE, 0.5, 16, 1, cache=False))
            timed("1000 clips drawn", lambda: [corpus[segments.draw(s, 0).clip].id for s in range(1000)])
        timed("1000 clips by index", lambda: [corpus[n * (rows // 1000)].text for n in range(1000)])
        print(f"{rows} rows, {len(corpus)} clips; peak of {memory_bytes('VmHWM') / 1e6:.0f} MB resident")


if __name__ == "__main__":
    main()
