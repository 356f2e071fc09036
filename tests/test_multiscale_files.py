"""Files and datasets of a codec with strides, and of one with learned tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_codec import HOP, NETWORKS

from codecvq.audio import write_audio
from codecvq.bitstream import read_cvq, write_cvq
from codecvq.bitstream.packed import packed_bits
from codecvq.codec import Codec, load
from codecvq.data.clip import Clip
from codecvq.errors import BitstreamError, OptionError
from codecvq.evaluation.bitrate import CodeCounter, file_bytes, rates
from codecvq.quantizer import CodeTables, Grouped, Quantizer, Residual, build_quantizer
from codecvq.tokens import check, detokenize, read_tokens, tokenize

RATE = 8000


def multiscale() -> Codec:
    torch.manual_seed(0)
    quantizer = {"name": "multiscale_vq", "codebook_size": 16, "strides": [4, 2, 1]}
    return Codec(sample_rate=RATE, network=NETWORKS["spectral"], quantizer=quantizer).eval()


def speech(samples: int, seed: int = 0) -> torch.Tensor:
    """A gliding tone with noise: 0.3 sin(2 pi (200 t + 300 t^2)) + 0.03 n(t)."""
    t = torch.arange(samples) / RATE
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(seed))
    return 0.3 * torch.sin(2 * math.pi * (200 * t + 300 * t**2)) + 0.03 * noise


@pytest.mark.parametrize("samples", [1, HOP, 5 * HOP + 3, 40 * HOP])
@pytest.mark.parametrize("entropy", [True, False])
def test_a_multiscale_file_decodes_to_the_same_samples(tmp_path, samples, entropy):
    codec = multiscale()
    wav = speech(samples)[None, None]
    codes = codec.encode(wav)
    for depth in (1, 2, 3):
        write_cvq(tmp_path / "a.cvq", codec, codes[0, :depth], samples, entropy)
        packet = read_cvq(tmp_path / "a.cvq", codec)
        assert packet.strides == (4, 2, 1)[:depth]
        assert np.array_equal(packet.codes, codes[0, :depth])
        decoded = codec.decode(torch.from_numpy(packet.codes)[None], num_samples=samples)
        assert torch.equal(decoded, codec.decode(codes[:, :depth], num_samples=samples))
    if not entropy:
        frames = -(-samples // HOP)
        assert packet.payload_bits == packed_bits((16,) * 3, [-(-frames // stride) for stride in (4, 2, 1)])


def test_rates_of_a_multiscale_codec_count_one_code_per_block():
    codec = multiscale()
    assert codec.strides == (4, 2, 1)
    assert codec.bitrate == pytest.approx(100 * 4 * (1 / 4 + 1 / 2 + 1))
    codes = codec.encode(speech(40 * HOP)[None, None])[0].numpy()
    counter = CodeCounter(codec.codebook_sizes, codec.strides)
    counter.add(codes)
    found = rates(counter, float(codec.frame_rate), 0.4, [file_bytes(codec, codes, 40 * HOP)], 0.4)
    assert found.nominal_bps == pytest.approx(codec.bitrate)
    assert found.packed_payload_bps == pytest.approx(codec.bitrate)  # 40 frames are whole blocks


def test_codes_of_a_multiscale_dataset_are_restored(tmp_path):
    codec = multiscale()
    clips = []
    for i, samples in enumerate((1, 3 * HOP, 7 * HOP + 9, 20 * HOP)):
        path = tmp_path / f"{i}.wav"
        write_audio(path, speech(samples, i).numpy(), RATE)
        clips.append(Clip(id=f"clip{i}", path=path))
    tokenize(codec, clips, tmp_path / "t", batch_seconds=0.01)
    assert check(tmp_path / "t").problems == ()
    for clip, row in zip(clips, read_tokens(tmp_path / "t"), strict=True):
        wav = torch.from_numpy(clip.read(RATE))[None, None]
        assert np.array_equal(row.codes, codec.encode(wav)[0])
    assert not detokenize(codec, tmp_path / "t", tmp_path / "wavs").failures


def test_a_codec_with_tables_writes_smaller_files_that_only_it_can_read(tmp_path, monkeypatch):
    codec = multiscale()
    even = CodeTables.uniform(codec.codebook_sizes, contexts=("previous", "below"))
    clips = [codec.encode(speech(60 * HOP, seed)[None, None])[0] for seed in range(1, 9)]
    codes = codec.encode(speech(60 * HOP)[None, None])[0]
    adaptive = write_cvq(tmp_path / "adaptive.cvq", codec, codes, 60 * HOP)
    tables = even.with_counts(clips, strides=codec.strides)
    monkeypatch.setattr(codec.quantizer, "code_tables", lambda: tables)
    assert write_cvq(tmp_path / "learned.cvq", codec, codes, 60 * HOP) < adaptive
    packet = read_cvq(tmp_path / "learned.cvq", codec)
    assert packet.kind == "learned"
    assert np.array_equal(packet.codes, codes)
    with pytest.raises(BitstreamError, match="learned tables"):
        read_cvq(tmp_path / "learned.cvq")
    assert np.array_equal(read_cvq(tmp_path / "adaptive.cvq", codec).codes, codes)


class RatedVQ(Quantizer):
    """Rounds to 0 … K - 1, with a table of code frequencies."""

    def __init__(self, dim: int, codebook_size: int = 9, step: int = 64, **options) -> None:
        super().__init__(dim, [codebook_size], **options)
        self.tables = CodeTables.uniform(self.codebook_sizes, contexts=("previous",), step=step)
        self.register_buffer("frequencies", torch.from_numpy(self.tables.flat))

    def quantize(self, vectors):
        codes = vectors[:, :1].round().long().clamp(0, self.codebook_sizes[0] - 1)
        return self.dequantize(codes), codes

    def dequantize(self, codes):
        return codes.float().expand(-1, self.code_dim)

    def code_tables(self):
        return self.tables.with_frequencies(self.frequencies)


def counted(quantizer: RatedVQ, seed: int) -> RatedVQ:
    values = torch.randint(1, 50, quantizer.frequencies.shape, generator=torch.Generator().manual_seed(seed))
    quantizer.frequencies.copy_(values)
    return quantizer


def test_compositions_join_the_tables_of_their_members():
    stages = [counted(RatedVQ(8), seed) for seed in range(3)]
    joined = Residual(8, stages).code_tables()
    assert joined.codebook_sizes == (9, 9, 9)
    for table, stage in zip(joined.frequencies, stages, strict=True):
        assert np.array_equal(table.reshape(-1), stage.frequencies)
    shared = Residual(8, stages[:1], num_codebooks=2).code_tables()
    assert [table.tolist() for table in shared.frequencies] == [joined.frequencies[0].tolist()] * 2
    alongside = Grouped([Residual(8, stages), stages[1]]).code_tables()
    assert np.array_equal(alongside.frequencies[3], joined.frequencies[1])
    assert "stages.0.frequencies" in Residual(8, stages).state_dict()  # part of the identity of the codec


def test_members_without_tables_get_uniform_ones():
    plain = build_quantizer("fsq", dim=8, levels=[8, 8, 8, 8, 8])  # 32,768 codes, more than in one table
    tables = Grouped([plain, counted(RatedVQ(8, step=7), 0)]).code_tables()
    assert tables.codebook_sizes == (8**5, 9)
    assert [symbol.radix for symbol in tables.symbols] == [64, 512, 9]
    assert all((table == 1).all() for table in tables.frequencies[:2])
    assert tables.step == 7
    assert Grouped([plain, plain]).code_tables() is None
    with pytest.raises(OptionError, match="steps"):
        Residual(8, [RatedVQ(8), RatedVQ(8, step=7)]).code_tables()


def test_the_bundled_codec_has_neither_strides_nor_absent_codes():
    codec = load("speech-16k")
    assert codec.strides == (1,) * codec.num_codebooks
    assert not codec.variable_depth
