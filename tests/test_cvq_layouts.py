"""`.cvq` files with strides and with absent codes."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from forged_cvq import forged
from hypothesis import given, settings
from hypothesis import strategies as st
from small_codecs import StoredCodec
from test_bitstream import Odd

from codecvq.bitstream import pack, unpack
from codecvq.bitstream.cost import decoding_steps
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.packed import pack_codes, packed_bits
from codecvq.bitstream.payload import SPLIT_ABOVE
from codecvq.errors import BitstreamError

HOP = 320
KINDS = pytest.mark.parametrize("entropy", [True, False, "auto"], ids=["entropy", "packed", "auto"])


Blocks = functools.partial(StoredCodec, name="blocks")


def block_codes(sizes, strides, frames, seed=0):
    """Uniform random codes, one per block, repeated over its frames."""
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, size, -(-frames // stride)) for size, stride in zip(sizes, strides, strict=True)]
    rows = [
        np.repeat(part, min(stride, frames + 1))[:frames] for part, stride in zip(parts, strides, strict=True)
    ]
    return np.array(rows, dtype=np.int64).reshape(len(sizes), frames)


def depth_codes(sizes, frames, seed=0, strides=None):
    """Block codes with 0 to N codebooks present in each span of the longest stride."""
    strides = strides or (1,) * len(sizes)
    codes = block_codes(sizes, strides, frames, seed)
    longest = max(strides)
    depths = np.random.default_rng(seed).integers(0, len(sizes) + 1, -(-frames // longest))
    codes[np.arange(len(sizes))[:, None] >= np.repeat(depths, longest)[:frames]] = -1
    return codes


LAYOUTS = {
    "snac": ((4096, 4096, 4096), (4, 2, 1)),
    "no stride of 1": ((5, 1024), (8, 3)),
    "finer first": ((7, 5, 1000), (1, 5, 2)),
    "digits": ((625, 5**12, 2**40), (3, 2, 1)),
    "longer than any clip": ((5, 9), (2**31 - 1, 1)),
    "a codebook of one entry": ((1, 5), (2, 1)),
}


@KINDS
@pytest.mark.parametrize("frames", [0, 1, 2, 3, 7, 8, 9, 65])
@pytest.mark.parametrize(("sizes", "strides"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_code_of_every_block_is_restored(sizes, strides, frames, entropy):
    codec, codes = Blocks(sizes, strides), block_codes(sizes, strides, frames)
    data = pack(codec, codes, frames * HOP, entropy)
    for reader in (None, codec):
        packet = unpack(data, reader)
        assert np.array_equal(packet.codes, codes)
        assert (packet.codebook_sizes, packet.strides) == (sizes, strides)
    for count in range(1, len(sizes)):
        first = unpack(pack(codec, codes[:count], frames * HOP, entropy), codec)
        assert np.array_equal(first.codes, codes[:count])
        assert first.strides == strides[:count]


@pytest.mark.parametrize(("sizes", "strides"), LAYOUTS.values(), ids=LAYOUTS)
def test_packed_files_store_one_code_per_block(sizes, strides):
    for frames in (1, 9, 65):
        packet = unpack(pack(Blocks(sizes, strides), block_codes(sizes, strides, frames), 0, False))
        counts = [-(-frames // stride) for stride in strides]
        assert packet.payload_bits == packed_bits(sizes, counts)
        ideal = sum(count * np.log2(size) for count, size in zip(counts, sizes, strict=True))
        assert ideal - 1e-6 <= packet.payload_bits <= 1.011 * ideal + 2 * len(sizes)


def test_entropy_coded_blocks_cost_as_much_as_their_codes_without_strides():
    """Three codebooks of one stride give the payload of codes without strides on a third of the frames."""
    rng = np.random.default_rng(0)
    blocks = np.minimum(rng.geometric(0.4, (3, 80)) - 1, 8).astype(np.int64)
    strided = unpack(pack(Blocks((9,) * 3, (3,) * 3), np.repeat(blocks, 3, axis=1), 0, True))
    plain = unpack(pack(Blocks((9,) * 3, (1,) * 3), blocks, 0, True))
    assert strided.payload_bits == plain.payload_bits


def test_codes_that_change_within_a_block_are_an_error():
    codes = block_codes((50, 50), (4, 1), 10)
    codes[0, 6] += 1 if codes[0, 6] < 49 else -1
    with pytest.raises(BitstreamError, match=r"codebook 0 change at frame 6, .*one code for 4 frames"):
        pack(Blocks((50, 50), (4, 1)), codes, 0)


@pytest.mark.parametrize("force", [False, True])
def test_a_codec_with_other_strides_is_an_error(force):
    data = pack(Blocks((5, 5), (2, 1)), block_codes((5, 5), (2, 1), 9), 0)
    with pytest.raises(
        BitstreamError, match=r"strides of 1 x 2 \+ 1 x 1, but codec 'blocks' has strides of 2 x 1"
    ):
        unpack(data, Blocks((5, 5), (1, 1)), force=force)


@pytest.mark.parametrize(
    ("strides", "what"),
    [((0, 1), "a stride"), ((2.0, 1), "float"), ((2**32, 1), "stride"), ((2,), "1 strides")],
)
def test_invalid_strides_are_an_error(strides, what):
    with pytest.raises(BitstreamError, match=what):
        pack(Odd((5, 5), _strides=strides), np.zeros((2, 4), int), 0)


# absent codes


@KINDS
@pytest.mark.parametrize("frames", [0, 1, 2, 28, 65])
@pytest.mark.parametrize(
    ("sizes", "strides"),
    [((5,) * 12, None), ((1024,) * 4, None), ((625, 2**40), None), ((7,), None), ((50, 9, 1000), (4, 2, 1))],
    ids=str,
)
def test_absent_codes_are_restored(sizes, strides, frames, entropy):
    strides = strides or (1,) * len(sizes)
    codec = Blocks(sizes, strides, variable_depth=True)
    for seed in range(3):
        codes = depth_codes(sizes, frames, seed, strides)
        data = pack(codec, codes, frames * HOP, entropy)
        for reader in (None, codec):
            assert np.array_equal(unpack(data, reader).codes, codes)
        for count in range(1, len(sizes)):
            assert np.array_equal(unpack(pack(codec, codes[:count], 0, entropy), codec).codes, codes[:count])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_codes_of_any_sizes_strides_and_depths_are_restored(data):
    count = data.draw(st.integers(1, 5))
    sizes = tuple(data.draw(st.lists(st.integers(1, 2**62), min_size=count, max_size=count)))
    strides = tuple(data.draw(st.lists(st.integers(1, 6), min_size=count, max_size=count)))
    frames, seed = data.draw(st.integers(0, 20)), data.draw(st.integers(0, 99))
    longest = int(np.lcm.reduce(strides))
    codes = depth_codes(sizes, frames, seed, (longest,) * count)
    for row, stride, size in zip(codes, strides, sizes, strict=True):  # fresh codes in each block
        fresh = np.random.default_rng(seed).integers(0, size, -(-frames // stride))
        row[row >= 0] = np.repeat(fresh, stride)[:frames][row >= 0]
    for entropy in (True, False):
        codec = Blocks(sizes, strides, variable_depth=True)
        assert np.array_equal(unpack(pack(codec, codes, 0, entropy)).codes, codes)


def test_absent_codes_cost_only_the_bits_of_the_depths():
    sizes, frames = (1024,) * 8, 200
    codes = depth_codes(sizes, frames)
    packet = unpack(pack(Blocks(sizes, (1,) * 8, True), codes, 0, False))
    depth_bytes = -(-packed_bits((9,), [frames]) // 8)
    assert packet.payload_bits == 8 * depth_bytes + packed_bits(sizes, (codes >= 0).sum(axis=1).tolist())
    few = np.where(np.arange(8)[:, None] < 2, codes.clip(0), -1)  # two codebooks in every frame
    constant = unpack(pack(Blocks(sizes, (1,) * 8, True), few, 0, True))
    alone = unpack(pack(Blocks((1024,) * 2, (1, 1)), few[:2], 0, True))
    assert alone.payload_bits <= constant.payload_bits <= alone.payload_bits + 8 * 12


def test_a_codec_with_variable_depth_adds_no_bytes():
    codes = block_codes((5, 5), (1, 1), 20)
    assert pack(Blocks((5, 5), (1, 1), True), codes, 0) == pack(Blocks((5, 5), (1, 1)), codes, 0)


def test_unexpected_absent_codes_are_an_error():
    absent = np.array([[0, 1, 2], [3, -1, 0]])
    with pytest.raises(BitstreamError, match=r"code -1 of codebook 1 at frame 1 is not in 0\.\.4"):
        pack(Blocks((5, 5), (1, 1)), absent, 0)
    with pytest.raises(BitstreamError, match=r"frame 1 is absent .* but a later codebook"):
        pack(Blocks((5, 5), (1, 1), True), absent[::-1], 0)
    with pytest.raises(BitstreamError, match="code -2"):
        pack(Blocks((5, 5), (1, 1), True), np.where(absent < 0, -2, absent), 0)
    with pytest.raises(BitstreamError, match="at frame 1"):
        pack(Blocks((5, 5), (1, 1), True), absent.astype(np.uint64), 0)


# damage and hostile files


@KINDS
def test_truncation_and_flipped_bits_are_an_error(entropy):
    codec = Blocks((50, 9), (2, 1), True)
    data = pack(codec, depth_codes((50, 9), 20, 1, (2, 1)), 0, entropy)
    damaged = [data[:length] for length in range(len(data))]
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for each in damaged:
        with pytest.raises(BitstreamError):
            unpack(each)


@pytest.mark.parametrize(
    ("kind", "numbers", "what"),
    [
        (0, [16000, 320, 0, 8, 8, 1, 1, 5], "version 2 and kind 0"),
        (64, [16000, 320, 0, 8, 8, 1, 2, 5, 1, 2, 1], "version 2 and kind 64"),  # all strides are 1
        (64, [16000, 320, 0, 8, 8, 1, 2, 5, 1, 1, 2], "1 strides of 2 codebooks"),
        (64, [16000, 320, 0, 8, 8, 1, 1, 5, 1, 1, 0], "strides of 0"),
        (64, [16000, 320, 0, 8, 8, 1, 1, 5, 1, 1, 2**32], "strides of 4294967296"),
        (64, [16000, 320, 0, 2**40, 8, 1, 1, 5, 1, 1, 2**31], "codes in 8 bytes"),
        (128, [16000, 320, 0, 8, 8, 1, 1, 5, 9], "9 bytes of depths"),
        (128, [16000, 320, 0, 8, 8, 1, 1, 5, 2], "2 bytes of depths for 8 frames"),
        (129, [16000, 320, 0, 1, 8, 1, 1, 5, 8], "no code is absent|damaged|none of its making|cannot"),
        (3, [16000, 320, 0, 8, 8, 1, 1, 5], "learned tables"),
        (4, [16000, 320, 0, 8, 8, 1, 1, 5], "payload kind 4"),
        (32, [16000, 320, 0, 8, 8, 1, 1, 5], "payload kind 32"),
    ],
    ids=str,
)
def test_inconsistent_headers_are_an_error(kind, numbers, what):
    with pytest.raises(BitstreamError, match=what):
        unpack(forged(kind, numbers, b"\xff" * 8, version=2))


def test_version_1_has_no_flags():
    with pytest.raises(BitstreamError, match="payload kind"):
        unpack(forged(64, [16000, 320, 0, 8, 8, 1, 1, 5], bytes(8)))


def test_depths_that_change_within_a_block_are_an_error():
    packed = pack_codes(np.array([[1, 0]]), (2,))  # of one codebook with a stride of 2
    payload = packed + pack_codes(np.array([[3]]), (5,))
    with pytest.raises(BitstreamError, match="change within a block"):
        unpack(forged(192, [16000, 320, 0, 2, len(payload), 1, 1, 5, 1, 1, 2, len(packed)], payload, 2))


def test_a_budget_covers_blocks_and_depths():
    codec = Blocks((50, 9), (2, 1), True)
    data = pack(codec, depth_codes((50, 9), 400, 1, (2, 1)), 0, True)
    needed = decoding_steps(Layout((50, 9), (2, 1), 400), SPLIT_ABOVE["entropy"], with_depths=True)
    assert unpack(data, budget=needed).strides == (2, 1)
    with pytest.raises(BitstreamError, match="more than the budget"):
        unpack(data, budget=needed - 1)


def test_other_weights_and_force_work_as_without_strides():
    codec = Blocks((50, 9), (2, 1))
    codes = block_codes((50, 9), (2, 1), 30)
    data = pack(codec, codes, 0)
    with pytest.warns(UserWarning, match="weights"):
        unpack(data, Blocks((50, 9), (2, 1), weights="b"))
    other = StoredCodec((50, 9), (2, 1), name="other")
    with pytest.raises(BitstreamError, match="codebooks"):
        unpack(data, other)
    with pytest.warns(UserWarning, match="weights"):
        assert np.array_equal(unpack(data, other, force=True).codes, codes)
