"""The bundled codec speech-16k: size, quality, bitrates, reference codes and speed."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import codecvq_pretrained
import numpy as np
import pytest
import torch
from pystoi import stoi

import codecvq
from codecvq.bitstream import pack, unpack
from codecvq.codec.tables_file import TABLES
from codecvq.data.corpus import open_corpus
from codecvq.evaluation import PacketLoss, compare

FOLDER = Path(codecvq_pretrained.__file__).parent / "speech_16k"


@pytest.fixture(scope="module")
def codec() -> codecvq.Codec:
    return codecvq.load("speech-16k")


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Every fourth test clip of the bundled corpus. Training uses none of them."""
    return [clip.read(16000) for clip in open_corpus("prompts").split("test").clips[::4]]


def test_the_codec_is_small_and_has_a_card_and_curves(codec: codecvq.Codec) -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) <= 16e6
    assert sum(p.numel() for p in codec.parameters()) < 10e6
    for name in ("README.md", "metrics.jsonl", "curves.png"):
        assert (FOLDER / name).stat().st_size > 0, name


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_code_tables_save_bits_on_held_out_clips(
    codec: codecvq.Codec, clips: list[np.ndarray], depth: int
) -> None:
    """At least 15 % of the packed bits, and each file decodes to its codes."""
    assert (FOLDER / TABLES).stat().st_size <= 200_000
    packed = coded = 0
    for clip in clips:
        codes = codec.encode(torch.from_numpy(clip)[None, None], num_codebooks=depth)[0].numpy()
        packets = [unpack(pack(codec, codes, len(clip), entropy), codec) for entropy in (False, True)]
        assert all(np.array_equal(packet.codes, codes) for packet in packets)
        assert packets[1].kind == "learned"
        packed, coded = packed + packets[0].payload_bits, coded + packets[1].payload_bits
    assert coded < 0.85 * packed


def test_intelligibility_is_high_and_increases_with_codebooks(
    codec: codecvq.Codec, clips: list[np.ndarray]
) -> None:
    means = []
    for depth in (1, 3, 6):
        scores = []
        for clip in clips:
            wav = torch.from_numpy(clip)[None, None]
            codes = codec.encode(wav, num_codebooks=depth)
            decoded = codec.decode(codes, num_samples=len(clip))
            assert decoded.shape == wav.shape
            scores.append(stoi(clip, decoded[0, 0].numpy(), 16000))
        means.append(sum(scores) / len(scores))
    assert means[0] > 0.75
    assert means[1] > 0.9
    assert means[2] > 0.91
    assert means == sorted(means)


def test_one_set_of_weights_has_six_bitrates(codec: codecvq.Codec) -> None:
    assert codec.num_codebooks == 6
    assert codec.codebook_sizes == (1000,) * 6
    assert codec.bitrate / 6 == pytest.approx(498.3, abs=0.1)
    codes = codec.encode(torch.zeros(1, 1, 1000))
    for depth in range(1, 7):
        assert torch.equal(codec.encode(torch.zeros(1, 1, 1000), num_codebooks=depth), codes[:, :depth])


#: clip -> sha256 of its codes (int64), mean square of its decoded samples (2026-11-27)
REFERENCE = {
    "asterisk/allison_smith/conf-getpin": ("a25a3c2351b358b1ed0d5b37c5e7350a", 0.0184878968),
    "asterisk/allison_smith/vm-helpexit": ("29878c7a1f339cf7c79c5fbec26b7416", 0.0157285109),
    "asterisk/allison_smith_es/priv-introsaved": ("03fdcc3766a8cd5dee18479ad3ce5fc3", 0.0096130641),
}


def test_codes_and_samples_equal_the_reference(codec: codecvq.Codec) -> None:
    for clip in open_corpus("prompts").split("test").clips:
        if clip.id not in REFERENCE:
            continue
        digest, power = REFERENCE[clip.id]
        wav = torch.from_numpy(clip.read(16000))[None, None]
        codes = codec.encode(wav)
        assert hashlib.sha256(codes.numpy().tobytes()).hexdigest()[:32] == digest, clip.id
        decoded = codec.decode(codes, num_samples=wav.shape[2])
        power_of_decoded = decoded.square().mean().item()
        assert power_of_decoded == pytest.approx(power, rel=1e-5)  # rounding depends on the processor
        with torch.no_grad():
            whole = codec.decoder(codec.quantizer.decode(codes), None)
        assert torch.equal(decoded, whole[:, :, : wav.shape[2]])


@pytest.mark.slow
def test_speed_is_over_30_times_real_time_on_one_core(codec: codecvq.Codec, clips: list[np.ndarray]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        wav = torch.from_numpy(np.concatenate(clips)[: 20 * 16000])[None, None]
        seconds: list[float] = []
        while len(seconds) < 15 and (not seconds or wav.shape[2] / 16000 / min(seconds) <= 30):
            start = time.process_time()
            codec.decode(codec.encode(wav), num_samples=wav.shape[2])
            seconds.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert wav.shape[2] / 16000 / min(seconds) > 30, "the minimum excludes other load on the machine"


@pytest.mark.slow
def test_intelligibility_falls_with_lost_packets() -> None:
    clips = open_corpus("prompts").split("test").clips[::4]
    losses = [PacketLoss(percent) for percent in (0, 5, 20, 60)]
    compared = compare(["speech-16k"], clips, ["stoi"], group_by="", losses=losses)
    scores = [score for _, score in compared.loss_curves("stoi")["speech-16k"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[1] > scores[0] - 0.06
    assert scores[3] < scores[0] - 0.2
