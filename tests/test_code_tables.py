"""`CodeTables`: integer frequencies of codes in context, and `.cvq` files coded with them."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from forged_cvq import forged
from hypothesis import given, settings
from hypothesis import strategies as st
from small_codecs import StoredCodec

from codecvq.api.code_tables import Symbol, SymbolContext
from codecvq.bitstream import pack, unpack
from codecvq.bitstream.cost import learned_decoding_steps
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.learned import learned_decode, learned_encode
from codecvq.errors import BitstreamError, OptionError
from codecvq.quantizer import CodeTables

ALL = ("previous", "below", "digit")


def Learned(sizes, tables, strides=None, variable_depth=False, name="learned"):
    """A codec with learned tables."""
    return StoredCodec(sizes, strides, variable_depth, tables, name=name)


def markov(sizes, frames, seed=0):
    """Random walks upwards: each code repeats, goes up by one, or rarely by two."""
    rng = np.random.default_rng(seed)
    steps = rng.choice([0, 1, 2], (len(sizes), frames), p=[0.45, 0.5, 0.05])
    return (np.cumsum(steps, axis=1) + rng.integers(0, 5)) % np.array(sizes)[:, None]


def reference_bits(codes, tables, radix):
    """Bits for the codes of one codebook under its table with context "previous", in plain Python."""
    counts = [list(map(int, row)) for row in tables.frequencies[0]]
    bits, before = 0.0, radix
    for code in codes.tolist():
        row = counts[before]
        bits -= np.log2(row[code] / sum(row))
        row[code] += tables.step
        before = code
    return bits


def test_the_payload_size_matches_the_table_probabilities():
    tables = CodeTables.uniform((50,), contexts=("previous",)).with_counts(
        markov((50,), 400, s) for s in range(20)
    )
    codes = markov((50,), 300, 99)
    packet = unpack(pack(Learned((50,), tables), codes, 0), Learned((50,), tables))
    assert packet.kind == "learned"
    assert np.array_equal(packet.codes, codes)
    bits = reference_bits(codes[0], tables, 50)
    assert bits - 1 <= packet.payload_bits <= bits + 17
    adaptive = unpack(pack(Learned((50,), None), codes, 0)).payload_bits
    assert packet.payload_bits < 0.7 * adaptive


def test_frequencies_match_the_counts():
    codes = np.array([[0, 1, 1, 2, -1, 1]])
    alone = CodeTables.uniform((3,)).with_counts([codes], total=1000)
    shares = alone.frequencies[0][0] / alone.frequencies[0].sum()
    assert np.allclose(shares, np.array([1, 3, 1]) / 5, atol=0.06)
    after = CodeTables.uniform((3,), contexts=("previous",)).with_counts([codes] * 1000, total=1 << 20)
    shares = after.frequencies[0] / after.frequencies[0].sum(axis=1, keepdims=True)
    assert after.frequencies[0].shape == (
        4,
        3,
    )  # the last row is for the first frame, or after an absent code
    assert shares == pytest.approx(
        np.array([[0, 1, 0], [0, 0.5, 0.5], [0.2, 0.6, 0.2], [0.5, 0.5, 0]]), abs=0.01
    )
    one_a_block = CodeTables.uniform((3,)).with_counts([np.array([[0, 0, 0, 1]])] * 1000, strides=(3,))
    assert one_a_block.frequencies[0][0].tolist() == pytest.approx([32768, 32768, 1], abs=100)


@pytest.mark.parametrize("contexts", [(), ("previous",), ("below",), ("previous", "below"), ALL], ids=str)
@pytest.mark.parametrize("levels", [None, (8, 5, 5), (2, 1, 40), (40, 5)], ids=str)
def test_every_code_is_restored(levels, contexts):
    sizes = (60, 75, 3, 1)
    if levels is None and contexts != ():
        sizes = (9, 12, 3, 1)
    even = CodeTables.uniform(sizes, levels=levels, contexts=contexts)
    tables = even.with_counts([markov(sizes, 50, seed) for seed in range(3)])
    for frames in (0, 1, 2, 47):
        codes = markov(sizes, frames, 9)
        for strides, absent in (((), False), ((2, 1, 3, 1), False), ((), True), ((2, 2, 1, 1), True)):
            own = codes.copy()
            for row, stride in zip(own, strides, strict=False):
                row[:] = np.repeat(row[::stride], stride)[:frames]
            if absent:
                depths = np.repeat(np.arange(frames // 2 + 1) % 5, 2)[:frames]
                own[np.arange(4)[:, None] >= depths] = -1
            codec = Learned(sizes, tables, strides or None, absent)
            for count in range(1, 5):
                packet = unpack(pack(codec, own[:count], 0, True), codec)
                assert np.array_equal(packet.codes, own[:count])


def test_context_classes_replace_codes():
    codes = markov((40,), 200, 3)
    whole = CodeTables.uniform((40,), contexts=("previous",))
    classes = np.arange(40) // 8
    classed = CodeTables.uniform((40,), contexts=("previous",), classes=[torch.from_numpy(classes)])
    assert (whole.entries, classed.entries) == (41 * 40, 6 * 40)
    codec = Learned((40,), classed.with_counts(markov((40,), 200, s) for s in range(9)))
    packet = unpack(pack(codec, codes, 0), codec)
    assert packet.kind == "learned"
    assert np.array_equal(packet.codes, codes)


def test_payload_bytes_depend_only_on_the_integer_tables():
    """The bytes of one payload are fixed here: every machine and library version must give them."""
    tables = CodeTables.uniform((5, 5), contexts=("previous", "below"), step=8)
    tables = tables.with_frequencies(1 + np.arange(tables.entries) ** 2 % 97)
    codes, layout = np.array([[0, 1, 2, 3, 4, 0, 1, 2], [4, 3, 2, 1, 0, 4, 3, 2]]), Layout.full((5, 5), 8)
    data = learned_encode(codes, layout, tables)
    assert data.hex() == "297829398b"
    assert np.array_equal(learned_decode(data, layout, tables), codes)


def reference_sha256(tables):
    """The hash that `CodeTables.sha256` documents, in plain Python."""
    numbers = [len(tables.codebook_sizes), *tables.codebook_sizes, tables.step, len(tables.symbols)]
    for symbol, table in zip(tables.symbols, tables.frequencies, strict=True):
        numbers += [symbol.codebook, symbol.place, symbol.radix, len(symbol.contexts)]
        for context in symbol.contexts:
            classes = [] if context.classes is None else [int(value) for value in context.classes]
            numbers += [context.symbol, context.lag, len(classes), *classes]
        numbers += [int(value) for row in table for value in row]
    return hashlib.sha256(struct.pack(f"<{len(numbers)}q", *numbers)).hexdigest()


def test_the_hash_of_tables_covers_every_field():
    even = CodeTables.uniform((5, 7), contexts=ALL)
    variants = [
        even,
        replace(even, step=63),
        even.with_counts([markov((5, 7), 90)]),
        CodeTables.uniform((5, 7)),
        CodeTables.uniform((5, 6), levels=(7,)),
        CodeTables.uniform((5, 7), levels=(7,)),
        CodeTables.uniform((5, 7), levels=(2, 4), contexts=("digit",)),
        CodeTables.uniform((5, 7), contexts=("previous",)),
        CodeTables.uniform((5, 7), contexts=("below",)),
        CodeTables.uniform((5, 7), contexts=("below",), classes=[np.arange(5), np.arange(7)]),
        CodeTables.uniform((5, 7), contexts=("below",), classes=[np.arange(5)[::-1], np.arange(7)]),
    ]
    assert len({tables.sha256 for tables in variants}) == len(variants)
    for tables in variants:
        assert tables.sha256 == reference_sha256(tables) == replace(tables).sha256
    with pytest.raises(ValueError, match="read-only"):  # the hash is computed once
        even.frequencies[0][0, 0] = 2


def test_flat_frequencies_are_restored_from_a_buffer():
    tables = CodeTables.uniform((5, 7), contexts=ALL).with_counts([markov((5, 7), 90)])
    buffer = torch.from_numpy(tables.flat)
    assert (buffer.dtype, buffer.shape) == (torch.int32, (tables.entries,))
    again = CodeTables.uniform((5, 7), contexts=ALL).with_frequencies(buffer)
    assert all(map(np.array_equal, again.frequencies, tables.frequencies))


def test_joined_tables_equal_the_tables_of_each_stage():
    sizes, codes = (9, 12), markov((9, 12), 100, 5)
    clips = [markov(sizes, 100, seed) for seed in range(5)]
    together = CodeTables.uniform(sizes, contexts=("previous",)).with_counts(clips)
    parts = [
        CodeTables.uniform((size,), contexts=("previous",)).with_counts(clip[n : n + 1] for clip in clips)
        for n, size in enumerate(sizes)
    ]
    joined = CodeTables.join(parts)
    assert pack(Learned(sizes, joined), codes, 0) == pack(Learned(sizes, together), codes, 0)
    with pytest.raises(OptionError, match=r"steps .* \[64, 8\]"):
        CodeTables.join([parts[0], replace(parts[1], step=8)])


def test_auto_uses_tables_only_if_the_file_gets_smaller():
    noise = np.random.default_rng(0).integers(0, 50, (1, 200))
    wrong = CodeTables.uniform((50,)).with_frequencies([1 << 18] + [1] * 49)
    assert unpack(pack(Learned((50,), wrong), noise, 0)).kind == "packed"
    with_hash, without = (pack(Learned((50,), tables), noise, 0) for tables in (wrong, None))
    assert len(with_hash) == len(without) + 4  # the hash of the tables


def test_files_with_learned_tables_need_their_codec():
    tables = CodeTables.uniform((50,), contexts=("previous",)).with_counts(
        markov((50,), 400, s) for s in range(9)
    )
    codec = Learned((50,), tables)
    data = pack(codec, markov((50,), 100), 0)
    with pytest.raises(BitstreamError, match="learned tables, which are stored in the codec that wrote it"):
        unpack(data)
    with pytest.raises(BitstreamError, match="learned tables, which are stored in the codec"):
        unpack(data, Learned((50,), None))
    other = Learned((50,), tables.with_counts([markov((50,), 10)]), name="other")
    with pytest.raises(
        BitstreamError, match=rf"learned tables {tables.sha256[:8]}, .*other tables.*force has no effect"
    ):
        unpack(data, other, force=True)
    with pytest.raises(BitstreamError, match="codebooks"):
        unpack(data, other)
    same = Learned((50,), tables, name="same tables")
    assert np.array_equal(unpack(data, same, force=True).codes, unpack(data, codec).codes)


@pytest.mark.parametrize(
    "tables",
    [CodeTables.uniform((50, 50)), CodeTables.uniform((49,)), [1, 2], 5],
    ids=["two", "49", "list", "int"],
)
def test_tables_that_do_not_match_the_codebooks_are_an_error(tables):
    with pytest.raises(BitstreamError, match=r"code_tables of codec 'learned' returns .* 1 x 50 are needed"):
        pack(Learned((50,), tables), markov((50,), 10), 0)


def test_invalid_frequencies_raise_bitstream_error():
    class Invalid(StoredCodec):
        def code_tables(self):
            return CodeTables.uniform((50,)).with_frequencies(np.zeros(50, int))

    with pytest.raises(BitstreamError, match=r"code_tables of codec 'learned': .* frequencies from 0 to 0"):
        pack(Invalid((50,), name="learned"), markov((50,), 10), 0)


def test_too_many_frames_for_learned_tables_use_another_kind(monkeypatch):
    tables = CodeTables.uniform((50,), contexts=("previous",)).with_counts(
        markov((50,), 400, s) for s in range(9)
    )
    codec, codes = Learned((50,), tables), markov((50,), 100)
    data = pack(codec, codes, 0)
    monkeypatch.setattr("codecvq.bitstream.learned.MAX_STEPS", 64 * 100)
    assert unpack(pack(codec, codes, 0)).kind == "entropy"
    with pytest.raises(BitstreamError, match="100 frames under learned tables"):
        unpack(data, codec)


def test_a_budget_applies_to_files_with_learned_tables():
    tables = CodeTables.uniform((50,), contexts=("previous",)).with_counts(
        markov((50,), 400, s) for s in range(9)
    )
    codec = Learned((50,), tables)
    data = pack(codec, markov((50,), 100), 0)
    needed = learned_decoding_steps(Layout.full((50,), 100), tables, False)
    assert unpack(data, codec, budget=needed).kind == "learned"
    with pytest.raises(BitstreamError, match="more than the budget"):
        unpack(data, codec, budget=needed - 1)


class Zeros(StoredCodec):
    """A codec with the hashes of forged files."""

    codebooks_sha256 = weights_sha256 = property(lambda self: "00" * 32)


@given(payload=st.binary(max_size=40), frames=st.integers(0, 60))
@settings(max_examples=100, deadline=None)
def test_any_payload_gives_valid_codes_or_an_error(payload, frames):
    tables = CodeTables.uniform((60, 3), levels=(8, 9), contexts=ALL)
    codec = Zeros((60, 3), tables=tables)
    numbers = [16000, 320, 0, frames, len(payload), 2, 1, 60, 1, 3]
    try:
        packet = unpack(forged(3, numbers, payload, version=2), codec)
    except BitstreamError:
        return
    assert ((packet.codes >= 0) & (packet.codes < [[60], [3]])).all()


def bad(**change):
    fields = {"codebook_sizes": (3,), "symbols": (Symbol(0, 1, 3),), "frequencies": (np.ones((1, 3), int),)}
    return lambda: CodeTables(**(fields | change))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (bad(frequencies=(np.zeros((1, 3), int),)), "frequencies from 0 to 0"),
        (bad(frequencies=(np.full((1, 3), 1 << 23),)), "a row's sum at most 2\\^24"),
        (bad(frequencies=(np.full((1, 3), 2**62),)), "a row's sum at most 2\\^24"),
        (bad(frequencies=(np.ones((1, 3)),)), "frequencies are float64; integers"),
        (bad(frequencies=(np.ones((2, 3), int),)), r"shape \[2, 3\]; \[1, 3\] is needed"),
        (bad(frequencies=()), "0 tables"),
        (bad(step=-1), "step is -1"),
        (bad(step=4097), "step is 4097"),
        (bad(symbols=(Symbol(0, 2, 3),)), "not the next digit"),
        (bad(symbols=(Symbol(1, 1, 3),)), "not the next digit"),
        (bad(symbols=(Symbol(0, 1, 2),), frequencies=(np.ones((1, 2), int),)), "make 2 codes, but it has 3"),
        (bad(symbols=(Symbol(0, 1, 3, (SymbolContext(0, 0),)),)), "cannot depend on symbol"),
        (bad(symbols=(Symbol(0, 1, 3, (SymbolContext(1, 1),)),)), "cannot depend on symbol"),
        (bad(symbols=(Symbol(0, 1, 3, (SymbolContext(0, 2),)),)), "cannot depend on symbol"),
        (bad(symbols=(Symbol(0, 1, 3, (SymbolContext(0, 1, np.zeros(2, int)),)),)), "2 classes .* 3 values"),
        (lambda: SymbolContext(0, 1, np.zeros(2)), "classes are float64"),
        (lambda: SymbolContext(0, 1, np.zeros(0, int)), r"classes have shape \[0\]"),
        (lambda: SymbolContext(0, 1, np.array([0, -1])), "classes have shape"),
        (lambda: Symbol(0, 1, 4097), "4097 values; 1 to 4096"),
        (lambda: CodeTables.uniform((5000,)), "Split larger codes with levels"),
        (lambda: CodeTables.uniform((9,), levels=(2, 4)), r"levels \[2, 4\] make 8 codes; codebook 0 has 9"),
        (lambda: CodeTables.uniform((9,), contexts=("before",)), "'before' is none of previous, below"),
        (lambda: CodeTables.uniform((4096,) * 3, contexts=("previous", "below")), "larger than 67,108,864"),
        (lambda: CodeTables.uniform((9, 9), classes=[np.zeros(9, int)]), "an array .* for each codebook"),
        (lambda: CodeTables.uniform((9,), levels=(3, 3), classes=[np.zeros(9, int)]), "no levels"),
        (lambda: CodeTables.uniform((9,)).with_frequencies(np.ones(8, int)), r"shape \[8\]; \[9\] is needed"),
        (lambda: CodeTables.uniform((9,)).with_frequencies(torch.ones(9)), "float32; integers"),
        (lambda: CodeTables.uniform((9,)).with_counts([np.ones((2, 4), int)]), r"shape \[2, 4\].* N = 1"),
        (lambda: CodeTables.uniform((9,)).with_counts([np.full((1, 4), 9)]), "from 9 to 9"),
        (lambda: CodeTables.uniform((9,)).with_counts([], total=0), "total is 0"),
        (lambda: CodeTables.join([]), "steps"),
    ],
)  # fmt: skip
def test_invalid_tables_raise_an_error(make, what):
    with pytest.raises(OptionError, match=what):
        make()
