"""Bit rate of codes with learned tables, without, and with the adaptive model.

    python benchmarks/learned_rate.py --recipe speech-16k --root sounds --data test_speech

Tables are learned from the training and validation clips of the recipe's corpus. The bytes are counted on the
held-out clips, cut into chunks: each chunk is coded by itself, as in a `.cvq` file. The entropies are those
of the held-out digits themselves, with the Miller-Madow correction: of each digit, and of each digit in the
contexts of the learned tables.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import codecvq
from codecvq.bitstream.entropy import entropy_encode
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.learned import learned_decode, learned_encode
from codecvq.bitstream.packed import Codes, pack_codes
from codecvq.bitstream.payload import SPLIT_ABOVE
from codecvq.bitstream.table_search import learn_tables
from codecvq.code_entropy import entropy_nats
from codecvq.codec import Codec
from codecvq.data import Corpus, open_corpus
from codecvq.quantizer import CodeTables
from codecvq.training.builders import recipe_corpus
from codecvq.training.recipe import load_recipe
from codecvq.training.table_learning import encode_clips

CHUNKS_S = (1, 10, None)  # None: whole clips
STEPS = (0, 64, 1024)


def codes_of(codec: Codec, corpus: Corpus, minutes: float) -> list[Codes]:
    """Codes `[N, T]` of clips drawn with a fixed seed, `minutes` in total."""
    return list(encode_clips(codec, corpus, 60 * minutes))


def first_codebooks(tables: CodeTables, count: int) -> CodeTables:
    """The tables of the first codebooks, which do not depend on the others."""
    kept = sum(symbol.codebook < count for symbol in tables.symbols)
    return CodeTables(
        tables.codebook_sizes[:count], tables.symbols[:kept], tables.frequencies[:kept], tables.step
    )


def chunks_of(clips: Sequence[Codes], frames: int | None) -> list[Codes]:
    """Clips cut into chunks of `frames` frames."""
    return [
        clip[:, at : at + (frames or clip.shape[1])]
        for clip in clips
        for at in range(0, clip.shape[1], frames or clip.shape[1])
    ]


def packed_bytes(codes: Codes, sizes: Sequence[int]) -> int:
    """Bytes of packed codes."""
    return len(pack_codes(codes, sizes))


def adaptive_bytes(codes: Codes, sizes: Sequence[int]) -> int:
    """Bytes of the smaller of the two payloads without tables."""
    layout = Layout.full(sizes, codes.shape[1])
    return min(len(entropy_encode(codes, layout, split_above)) for split_above in SPLIT_ABOVE.values())


def learned_bytes(tables: CodeTables) -> Callable[[Codes, Sequence[int]], int]:
    """Return a function for the bytes of the learned payload, which checks that it decodes to the codes."""

    def count(codes: Codes, sizes: Sequence[int]) -> int:
        layout = Layout.full(sizes, codes.shape[1])
        data = learned_encode(codes, layout, tables)
        if not np.array_equal(learned_decode(data, layout, tables), codes):
            raise SystemExit("decoding returned different codes")
        return len(data)

    return count


def entropy_bits(clips: Sequence[Codes], tables: CodeTables) -> float:
    """Entropy of all held-out digits in the contexts of the tables, corrected, in bits."""
    counts = tables.context_counts(clips)
    total = 0.0
    for table in counts:
        for row in table[table.sum(axis=1) > 0]:
            seen = row[row > 0]
            total += float(entropy_nats(seen)) * seen.sum() + (len(seen) - 1) / 2
    return total / math.log(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--codec", default="speech-16k")
    parser.add_argument("--recipe", default="speech-16k", help="its corpus is counted")
    parser.add_argument("--data", default="test_speech", help="held-out clips")
    parser.add_argument("--root", type=Path, help="location of the corpora")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training clips")
    parser.add_argument("--num-codebooks", type=int, nargs="+", default=[2, 6])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    codec = codecvq.load(arguments.codec)
    assert isinstance(codec, Codec), "a codec with code_levels"
    overrides = [f"corpus.root={arguments.root}"] if arguments.root else []
    corpus = recipe_corpus(load_recipe(arguments.recipe, overrides).corpus).measured()
    train = codes_of(codec, corpus.split("train"), arguments.minutes)
    validation = codes_of(codec, corpus.split("validation"), arguments.minutes / 5)
    held_out = codes_of(codec, open_corpus(arguments.data, root=arguments.root).measured(), 1e4)
    levels, rate = codec.quantizer.code_levels, round(codec.frame_rate)
    learned = learn_tables(train, validation, codec.codebook_sizes, levels=levels, piece=rate)
    if learned is None:
        raise SystemExit("there are too few clips to learn tables")
    plain = CodeTables.join(
        [
            CodeTables.uniform((size,), levels=own)
            for size, own in zip(codec.codebook_sizes, levels, strict=True)
        ]
    )
    order_0 = plain.with_counts(train)
    results = []
    for depth in arguments.num_codebooks:
        clips = [codes[:depth] for codes in held_out]
        methods: dict[str, Callable[[Codes, Sequence[int]], int]] = {
            "packed": packed_bytes,
            "adaptive": adaptive_bytes,
            "tables, order 0": learned_bytes(replace(first_codebooks(order_0, depth), step=0)),
        }
        own = first_codebooks(learned.tables, depth)
        for step in STEPS:
            methods[f"tables, step {step}"] = learned_bytes(replace(own, step=step))
        if stored := codec.code_tables():
            methods["stored with the codec"] = learned_bytes(first_codebooks(stored, depth))
        seconds = sum(clip.shape[1] for clip in clips) / float(codec.frame_rate)
        for name, count in methods.items():
            row: dict[str, object] = {"codebooks": depth, "coding": name}
            for chunk_s in CHUNKS_S:
                parts = chunks_of(clips, None if chunk_s is None else chunk_s * rate)
                began = time.perf_counter()
                total = sum(count(part, codec.codebook_sizes[:depth]) for part in parts)
                row["clip" if chunk_s is None else f"{chunk_s} s"] = 8 * total / seconds
                row["x real time"] = seconds / (time.perf_counter() - began)
            results.append(row)
        for name, tables in (("entropy, order 0", plain), ("entropy in context", learned.tables)):
            bits = entropy_bits(clips, first_codebooks(tables, depth)) / seconds
            results.append({"codebooks": depth, "coding": name, "clip": bits})
    frames = [sum(codes.shape[1] for codes in clips) for clips in (train, validation, held_out)]
    if arguments.json:
        print(json.dumps({"frames": frames, "entries": learned.tables.entries, "results": results}, indent=2))
        return
    print(
        f"{frames[0]:,} frames counted, {frames[1]:,} for contexts, {frames[2]:,} held out in "
        f"{len(held_out)} clips of {arguments.data}; {learned.tables.entries:,} frequencies. bit/s by length "
        "of a chunk:"
    )
    columns = ["1 s", "10 s", "clip"]
    print(f"{'codebooks':>9}  {'coding':24}" + "".join(f"{c:>8}" for c in columns) + f"{'x real time':>13}")
    for row in results:
        cells = "".join(f"{row[c]:8.0f}" if c in row else " " * 8 for c in columns)
        speed = f"{row['x real time']:13.0f}" if "x real time" in row else ""
        print(f"{row['codebooks']:>9}  {row['coding']:24}{cells}{speed}")


if __name__ == "__main__":
    main()
