"""Bytes and speed of .cvq files: `python benchmarks/bitstream.py`.

The codes are synthetic, with the statistics of speech codes. Each code repeats the code of the previous frame
with probability `repeat`; otherwise it is drawn from a geometric-like distribution over the codebook. Times
are the median of 5 runs on one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import SimpleNamespace

import numpy as np

from codecvq.bitstream import pack, unpack
from codecvq.bitstream.packed import Codes

LAYOUTS = {  # codebooks, size, frames per second
    "12 x 5 at 50 Hz": (12, 5, 50),
    "8 x 1024 at 75 Hz": (8, 1024, 75),
    "3 x 625 at 50 Hz": (3, 625, 50),
    "1 x 5^12 at 50 Hz": (1, 5**12, 50),
    "1 x 65536 at 50 Hz": (1, 65536, 50),
}


@dataclass(frozen=True)
class Result:
    layout: str
    seconds: float  # of audio
    ideal: float  # bytes: N T log2 K / 8
    packed: int  # bytes of payload
    entropy: int  # bytes of payload
    file: int  # bytes of the smaller file, with header and checksum
    packed_write_s: float
    packed_read_s: float
    entropy_write_s: float
    entropy_read_s: float


def skewed_codes(books: int, size: int, frames: int, repeat: float = 0.3, seed: int = 0) -> Codes:
    """Return codes `[N, T]`; the last code of a codebook is drawn a tenth as often as the first."""
    rng = np.random.default_rng(seed)
    fresh = -np.log10(1 - 0.9 * rng.random((books, frames)))  # in [0, 1), dense near 0
    codes = np.minimum((fresh * size).astype(np.int64), size - 1)
    for frame in range(1, frames):
        codes[:, frame] = np.where(rng.random(books) < repeat, codes[:, frame - 1], codes[:, frame])
    return codes


def median_s(action: Callable[[], object], runs: int = 5) -> float:
    """Median duration of the action in seconds."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(layout: str, seconds: float, chunk_s: float | None) -> Result:
    books, size, rate = LAYOUTS[layout]
    frames, hop = round(rate * seconds), 24000 // rate
    sha256 = hashlib.sha256(layout.encode()).hexdigest()
    codec = SimpleNamespace(
        name=layout, sample_rate=24000, hop_length=hop, channels=1, codebook_sizes=(size,) * books,
        strides=(1,) * books, variable_depth=False, code_tables=lambda: None,
        codebooks_sha256=sha256, weights_sha256=sha256,
    )  # fmt: skip
    codes = skewed_codes(books, size, frames)

    def written(entropy: bool) -> bytes:
        return pack(codec, codes, frames * hop, entropy, chunk_s=chunk_s)

    data = {entropy: written(entropy) for entropy in (False, True)}
    packets = {entropy: unpack(written) for entropy, written in data.items()}
    if not all(np.array_equal(packet.codes, codes) for packet in packets.values()):
        raise SystemExit(f"{layout}: decoding returned different codes")
    return Result(
        layout, seconds, float(codes.size * np.log2(size) / 8),
        -(-packets[False].payload_bits // 8), -(-packets[True].payload_bits // 8),
        min(map(len, data.values())),
        median_s(lambda: written(False)), median_s(lambda: unpack(data[False])),
        median_s(lambda: written(True)), median_s(lambda: unpack(data[True])),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[1, 3, 10, 60], help="lengths of the clips"
    )
    parser.add_argument("--chunk-s", type=float, help="seconds of a chunk; default: one chunk for a clip")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = [
        measure(layout, seconds, arguments.chunk_s) for layout in LAYOUTS for seconds in arguments.seconds
    ]
    if arguments.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
        return
    print(
        f"{'':20} {'audio':>6} {'ideal':>9} {'packed':>8} {'entropy':>8} {'file':>7}   times real time: "
        "packed, entropy"
    )
    for r in results:
        speeds = [
            r.seconds / s for s in (r.packed_write_s, r.packed_read_s, r.entropy_write_s, r.entropy_read_s)
        ]
        print(
            f"{r.layout:20} {r.seconds:4g} s {r.ideal:9.1f} {r.packed:8} {r.entropy:8} {r.file:7}   "
            f"write {speeds[0]:8,.0f} read {speeds[1]:8,.0f}, write {speeds[2]:6,.0f} read {speeds[3]:6,.0f}"
        )


if __name__ == "__main__":
    main()
