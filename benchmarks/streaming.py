"""Pushing blocks of a stream compared with whole encoding and decoding, and with moshi's Mimi.

    python benchmarks/streaming.py [--seconds 10] [--repeats 3] [--only NAME …]
    pip install moshi && python benchmarks/streaming.py  # also Mimi

All networks have random weights: the time does not depend on them. The audio is bundled speech. Everything
runs in one process on one thread, interleaved. Times are processor times, so another program on the machine
changes them little. Each number is the median of the repeats.

The first table divides the time of all blocks by the time of encoding or decoding the same audio at once. The
second has real-time factors and times of blocks: of 20 ms, and of 80 ms, the frame of Mimi.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

import codecvq
from codecvq.evaluation.stream_speed import BlockTimes, StreamSpeed, bundled_speech, measure_stream
from codecvq.processor import processor_name
from codecvq.training.builders import build_codec
from codecvq.training.recipe import load_recipe

SEANET = {"name": "seanet", "preset": "base", "causal": True}
RESIDUAL = {"name": "residual_vq", "codebook_size": 1024, "codebook_dim": 8, "num_codebooks": 8}
BLOCK_S, MIMI_BLOCK_S, LONG_BLOCK_S = 0.02, 0.08, 1.0
MIMI = "Mimi (moshi)"


def recipe_codec(name: str) -> codecvq.Codec:
    """Return an untrained codec of a recipe."""
    return build_codec(load_recipe(name)).eval()


CODECS: dict[str, Callable[[], codecvq.Codec]] = {
    "speech-16k-stream": lambda: recipe_codec("speech-16k-stream"),
    "stream-24k": lambda: recipe_codec("stream-24k"),
    "SEANet base, causal, 24 kHz": lambda: codecvq.Codec(
        sample_rate=24_000, network=SEANET, quantizer=RESIDUAL
    ).eval(),
}


@dataclass(frozen=True)
class Ratio:
    """Times of blocks divided by those of the whole."""

    encode: float
    decode: float


def ratio(codec: codecvq.Codec, samples: Tensor, block_s: float) -> Ratio:
    """Return the time of blocks / time of the whole, for audio `[B, C, S]`."""
    start = time.process_time()
    codes = codec.encode(samples)
    encoded = time.process_time()
    codec.decode(codes)
    whole = encoded - start, time.process_time() - encoded
    speed = measure_stream(codec, samples, block_s, clock=time.process_time)
    seconds = samples.shape[2] / codec.sample_rate
    return Ratio(
        speed.encode.real_time_factor * seconds / whole[0],
        speed.decode.real_time_factor * seconds / whole[1],
    )


def load_mimi() -> Any | None:  # Any: moshi is an optional package
    """Return Mimi with random weights and 8 codebooks; None if moshi is not installed."""
    try:
        from moshi.models import loaders
    except ImportError as error:
        print(f"without Mimi: moshi is not installed ({error}). Install it with: pip install moshi\n")
        return None
    torch.manual_seed(0)
    return loaders.get_mimi(None, num_codebooks=8)


def measure_mimi(mimi: Any, samples: Tensor) -> StreamSpeed:
    """Return the times of Mimi's blocks of 80 ms, for audio `[B, 1, S]` at 24 kHz."""
    size = int(mimi.frame_size)
    blocks = [block for block in samples.split(size, dim=2) if block.shape[2] == size]
    encode_s, decode_s = [], []
    with torch.no_grad(), mimi.streaming(len(samples)):
        for block in blocks[:10] + blocks:
            start = time.process_time()
            codes = mimi.encode(block)
            encoded = time.process_time()
            mimi.decode(codes)
            encode_s.append(encoded - start)
            decode_s.append(time.process_time() - encoded)
    block_s = size / mimi.sample_rate
    return StreamSpeed(
        1000 * block_s,
        len(blocks),
        len(samples),
        BlockTimes.of(encode_s[10:], block_s),
        BlockTimes.of(decode_s[10:], block_s),
    )


def middle(speeds: list[StreamSpeed]) -> list[str]:
    """Return the cells of a row: medians of the repeats."""
    cells = []
    for direction in ("encode", "decode"):
        times = [getattr(speed, direction) for speed in speeds]
        factor, half, p99 = (
            float(np.median([getattr(each, name) for each in times]))
            for name in ("real_time_factor", "median_ms", "p99_ms")
        )
        cells += [f"{factor:.3f}", f"{half:.2f}", f"{p99:.2f}"]
    return cells


def millions(module: Any) -> str:
    """Return the number of parameters in millions."""
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.1f}"


def print_ratios(codecs: dict[str, codecvq.Codec], seconds: float, repeats: int) -> None:
    """Print the first table."""
    print("| network | batch | block, ms | encode, blocks / whole | decode, blocks / whole |")
    print("|---|---|---|---|---|")
    cases = [
        (name, batch, block_s) for name in codecs for batch in (1, 8) for block_s in (BLOCK_S, LONG_BLOCK_S)
    ]
    found: dict[tuple[str, int, float], list[Ratio]] = {case: [] for case in cases}
    for _ in range(repeats):
        for name, batch, block_s in cases:
            samples = bundled_speech(codecs[name], seconds, batch)
            found[name, batch, block_s].append(ratio(codecs[name], samples, block_s))
    for (name, batch, block_s), ratios in found.items():
        encode, decode = (median(getattr(each, way) for each in ratios) for way in ("encode", "decode"))
        print(f"| {name} | {batch} | {1000 * block_s:g} | {encode:.2f} | {decode:.2f} |")


def print_times(codecs: dict[str, codecvq.Codec], mimi: Any, seconds: float, repeats: int) -> None:
    """Print the second table."""
    print("\n| codec | M weights | latency, ms | block, ms | encode: factor | median | 99 % |", end="")
    print(" decode: factor | median | 99 % |\n|---|---|---|---|---|---|---|---|---|---|")
    rows: dict[tuple[str, str, str, float], list[StreamSpeed]] = {}
    for _ in range(repeats):
        for name, codec in codecs.items():
            samples = bundled_speech(codec, seconds)
            for block_s in (BLOCK_S, MIMI_BLOCK_S):
                speed = measure_stream(codec, samples, block_s, clock=time.process_time)
                row = (name, millions(codec), f"{codec.latency_ms:.4g}", 1000 * block_s)
                rows.setdefault(row, []).append(speed)
        if mimi is not None:
            samples = bundled_speech(codecs["SEANet base, causal, 24 kHz"], seconds)
            row = (MIMI, millions(mimi), "80", 1000 * MIMI_BLOCK_S)
            rows.setdefault(row, []).append(measure_mimi(mimi, samples))
    for (name, weights, latency, block_ms), speeds in rows.items():
        print(f"| {name} | {weights} | {latency} | {block_ms:g} | {' | '.join(middle(speeds))} |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of the audio (10)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each measurement (3)")
    parser.add_argument("--only", nargs="+", choices=list(CODECS), default=list(CODECS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{processor_name()}, torch {torch.__version__}, one thread\n")
    mimi = load_mimi()
    codecs = {name: CODECS[name]() for name in options.only}
    print_ratios(codecs, options.seconds, options.repeats)
    print_times(codecs, mimi, options.seconds, options.repeats)


if __name__ == "__main__":
    main()
