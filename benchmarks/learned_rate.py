"""Bit rate of codes with learned tables and with the adaptive model: `python benchmarks/learned_rate.py`.

Tables are counted on the codes of the training split of a corpus, and of the speech in the folders of
`--speech`. The bytes are counted in the `.cvq` payloads of the test split, one file per clip. `--levels` are
the levels of an FSQ codebook; they split codes into digits.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

import codecvq
from codecvq.bitstream.entropy import entropy_encode
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.learned import learned_decode, learned_encode
from codecvq.bitstream.packed import Codes
from codecvq.bitstream.payload import SPLIT_ABOVE
from codecvq.data.clip import Clip
from codecvq.data.corpus import open_corpus
from codecvq.errors import CodecvqError
from codecvq.quantizer import CodeTables

SUFFIXES = {".wav", ".flac", ".ogg", ".g722"}


def codes_of(codec: codecvq.Codec, clips: Iterable[Clip]) -> list[Codes]:
    """Codes `[N, T]` of the readable clips of 0.5 to 20 s."""
    codes = []
    for clip in clips:
        try:
            samples = clip.read(codec.sample_rate)
        except CodecvqError as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        if 0.5 <= samples.size / codec.sample_rate <= 20:
            codes.append(codec.encode(torch.from_numpy(samples)[None, None])[0].numpy())
    return codes


def speech_in(folders: Sequence[Path], most: int) -> list[Clip]:
    """Clips of at most `most` audio files below the folders, drawn with a fixed seed."""
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in SUFFIXES)
    random.Random(0).shuffle(paths)
    return [Clip(id=str(path), path=path) for path in paths[:most]]


def cluster_codes(clips: Sequence[Codes], sizes: Sequence[int], count: int) -> list[np.ndarray]:
    """For each codebook, the class `[K]` of each code; codes of a class are followed by similar codes.

    Computed by k-means of the distributions of the next code, with the Kullback-Leibler divergence.
    """
    classes_by_codebook = []
    for n, size in enumerate(sizes):
        next_counts = np.zeros((size, size))
        for codes in clips:
            np.add.at(next_counts, (codes[n, :-1], codes[n, 1:]), 1)
        marginal = (next_counts.sum(axis=0) + 0.5) / (next_counts.sum() + 0.5 * size)
        classes = np.random.default_rng(0).integers(0, count, size)
        classes[:count] = np.arange(count)
        for _ in range(12):
            sums = np.zeros((count, size))
            np.add.at(sums, classes, next_counts)
            centers = (sums + 50 * marginal) / (sums.sum(axis=1, keepdims=True) + 50)
            classes = (next_counts @ np.log(centers).T).argmax(axis=1)
        classes[0] = count - 1  # makes the number of classes equal to `count`
        classes_by_codebook.append(classes)
    return classes_by_codebook


def adaptive_bytes(codes: Codes, sizes: Sequence[int]) -> int:
    """Bytes of the smaller of the two payloads without tables."""
    layout = Layout.full(sizes, codes.shape[1])
    return min(len(entropy_encode(codes, layout, split_above)) for split_above in SPLIT_ABOVE.values())


def learned_bytes(codes: Codes, tables: CodeTables) -> int:
    """Bytes of the learned payload; also checks that it decodes to the same codes."""
    layout = Layout.full(tables.codebook_sizes, codes.shape[1])
    data = learned_encode(codes, layout, tables)
    if not np.array_equal(learned_decode(data, layout, tables), codes):
        raise SystemExit("decoding returned different codes")
    return len(data)


def variants(
    clips: Sequence[Codes], sizes: Sequence[int], levels: Sequence[int] | None
) -> dict[str, CodeTables]:
    """Return uniform tables, to be filled with counts, by label."""
    classes = cluster_codes(clips, sizes, 128)
    tables = {
        "split_above codes": CodeTables.uniform(sizes),
        "split_above codes, 128 classes of the previous": CodeTables.uniform(
            sizes, contexts=("previous",), classes=classes
        ),
        "split_above codes, the previous": CodeTables.uniform(sizes, contexts=("previous",)),
    }
    if levels:
        for contexts in ((), ("previous",), ("previous", "digit"), ("previous", "digit", "below")):
            name = "digits" + "".join(f", {context}" for context in contexts)
            tables[name] = CodeTables.uniform(sizes, levels=levels, contexts=contexts)
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", default="speech-16k")
    parser.add_argument("--corpus", default="prompts")
    parser.add_argument("--speech", type=Path, nargs="*", default=[], help="folders of additional speech")
    parser.add_argument("--most", type=int, default=2000, help="maximum number of files of this speech")
    parser.add_argument("--without-corpus", action="store_true", help="count only the codes of --speech")
    parser.add_argument("--levels", type=int, nargs="+", default=[8, 5, 5, 5])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    codec, corpus = codecvq.load(arguments.codec), open_corpus(arguments.corpus)
    sizes = codec.codebook_sizes
    levels = arguments.levels if math.prod(arguments.levels) >= max(sizes) else None
    counted = codes_of(codec, speech_in(arguments.speech, arguments.most))
    counted += [] if arguments.without_corpus else codes_of(codec, corpus.split("train"))
    held_out = codes_of(codec, corpus.split("test"))
    nominal = sum(codes.shape[1] for codes in held_out) * sum(map(math.log2, sizes)) / 8
    results = [("nominal", 0, nominal, 0.0)]
    results.append(("adaptive", 0, sum(adaptive_bytes(codes, sizes) for codes in held_out), 0.0))
    for name, tables in variants(counted, sizes, levels).items():
        filled = tables.with_counts(counted)
        began = time.perf_counter()
        total = sum(learned_bytes(codes, filled) for codes in held_out)
        results.append((name, filled.entries, total, time.perf_counter() - began))
    frames = [sum(codes.shape[1] for codes in clips) for clips in (counted, held_out)]
    if arguments.json:
        print(json.dumps({"frames": frames, "results": results}, indent=2))
        return
    seconds = frames[1] / float(codec.frame_rate)
    print(
        f"counted {frames[0]:,} frames, held out {frames[1]:,} in {len(held_out)} clips of {arguments.corpus}"
    )
    heads = f"{'entries':>10} {'bytes':>9} {'bit/s':>7} {'nominal':>8} {'adaptive':>9} {'x real time':>12}"
    print(f"{'':42} {heads}")
    for name, entries, total, taken in results:
        speed = f"{2 * seconds / taken:12,.0f}" if taken else ""
        print(
            f"{name:42} {entries:10,} {total:9,.0f} {8 * total / seconds:7,.0f} {total / nominal:8.3f} "
            f"{total / results[1][2]:9.3f} {speed}"
        )


if __name__ == "__main__":
    main()
