"""The .cvq file: lossless codes, detection of damage, limits of readers, and machine-independent bytes."""

from __future__ import annotations

import contextlib
import functools
import os
import threading

import numpy as np
import pytest
from forged_cvq import forged
from fuzz.limits import run_limited
from hypothesis import given, settings
from hypothesis import strategies as st
from small_codecs import LevelCodec

from codecvq.bitstream import pack, read_cvq, unpack, write_cvq
from codecvq.bitstream.cost import decoding_steps
from codecvq.bitstream.entropy import entropy_encode
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.model import FrameModel, plane_slices
from codecvq.bitstream.packed import BLOCK_ROWS, pack_codes, packed_bits
from codecvq.bitstream.payload import SPLIT_ABOVE
from codecvq.bitstream.reader import BUDGET_PER_BYTE, MAX_FILE_BYTES
from codecvq.errors import BitstreamError

Sizes = functools.partial(LevelCodec, hop_length=320, name="fake")  # a codec with given codebook sizes


class Odd(LevelCodec):
    """A codec with attributes that may be invalid."""

    def __init__(self, codebook_sizes, **stated):
        super().__init__([2], name="fake")
        self._sizes, self._strides = codebook_sizes, (1,) * len(codebook_sizes)
        vars(self).update(stated)


def random_codes(sizes, frames, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([rng.integers(0, size, frames) for size in sizes], dtype=np.int64).reshape(
        len(sizes), frames
    )


def speech_like(sizes, frames, seed=0):
    """Codes that change slowly: each frame repeats the code with probability 1/2, or draws a new one."""
    rng = np.random.default_rng(seed)
    codes = np.minimum(rng.geometric(0.3, (len(sizes), frames)) - 1, np.array(sizes)[:, None] - 1)
    for t in range(1, frames):
        codes[:, t] = np.where(rng.random(len(sizes)) < 0.5, codes[:, t - 1], codes[:, t])
    return codes.astype(np.int64)


SIZES = {
    "one of 1": (1,),
    "one of 2": (2,),
    "twelve of 5": (5,) * 12,
    "eight of 1024": (1024,) * 8,
    "2^18": (2**18,),
    "2^62": (2**62,),
    "2^62 - 1": (2**62 - 1,),
    "5^12": (5**12,),
    "a large prime": (2**31 - 1,),
    "mixed": (1, 2, 3, 4097, 65536, 64000, 1, 7),
}


@pytest.mark.parametrize("entropy", [True, False, "auto"], ids=["entropy", "packed", "auto"])
@pytest.mark.parametrize("frames", [0, 1, 2, 27, 28, 65])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_every_code_is_restored(sizes, frames, entropy):
    codec = Sizes(sizes)
    lowest, highest = (
        np.zeros((len(sizes), frames), np.int64),
        np.array(sizes)[:, None] - np.ones((1, frames), np.int64),
    )
    for codes in (random_codes(sizes, frames), lowest, highest):
        num_samples = max(0, frames * 320 - 7)
        packet = unpack(pack(codec, codes, num_samples, entropy), codec)
        assert packet.codes.dtype == np.int64
        assert np.array_equal(packet.codes, codes)
        assert (packet.num_samples, packet.sample_rate, packet.hop_length) == (num_samples, 16000, 320)
        assert packet.codebook_sizes == sizes


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_codes_of_any_codebook_sizes_are_restored(data):
    sizes = tuple(data.draw(st.lists(st.integers(1, 2**62), min_size=1, max_size=6)))
    frames = data.draw(st.integers(0, 9))
    codes = [[data.draw(st.integers(0, size - 1)) for _ in range(frames)] for size in sizes]
    for entropy in (True, False):
        assert unpack(pack(Sizes(sizes), codes, frames * 320, entropy)).codes.tolist() == codes


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_packed_size_is_near_the_ideal(sizes):
    frames = 500
    ideal = frames * sum(np.log2(size) for size in sizes)
    bits = packed_bits(sizes, [frames] * len(sizes))
    assert ideal - 1e-6 <= bits <= 1.011 * ideal + len(sizes)
    assert len(pack_codes(random_codes(sizes, frames), sizes)) == -(-bits // 8)


def test_packed_bits_match_an_example_computed_by_hand():
    # 1 + 2*5 + 4*25 = 111 in 7 bits (5^3 = 125), most significant first, then one bit of padding
    assert pack_codes(np.array([[1, 2, 4]]), [5]) == bytes([111 << 1])


def test_entropy_coding_is_smaller_for_speech_and_auto_selects_the_smaller():
    codec = Sizes((5,) * 12)
    dwelling, even = speech_like(codec.codebook_sizes, 100), random_codes(codec.codebook_sizes, 100)
    small, large = (unpack(pack(codec, dwelling, 32000, entropy)) for entropy in (True, False))
    assert small.payload_bits < 0.85 * large.payload_bits
    assert unpack(pack(codec, dwelling, 32000)).kind == "entropy"
    assert unpack(pack(codec, even, 32000)).kind == "packed"


def test_codes_made_of_levels_are_coded_as_digits():
    """One codebook of 625 made of four levels of 5 costs about as much as four codebooks of 5."""
    levels = speech_like((5,) * 12, 150)
    joined = np.tensordot(5 ** np.arange(4), levels.reshape(3, 4, 150), axes=(0, 1))
    apart, together = pack(Sizes((5,) * 12), levels, 48000), pack(Sizes((625,) * 3), joined, 48000)
    assert unpack(together).kind == "digits"
    assert np.array_equal(unpack(together).codes, joined)
    assert len(together) <= len(apart) + 4


def test_a_second_of_speech_has_a_header_below_64_bytes():
    for sizes in ((5,) * 12, (1024,) * 8):
        packet = unpack(pack(Sizes(sizes), random_codes(sizes, 50), 16000, False))
        assert packet.file_bytes - -(-packet.payload_bits // 8) <= 54
        assert packet.payload_bits == packed_bits(sizes, [50] * len(sizes))


def reference_decode(data: bytes, model: FrameModel, frames: int) -> list[list[int]]:
    """A range decoder in plain integers: 64-bit interval, 32-bit words, frequencies of 24 bits."""
    words = iter(np.frombuffer(data + bytes(8 + -len(data) % 4), ">u4").tolist())
    low, width, point = 0, 2**64 - 1, next(words) << 32 | next(words)
    decoded = []
    for _ in range(frames):
        digits = []
        for weights in model.weights().astype(int).tolist():
            scale = width >> 24
            quantile, at, digit = ((point - low) % 2**64) // scale, 0, 0
            while at + weights[digit] + 1 <= quantile:
                at, digit = at + weights[digit] + 1, digit + 1
            low, width = (low + scale * at) % 2**64, scale * (weights[digit] + 1)
            if width < 2**32:
                low, width, point = (
                    low << 32 & 2**64 - 1,
                    width << 32,
                    (point << 32 | next(words, 0)) & 2**64 - 1,
                )
            digits.append(digit)
        model.update(np.array(digits))
        decoded.append(digits)
    return decoded


RAGGED = (2,) * 60 + (4093,) + (2,) * 60 + (64,) + (3,) * 30


@pytest.mark.parametrize(
    "sizes",
    [(5,) * 12, (3, 2, 64, 65, 7), (1000, 4), (4096,), RAGGED],
    ids=["5", "3 2 64 65 7", "1000 4", "4096", "ragged"],
)
def test_payloads_do_not_depend_on_floating_point_rounding(sizes):
    codes = speech_like(sizes, 60)
    assert (len(list(plane_slices(sizes))) > 1) == (
        sizes == RAGGED
    )  # parts give the bits of one model of all planes
    data = entropy_encode(codes, Layout.full(sizes, codes.shape[1]))
    decoded = reference_decode(data, FrameModel(sizes), 60)
    assert np.array_equal(np.array(decoded).T, codes)


def test_model_weights_are_integers_with_a_constant_sum():
    model = FrameModel([5, 2, 1000])
    for digits in random_codes([5, 2, 1000], 200).T:
        weights = model.weights()
        assert (weights == np.floor(weights)).all()
        assert (weights >= 0).all()
        assert (weights.sum(axis=1) == 2**24 - 1000).all()
        model.update(digits)


def test_entropy_payload_is_within_two_bytes_of_its_model():
    sizes = (5,) * 12
    codes, model, bits = speech_like(sizes, 300), FrameModel(sizes), 0.0
    for digits in codes.T:
        frequencies = model.weights() + 1
        bits -= np.log2(frequencies[np.arange(12), digits] / 2**24).sum()
        model.update(digits)
    assert bits / 8 <= len(entropy_encode(codes, Layout.full(sizes, codes.shape[1]))) + 1e-3 <= bits / 8 + 2


DAMAGED = [pytest.param(entropy, id="entropy" if entropy else "packed") for entropy in (True, False)]


@pytest.mark.parametrize("entropy", DAMAGED)
def test_truncation_at_any_byte_is_an_error(entropy):
    data = pack(Sizes((5,) * 12), speech_like((5,) * 12, 50), 16000, entropy)
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            unpack(data[:length])
    with pytest.raises(BitstreamError, match="1 bytes more"):
        unpack(data + b"\0")


@pytest.mark.parametrize("entropy", DAMAGED)
def test_any_flipped_bit_is_an_error(entropy):
    data = pack(Sizes((5,) * 12), speech_like((5,) * 12, 50), 16000, entropy)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            unpack(bytes(damaged))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_random_bytes_raise_bitstream_error(data):
    for start in (b"", b"CVQ\x01"):
        with pytest.raises(BitstreamError):
            unpack(start + data)


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("frames", "runs"),
    [
        (2**40, [1, 1, 5]),
        (2**40, [1, 1, 1]),
        (2**62, [1, 1000, 2**62]),
        (10, [2**62, 1, 5]),
        (10, [1, 2**40, 5]),
        (10, [1, 1, 2**63 - 1]),
        (0, [0]),
    ],
    ids=str,
)
def test_a_lying_header_allocates_nothing(kind, frames, runs):
    payload = bytes(8)
    with pytest.raises(BitstreamError):
        unpack(forged(kind, [16000, 320, 0, frames, len(payload), *runs], payload))


BOMBS = {  # kind, frames, runs of codebooks, bytes of payload; files of 50 to 1,050 bytes
    "9.9 GB from 55 bytes": (2, 1, [2, 1023, 2**62, 1, 4093], 4),
    "96 MB from 56 bytes": (2, 2, [1, 1024, 31**12], 8),
    "most counters": (1, 1, [1, 1024, 4096], 4),
    "longest file of one codebook": (1, 256_000, [1, 1, 1024], 1000),
    "largest alphabets": (1, 32_000, [1, 8, 4096], 1000),
    "most digits": (2, 64_000, [1, 4, 2**62], 1000),
    "unlike digits": (2, 250, [1, 1024, 2**50 * 4093], 1000),
    "codebooks of one entry": (0, 256_000_000, [1, 1, 1], 1_000_000),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_decompression_bombs_use_little_memory_without_a_codec(bomb):
    kind, frames, runs, payload = bomb
    data = forged(kind, [16000, 320, 0, frames, payload, *runs], bytes(payload))

    def read(seed):
        with contextlib.suppress(BitstreamError):  # files beyond the budget raise; others are read
            unpack(data)

    assert run_limited(read, 1, memory_bytes=100 << 20, seconds=4) == []


def test_memory_is_proportional_to_the_sum_of_plane_sizes():
    """One wide plane among many narrow ones does not pad the others."""
    sizes = (2,) * 20_000 + (4093, 61)
    cells = sum(
        model.counts.size + model.transitions.size
        for model in (FrameModel(sizes[of], max(sizes)) for of in plane_slices(sizes))
    )
    assert cells < 3 * sum(size + (size**2 if size <= 64 else 0) for size in sizes)


def test_the_codec_is_compared_before_the_payload_is_decoded(monkeypatch):
    def never(*_):
        raise AssertionError("the payload was decoded")

    data = pack(Sizes((5,) * 3), random_codes((5,) * 3, 10), 3200)
    monkeypatch.setattr("codecvq.bitstream.chunk.decode_payload", never)
    others = [
        Sizes((5, 5, 4)), Sizes((5,) * 3, name="other"), Sizes((5,) * 3, hop_length=160),
        Sizes((5,) * 3, sample_rate=8000),
    ]  # fmt: skip
    for other in others:
        with pytest.raises(BitstreamError, match="codec"):
            unpack(data, other)


def test_a_budget_applies_with_and_without_a_codec():
    codec = Sizes((5,) * 12)
    data = pack(codec, np.zeros((12, 3000), np.int64), 960_000)
    needed = decoding_steps(Layout.full(codec.codebook_sizes, 3000), SPLIT_ABOVE["entropy"])
    for given_codec in (None, codec):
        assert unpack(data, given_codec, budget=needed).num_samples == 960_000
        with pytest.raises(BitstreamError, match=f"12 x 3000 codes take {needed:,} steps.*larger budget"):
            unpack(data, given_codec, budget=needed - 1)


def test_no_default_budget_applies_to_files_of_the_given_codec(monkeypatch):
    codec = Sizes((5,) * 12)
    data = pack(codec, np.zeros((12, 300), np.int64), 96_000)
    monkeypatch.setattr("codecvq.bitstream.reader.BUDGET", 1000)
    monkeypatch.setattr("codecvq.bitstream.reader.BUDGET_PER_BYTE", 1)
    with pytest.raises(BitstreamError, match="budget"):
        unpack(data)
    assert unpack(data, codec).num_samples == 96_000


@pytest.mark.parametrize(
    "sizes", [(5,) * 12, (1024,) * 8, (1024,) * 6, (625,) * 3, (5**12,), (65536,)], ids=str
)
def test_speech_of_any_length_stays_below_the_budget(sizes):
    packet = unpack(pack(Sizes(sizes), speech_like(sizes, 500), 500 * 320))
    assert (
        decoding_steps(Layout.full(sizes, 500), SPLIT_ABOVE.get(packet.kind))
        < BUDGET_PER_BYTE * packet.file_bytes
    )


def test_a_payload_that_is_too_long_is_an_error():
    with pytest.raises(BitstreamError, match="100 bytes of payload for codes of at most"):
        unpack(forged(1, [16000, 320, 0, 1, 100, 1, 1, 5], bytes(100)))


@pytest.mark.parametrize("size", [2, 5, 2**40], ids=str)
def test_packed_codes_longer_than_a_block_are_restored(size):
    codes = random_codes((size, size, 3), 24 * BLOCK_ROWS if size == 2 else 2 * BLOCK_ROWS + 5)
    data = pack(Sizes((size, size, 3)), codes, 0, entropy=False)
    assert np.array_equal(unpack(data).codes, codes)


@given(payload=st.binary(min_size=1, max_size=60), frames=st.integers(1, 200))
@settings(max_examples=100, deadline=None)
def test_a_forged_payload_gives_valid_codes_or_an_error(payload, frames):
    for kind in (0, 1, 2):
        for size in (5, 4097, 625):
            try:
                packet = unpack(forged(kind, [16000, 320, 0, frames, len(payload), 1, 1, size], payload))
            except BitstreamError:
                continue
            assert packet.codes.shape == (1, frames)
            assert packet.codes.min() >= 0
            assert packet.codes.max() < size


def test_a_minute_of_silence_in_a_few_bytes_can_be_read():
    codec = Sizes((5,) * 12)
    data = pack(codec, np.full((12, 3000), 2), 960_000, entropy=True)
    assert len(data) < 400
    assert (unpack(data).codes == 2).all()


def test_another_codec_is_an_error_and_other_weights_give_a_warning(tmp_path):
    ours, other = Sizes((5,) * 3), Sizes((5,) * 3, name="other")
    path = tmp_path / "clip.cvq"
    written = write_cvq(path, ours, random_codes((5,) * 3, 10), 3200)
    assert written == path.stat().st_size == read_cvq(path, ours).file_bytes
    with pytest.raises(
        BitstreamError, match=f"{ours.codebooks_sha256[:12]}.*'other'.*{other.codebooks_sha256[:12]}"
    ):
        read_cvq(path, other)
    assert read_cvq(path, other, force=True).num_samples == 3200
    with pytest.warns(UserWarning, match="weights"):
        read_cvq(path, Sizes((5,) * 3, weights="trained further"))
    for wrong in (Sizes((5, 5, 4)), Sizes((5, 5)), Sizes((5,) * 3, hop_length=160)):
        with pytest.raises(BitstreamError):
            read_cvq(path, wrong, force=True)


def test_a_prefix_of_codebooks_can_be_packed():
    codec = Sizes((7, 5, 3))
    codes = random_codes((7, 5), 20)
    assert np.array_equal(unpack(pack(codec, codes, 6400), codec).codes, codes)


def test_torch_tensors_of_codes_are_accepted():
    torch = pytest.importorskip("torch")
    codes = random_codes((5,) * 3, 10)
    codec = Sizes((5,) * 3)
    assert pack(codec, torch.from_numpy(codes), 3200) == pack(codec, codes, 3200)


@pytest.mark.parametrize(
    ("codes", "num_samples", "what"),
    [
        (np.zeros((2, 2, 3), int), 0, "clip by clip"),
        (np.zeros((3, 3), int), 0, "N from 1 to 2"),
        (np.zeros((2, 3)), 0, "float64"),
        (np.array([[0, 5], [0, 0]]), 0, "code 5 of codebook 0 at frame 1"),
        (np.array([[0, -1], [0, 0]]), 0, "code -1"),
        (np.array([[0, 2**64 - 1], [0, 0]], dtype=np.uint64), 0, "at frame 1"),
        (np.zeros((2, 3), int), 961, "needs 4 frames"),
        (np.zeros((2, 3), int), -1, "num_samples is -1"),
        (np.zeros((2, 3), int), 900.0, "num_samples is a float"),
        (np.zeros((2, 3), int), None, "num_samples is a NoneType"),
        (np.zeros((2, 3), int), 10**5000, "num_samples is a number of 16610 bits"),
        ([[0, 1], [0]], 0, "codes cannot be read"),
        ([[0, 2**70], [0, 0]], 0, "object"),
        (np.zeros((2, 3), bool), 0, "bool"),
        ("codes", 0, "shape"),
        (None, 0, "shape"),
    ],
    ids=[
        "batch", "too many", "float", "too large", "negative", "uint64", "too long", "negative length",
        "float length", "no length", "huge length", "ragged", "beyond 64 bits", "bool", "text", "nothing",
    ],
)  # fmt: skip
def test_invalid_codes_cannot_be_packed(codes, num_samples, what):
    with pytest.raises(BitstreamError, match=what):
        pack(Sizes((5, 5)), codes, num_samples)


@pytest.mark.parametrize(
    ("codec", "what"),
    [
        (None, "codec is a NoneType .*codecvq.load"),
        (Odd((5, 2**62 + 1)), "a codebook size of codec 'fake' is"),
        (Odd((5, 0)), "a codebook size of codec 'fake' is 0"),
        (Odd((5, 5.0)), "a codebook size of codec 'fake' is a float"),
        (Odd((5, 10**50)), "167 bits"),
        (Odd((5, 5), sample_rate=16000.0), "the sample rate of codec 'fake' is a float"),
        (Odd((5, 5), sample_rate=2**32), "the sample rate"),
        (Odd((5, 5), hop_length=0), "the hop of codec 'fake' is 0"),
    ],
    ids=["none", "above 2^62", "empty", "float", "huge", "float rate", "large rate", "no hop"],
)
def test_a_codec_with_invalid_attributes_is_rejected_by_writer_and_reader(codec, what):
    data = pack(Sizes((5, 5)), np.zeros((2, 3), int), 0)
    with pytest.raises(BitstreamError, match=what):
        pack(codec, np.zeros((2, 3), int), 0)
    if codec is not None:
        with pytest.raises(BitstreamError, match=what):
            unpack(data, codec)


@pytest.mark.parametrize("sha256", ["abc", "x" * 64, b"a" * 64, None], ids=str)
def test_an_invalid_hash_is_an_error(monkeypatch, sha256):
    codec = Sizes((5, 5))
    monkeypatch.setattr(LevelCodec, "weights_sha256", sha256)
    with pytest.raises(BitstreamError, match="weights_sha256 of codec 'fake'"):
        pack(codec, np.zeros((2, 3), int), 0)


def test_more_codebooks_than_the_format_supports_are_not_written():
    sizes = (2,) * 1025
    codec = Odd(sizes)
    with pytest.raises(BitstreamError, match="N from 1 to 1024"):
        pack(codec, random_codes(sizes, 3), 0)
    assert np.array_equal(
        unpack(pack(codec, random_codes(sizes, 3)[:1024], 0), codec).codes, random_codes(sizes, 3)[:1024]
    )


def test_a_file_too_large_to_be_read_is_not_written(monkeypatch):
    for module in ("format", "reader"):
        monkeypatch.setattr(f"codecvq.bitstream.{module}.MAX_FILE_BYTES", 100)
    with pytest.raises(BitstreamError, match="more than the limit of 100"):
        pack(Sizes((1024,)), random_codes((1024,), 100), 0)
    with pytest.raises(BitstreamError, match="more than the limit of 100"):
        unpack(bytes(101))


@pytest.mark.parametrize("data", [None, "CVQ", 5, [1]], ids=str)
def test_only_bytes_like_objects_are_accepted(data):
    with pytest.raises(BitstreamError, match="bytes are needed"):
        unpack(data)


def test_every_bytes_like_type_can_be_read():
    data = pack(Sizes((5,) * 3), random_codes((5,) * 3, 10), 3200)
    for kind in (bytearray, memoryview):
        assert unpack(kind(data)).file_bytes == len(data)


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "fifo.cvq")
    with open(tmp_path / "huge.cvq", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse
    (tmp_path / "empty.cvq").touch()
    paths = ["fifo.cvq", "/dev/zero", ".", "huge.cvq", "empty.cvq", "no\0name", "x" * 300]
    errors = []

    def read_all():
        for path in paths:
            with pytest.raises(BitstreamError) as caught:
                read_cvq(tmp_path / path)
            errors.append(str(caught.value))

    reader = threading.Thread(target=read_all, daemon=True)  # a reader that blocks must not stop the tests
    reader.start()
    reader.join(timeout=20)
    assert len(errors) == len(paths)
    assert all("\n" not in error for error in errors)


def test_other_files_and_missing_files_are_an_error(tmp_path):
    (tmp_path / "text.cvq").write_text("hello")
    with pytest.raises(BitstreamError, match=r"text\.cvq.*not a \.cvq file"):
        read_cvq(tmp_path / "text.cvq")
    with pytest.raises(BitstreamError, match=r"missing\.cvq cannot be read"):
        read_cvq(tmp_path / "missing.cvq")
    with pytest.raises(BitstreamError, match="version 4"):
        unpack(b"CVQ\x04" + bytes(60))


def test_files_with_too_much_audio_are_an_error_before_their_codes_are_decoded(monkeypatch):
    codec = Sizes((2,), hop_length=1600)
    data = pack(codec, np.zeros((1, 36_002), dtype=np.int64), 36_002 * 1600, entropy=False)
    assert unpack(data, codec, longest_s=3601).num_samples == 36_002 * 1600
    monkeypatch.setattr(
        "codecvq.bitstream.chunk.decode_payload", lambda *arguments: pytest.fail("was decoded")
    )
    with pytest.raises(BitstreamError, match=r"contains 1\.0 hours of audio, but at most 1 are"):
        unpack(data, codec, longest_s=3600)
