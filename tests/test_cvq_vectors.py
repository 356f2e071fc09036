"""The files in `cvq_vectors/` decode to their codes; `cvq_vectors/README.md` describes them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_codecs import StoredCodec

from codecvq.bitstream import CvqReader, read_cvq, unpack
from codecvq.quantizer import CodeTables

FOLDER = Path(__file__).parent / "cvq_vectors"
NAMES = sorted(path.stem for path in FOLDER.glob("*.cvq"))


def expected(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def codec_of(vector: dict[str, Any]) -> StoredCodec:
    """The codec that wrote a vector."""
    tables = None
    if stored := vector.get("tables"):
        tables = CodeTables.uniform(
            stored["codebook_sizes"],
            levels=stored["levels"],
            contexts=stored["contexts"],
            step=stored["step"],
        ).with_frequencies(np.array(stored["frequencies"]))
    return StoredCodec(vector["codebook_sizes"], vector["strides"], True, tables, name="vectors")


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_decodes_to_its_codes(name):
    vector = expected(name)
    codec = codec_of(vector)
    packet = read_cvq(FOLDER / f"{name}.cvq", codec)
    assert packet.codes.tolist() == vector["codes"]
    for field in ("sample_rate", "hop_length", "num_samples", "codebooks_id", "weights_id", "payload_bits"):
        assert getattr(packet, field) == vector[field]
    assert (list(packet.codebook_sizes), list(packet.strides)) == (
        vector["codebook_sizes"],
        vector["strides"],
    )
    assert packet.kind == vector["kind"]
    data = (FOLDER / f"{name}.cvq").read_bytes()
    assert data[3] == vector["version"]
    if vector["kind"] != "learned":
        assert np.array_equal(unpack(data).codes, packet.codes)
    chunks = [chunk.codes for chunk in CvqReader(io.BytesIO(data), codec)]
    joined = np.concatenate(chunks, axis=2) if chunks else packet.codes[None]
    assert np.array_equal(joined.reshape(packet.codes.shape), packet.codes)


def test_versions_and_kinds_are_covered():
    covered = {(expected(name)["version"], expected(name)["kind"]) for name in NAMES}
    assert covered >= {(1, "packed"), (1, "entropy"), (1, "digits"), (2, "entropy"), (2, "learned")}
