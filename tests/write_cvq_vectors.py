"""Writes the vectors of version 3 in `cvq_vectors/`: `python tests/write_cvq_vectors.py`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from small_codecs import StoredCodec

from codecvq.bitstream import CvqWriter, unpack
from codecvq.quantizer import CodeTables

FOLDER = Path(__file__).parent / "cvq_vectors"


class Vector(NamedTuple):
    name: str
    codec: StoredCodec
    codes: Any  # [N, T] or [C, N, T]
    num_samples: int
    options: dict[str, Any]  # of CvqWriter
    silent: Any = None
    tables: dict[str, Any] | None = None  # as JSON

    def data(self) -> bytes:
        stream = io.BytesIO()
        writer = CvqWriter(stream, self.codec, **self.options)
        writer.write(self.codes, self.silent)
        writer.close(self.num_samples)
        return stream.getvalue()


def codec(sizes, strides=None, tables=None):
    return StoredCodec(sizes, strides, True, tables, name="vectors")


def dwelling(sizes, frames, seed):
    """Codes `[N, T]` that repeat the code of the previous frame with probability 0.6."""
    rng = np.random.default_rng(seed)
    codes = np.array([rng.integers(0, size, frames) for size in sizes]).reshape(len(sizes), frames)
    for t in range(1, frames):
        codes[:, t] = np.where(rng.random(len(sizes)) < 0.6, codes[:, t - 1], codes[:, t])
    return codes


def climbing(sizes, frames, seed):
    """Codes `[N, T]` that repeat, go up by one, or rarely by two."""
    rng = np.random.default_rng(seed)
    steps = rng.choice([0, 1, 2], (len(sizes), frames), p=[0.45, 0.5, 0.05])
    return (np.cumsum(steps, axis=1) + rng.integers(0, 5)) % np.array(sizes)[:, None]


def with_strides(codes, strides):
    return np.array([row[np.arange(len(row)) // s * s] for row, s in zip(codes, strides, strict=True)])


def vectors() -> Iterator[Vector]:
    packed, entropy = {"entropy": False}, {"entropy": True}
    five, frames = (5,) * 6, 110
    yield Vector("v3-packed", codec(five), dwelling(five, frames, 0), frames * 320 - 7, packed)
    yield Vector("v3-entropy", codec(five), dwelling(five, frames, 1), frames * 320, entropy)
    levels = np.tensordot(5 ** np.arange(4), dwelling((5,) * 8, 60, 2).reshape(2, 4, 60), axes=(0, 1))
    yield Vector("v3-digits", codec((625,) * 2), levels, 60 * 320 - 319, {"chunk_s": 2})
    large = (2**31 - 1, 3, 1)
    yield Vector("v3-raw-digits", codec(large), dwelling(large, 12, 3), 12 * 320 - 1, entropy)
    yield Vector("v3-no-frames", codec(five), dwelling(five, 0, 0), 0, {})
    sizes, strides = (64, 1024, 9), (4, 1, 2)
    codes = with_strides(dwelling(sizes, 30, 4), strides)
    codes[np.arange(3)[:, None] >= np.arange(30) // 4 % 4] = -1
    for kind, options in (("packed", packed), ("entropy", entropy)):
        yield Vector(
            f"v3-strides-depths-{kind}", codec(sizes, strides), codes, 30 * 320, {**options, "chunk_s": 0.2}
        )
    sizes, radices = (60, 75), [8, 5, 2]
    for name, contexts, step in (
        ("adapted", ("previous", "below"), 64),
        ("constant", ("previous", "digit"), 0),
    ):
        uniform = CodeTables.uniform(sizes, levels=radices, contexts=contexts, step=step)
        tables = uniform.with_counts([climbing(sizes, 80, seed) for seed in range(20)], total=1 << 10)
        stored = {
            "codebook_sizes": sizes, "levels": radices, "contexts": contexts, "step": step,
            "frequencies": tables.flat.tolist(), "sha256": tables.sha256,
        }  # fmt: skip
        codes = climbing(sizes, 60, 99)
        yield Vector(
            f"v3-learned-{name}", codec(sizes, None, tables), codes, 60 * 320, {"chunk_s": 0.5}, None, stored
        )
    stereo = np.stack([dwelling(five, 75, 5), dwelling(five, 75, 6)])
    silent = np.zeros((2, 75), dtype=bool)
    silent[0, :30] = silent[1, 10:60] = silent[1, 70:] = True
    recording = {"channels": 2, "sample_rate": 44_100, "num_samples": 66_000}
    yield Vector("v3-stereo-silence", codec(five), stereo, 66_000, recording, silent)


def description(vector: Vector) -> dict[str, Any]:
    packet = unpack(vector.data(), vector.codec)
    fields = (
        "kind", "sample_rate", "hop_length", "num_samples", "channels", "original_sample_rate",
        "original_num_samples", "codebook_sizes", "strides", "codebooks_id", "weights_id", "payload_bits",
    )  # fmt: skip
    described = {"version": 3} | {name: getattr(packet, name) for name in fields}
    described |= {"codes": packet.codes.tolist(), "silent": packet.silent.tolist()}
    return described | ({} if vector.tables is None else {"tables": vector.tables})


def main() -> None:
    for vector in vectors():
        (FOLDER / f"{vector.name}.cvq").write_bytes(vector.data())
        (FOLDER / f"{vector.name}.json").write_text(json.dumps(description(vector)) + "\n")
        print(f"{vector.name}: {len(vector.data())} bytes")


if __name__ == "__main__":
    main()
