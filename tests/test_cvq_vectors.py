"""The files in `cvq_vectors/` decode to their codes; `cvq_vectors/README.md` describes them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cvq_reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_codecs import StoredCodec
from test_cvq_chunks import codecs, codes_of, written
from write_cvq_vectors import vectors

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


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("v3")])
def test_the_reader_of_the_specification_gives_the_same_codes(name):
    vector = expected(name)
    tables = cvq_reference.Tables.from_json(vector["tables"]) if "tables" in vector else None
    file = cvq_reference.read((FOLDER / f"{name}.cvq").read_bytes(), tables)
    codes, silent = (file.codes, file.silent) if len(file.codes) > 1 else (file.codes[0], file.silent[0])
    assert (codes, silent) == (vector["codes"], vector["silent"])
    assert set(file.kinds) <= {vector["kind"]}
    assert file.num_samples == vector["original_num_samples"]
    assert file.frames == len(silent if len(file.codes) == 1 else silent[0])
    for field in (
        "sample_rate",
        "hop_length",
        "channels",
        "original_sample_rate",
        "codebooks_id",
        "weights_id",
    ):
        assert file.header[field] == vector[field]
    assert vector.get("tables", {"sha256": ""})["sha256"].startswith(file.header["tables_id"])


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_the_reader_of_the_specification_reads_any_file(data):
    codec, channels = data.draw(codecs()), data.draw(st.sampled_from([1, 2]))
    frames, seed = data.draw(st.integers(0, 30)), data.draw(st.integers(0, 99))
    codes = codes_of(codec, frames, channels, seed)
    silent = np.random.default_rng(seed).random((channels, frames)) < data.draw(st.sampled_from([0, 0.3, 1]))
    entropy = data.draw(st.sampled_from([True, False]))
    data = written(codec, codes, None, silent, channels=channels, entropy=entropy, chunk_s=0.3)
    tables = codec.code_tables()
    if tables is not None:
        symbols = [
            cvq_reference.Digit(symbol.codebook, symbol.place, symbol.radix) for symbol in tables.symbols
        ]
        rows = [table.tolist() for table in tables.frequencies]
        tables = cvq_reference.Tables(symbols, [[] for _ in symbols], rows, tables.step)
    file = cvq_reference.read(data, tables)
    packet = unpack(data, codec)
    assert np.array_equal(np.reshape(file.codes, packet.codes.shape), packet.codes)
    assert np.array_equal(np.reshape(file.silent, packet.silent.shape), packet.silent)


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector.name)
def test_the_writer_gives_the_bytes_of_the_vectors(vector):
    """Every machine and every later release of codecvq writes the same bytes."""
    assert (FOLDER / f"{vector.name}.cvq").read_bytes() == vector.data()


def test_versions_and_kinds_are_covered():
    covered = {(expected(name)["version"], expected(name)["kind"]) for name in NAMES}
    kinds = ("packed", "entropy", "digits", "learned")
    assert covered >= {*((3, kind) for kind in kinds), *((1, kind) for kind in kinds[:3]), (2, "learned")}
