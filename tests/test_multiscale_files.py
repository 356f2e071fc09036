"""A codec whose codebooks have strides, and one whose quantizer has tables: through files and datasets."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_codec import HOP, NETWORKS

from codecvq.audio import write_audio
from codecvq.bitstream import read_cvq, write_cvq
from codecvq.bitstream.packed import packed_bits
from codecvq.codec import Codec, load
from codecvq.data.clip import Clip
from codecvq.errors import BitstreamError
from codecvq.evaluation.bitrate import CodeCounter, file_bytes, rates
from codecvq.quantizer import CodeTables
from codecvq.tokens import check, detokenize, read_tokens, tokenize

RATE = 8000


def multiscale() -> Codec:
    torch.manual_seed(0)
    quantizer = {"name": "multiscale_vq", "codebook_size": 16, "strides": [4, 2, 1]}
    return Codec(sample_rate=RATE, network=NETWORKS["spectral"], quantizer=quantizer).eval()


def speech(samples: int, seed: int = 0) -> torch.Tensor:
    """A tone that glides, with noise: 0.3 sin(2 pi (200 t + 300 t^2)) + 0.03 n(t)."""
    t = torch.arange(samples) / RATE
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(seed))
    return 0.3 * torch.sin(2 * math.pi * (200 * t + 300 * t**2)) + 0.03 * noise


@pytest.mark.parametrize("samples", [1, HOP, 5 * HOP + 3, 40 * HOP])
@pytest.mark.parametrize("entropy", [True, False])
def test_a_file_of_a_multiscale_codec_decodes_to_the_same_samples(tmp_path, samples, entropy):
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


def test_rates_of_a_multiscale_codec_count_one_code_a_block():
    codec = multiscale()
    assert codec.strides == (4, 2, 1)
    assert codec.bitrate == pytest.approx(100 * 4 * (1 / 4 + 1 / 2 + 1))
    codes = codec.encode(speech(40 * HOP)[None, None])[0].numpy()
    counter = CodeCounter(codec.codebook_sizes, codec.strides)
    counter.add(codes)
    found = rates(counter, float(codec.frame_rate), 0.4, [file_bytes(codec, codes, 40 * HOP)], 0.4)
    assert found.nominal_bps == pytest.approx(codec.bitrate)
    assert found.packed_payload_bps == pytest.approx(codec.bitrate)  # 40 frames are whole blocks


def test_a_dataset_of_a_multiscale_codec_comes_back(tmp_path):
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


def test_a_codec_with_tables_writes_smaller_files_that_it_alone_reads(tmp_path, monkeypatch):
    codec = multiscale()
    even = CodeTables.even(codec.codebook_sizes, contexts=("previous", "below"))
    clips = [codec.encode(speech(60 * HOP, seed)[None, None])[0] for seed in range(1, 9)]
    codes = codec.encode(speech(60 * HOP)[None, None])[0]
    adaptive = write_cvq(tmp_path / "adaptive.cvq", codec, codes, 60 * HOP)
    tables = even.counted(clips, strides=codec.strides)
    monkeypatch.setattr(codec.quantizer, "code_tables", lambda: tables)
    assert write_cvq(tmp_path / "learned.cvq", codec, codes, 60 * HOP) < adaptive
    packet = read_cvq(tmp_path / "learned.cvq", codec)
    assert packet.kind == "learned"
    assert np.array_equal(packet.codes, codes)
    with pytest.raises(BitstreamError, match="learned tables"):
        read_cvq(tmp_path / "learned.cvq")
    assert np.array_equal(read_cvq(tmp_path / "adaptive.cvq", codec).codes, codes)


def test_the_codec_in_the_box_has_neither_strides_nor_tables(tmp_path: Path):
    codec = load("speech-16k")
    assert codec.strides == (1,) * codec.num_codebooks
    assert not codec.variable_depth
    assert codec.code_tables() is None
