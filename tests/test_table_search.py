"""Learning code tables: contexts that save bits, prefixes of codebooks, strides and absent codes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from small_codecs import StoredCodec

from codecvq.bitstream import pack, unpack
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.learned import learned_encode
from codecvq.bitstream.table_search import learn_tables, similar_rows
from codecvq.quantizer import build_quantizer

PIECE = 50


def chain(size, frames, seed, keep=0.8):
    """A code that repeats with probability `keep`, else is drawn uniformly."""
    rng = np.random.default_rng(seed)
    kept, drawn = rng.random(frames) < keep, rng.integers(0, size, frames)
    codes = np.zeros(frames, dtype=np.int64)
    for t in range(frames):
        codes[t] = codes[t - 1] if t and kept[t] else drawn[t]
    return codes


def entropy(probabilities):
    return -sum(p * math.log2(p) for p in probabilities if p)


def clips_of(sizes, count, first_seed=0, frames=400):
    """Codebook 0 is a chain, each further one equals the one before it plus noise."""
    clips = []
    for seed in range(first_seed, first_seed + count):
        rng = np.random.default_rng(seed)
        rows = [chain(sizes[0], frames, seed)]
        for size in sizes[1:]:
            rows.append((rows[-1] + rng.integers(0, 2, frames)) % size)
        clips.append(np.stack(rows))
    return clips


def learn(counted, validation, sizes, levels=None, **options):
    levels = [(size,) for size in sizes] if levels is None else levels
    return learn_tables(counted, validation, sizes, levels=levels, piece=PIECE, **options)


def test_a_markov_chain_takes_about_its_conditional_entropy():
    learned = learn(clips_of((16,), 30), clips_of((16,), 5, 100), (16,))
    bound = entropy([0.8 + 0.2 / 16] + [0.2 / 16] * 15)
    at_starts = (learned.order_0_bits - bound) / PIECE  # the first frame of a piece has no previous frame
    assert learned.packed_bits == 4
    assert learned.order_0_bits == pytest.approx(4, abs=0.05)
    assert bound < learned.table_bits < 1.03 * (bound + at_starts)
    (context,) = learned.tables.symbols[0].contexts
    assert (context.symbol, context.lag) == (0, 1)


def test_the_codebook_below_is_a_context():
    learned = learn(clips_of((16, 16), 30), clips_of((16, 16), 5, 100), (16, 16))
    below = [context for context in learned.tables.symbols[1].contexts if context.lag == 0]
    assert [context.symbol for context in below] == [0]
    alone = learn([c[:1] for c in clips_of((16, 16), 30)], [c[:1] for c in clips_of((16, 16), 5, 100)], (16,))
    assert learned.table_bits - alone.table_bits == pytest.approx(1, abs=0.05)  # one bit of noise


def test_independent_codes_get_no_contexts():
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 32, (3, 400)) for _ in range(20)]
    learned = learn(clips[:16], clips[16:], (32,) * 3)
    assert all(not symbol.contexts for symbol in learned.tables.symbols)
    assert learned.table_bits == pytest.approx(15, abs=0.05)


def test_the_bits_are_those_of_coded_pieces():
    """Static tables (step 0) code each piece in the stated number of bits, up to the end of its bytes."""
    sizes = (40, 40)
    levels = [(8, 5)] * 2
    validation = clips_of(sizes, 4, 100)
    learned = learn(clips_of(sizes, 20), validation, sizes, levels, step=0)
    pieces = [clip[:, at : at + PIECE] for clip in validation for at in range(0, clip.shape[1], PIECE)]
    coded = [learned_encode(part, Layout.full(sizes, part.shape[1]), learned.tables) for part in pieces]
    expected = learned.table_bits * sum(part.shape[1] for part in pieces)
    assert expected - len(pieces) <= 8 * sum(map(len, coded)) <= expected + 17 * len(pieces)
    assert any(len(symbol.contexts) > 1 for symbol in learned.tables.symbols)


@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("absent", [False, True], ids=["full", "absent"])
def test_files_of_every_depth_use_the_tables(strides, absent):
    sizes, levels = (40, 16, 30), [(8, 5), (16,), (30,)]
    clips = clips_of(sizes, 24, frames=240)
    for clip in clips:
        for row, stride in zip(clip, strides, strict=True):
            row[:] = np.repeat(row[::stride], stride)[: clip.shape[1]]
        if absent:
            depths = np.repeat(np.random.default_rng(int(clip[0].sum())).integers(1, 4, 40), 6)
            clip[np.arange(3)[:, None] >= depths] = -1
    learned = learn(clips[:16], clips[16:], sizes, levels, strides=strides)
    assert learned.table_bits < 0.8 * learned.packed_bits
    codec = StoredCodec(sizes, strides, absent, learned.tables)
    for depth in range(1, 4):
        codes = clips[-1][:depth]
        packet = unpack(pack(codec, codes, 0, True), codec)
        assert packet.kind == "learned"
        assert np.array_equal(packet.codes, codes)
    for symbol in learned.tables.symbols:  # the first n codebooks never depend on later ones
        books = [learned.tables.symbols[context.symbol].codebook for context in symbol.contexts]
        assert all(book <= symbol.codebook for book in books)


def test_a_large_alphabet_gets_classes_of_the_previous_code():
    """600 codes in 6 groups: a code is followed by one of its group, so classes of codes say which."""
    rng = np.random.default_rng(0)
    group = np.random.default_rng(1).permutation(600) % 6
    members = [np.flatnonzero(group == g) for g in range(6)]
    clips = [
        np.concatenate([rng.choice(members[g], 100) for g in rng.permutation(6)])[None] for _ in range(60)
    ]
    learned = learn(clips[:50], clips[50:], (600,))
    (context,) = learned.tables.symbols[0].contexts
    assert context.classes is not None
    assert learned.order_0_bits == pytest.approx(math.log2(600), abs=0.1)
    assert learned.table_bits == pytest.approx(math.log2(100), abs=0.4)
    codec = StoredCodec((600,), tables=learned.tables)
    assert np.array_equal(unpack(pack(codec, clips[-1], 0, True), codec).codes, clips[-1])


def test_similar_rows_share_a_class():
    rng = np.random.default_rng(0)
    kinds = rng.dirichlet(np.full(20, 0.3), size=4)
    of_row = rng.integers(0, 4, 100)
    counts = np.stack([rng.multinomial(400, kinds[kind]) for kind in of_row])
    classes = similar_rows(counts, 12)
    assert classes.min() == 0
    assert np.unique(classes).size == classes.max() + 1 <= 12
    for kind in np.unique(classes):
        assert np.unique(of_row[classes == kind]).size == 1


def test_too_few_frames_give_no_tables():
    assert learn(clips_of((16,), 2), clips_of((16,), 5, 100), (16,)) is None
    assert learn(clips_of((16,), 30), [], (16,)) is None
    many = [np.zeros((40, 1200), dtype=np.int64)] * 2
    assert learn(many, many, (4096,) * 40) is None  # more frequencies than a codec stores


@pytest.mark.parametrize(
    ("quantizer", "levels"),
    [
        ({"name": "fsq", "levels": [8, 5, 5], "num_codebooks": 2}, ((8, 5, 5),) * 2),
        ({"name": "residual_fsq", "levels": [3, 3], "num_codebooks": 3}, ((3, 3),) * 3),
        ({"name": "grouped_fsq", "levels": [4, 4], "num_codebooks": 3}, ((4, 4),) * 3),
        ({"name": "lfq", "bits": 6, "num_codebooks": 2}, ((2,) * 6,) * 2),
        ({"name": "residual_vq", "codebook_size": 64, "num_codebooks": 2}, ((64,),) * 2),
        ({"name": "vq", "codebook_size": 10_000}, ((64, 157),)),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_code_levels_are_the_digits_of_the_codes(quantizer, levels):
    options = dict(quantizer)
    built = build_quantizer(options.pop("name"), dim=12, **options)
    assert built.code_levels == levels
    assert all(math.prod(own) >= size for own, size in zip(levels, built.codebook_sizes, strict=True))
