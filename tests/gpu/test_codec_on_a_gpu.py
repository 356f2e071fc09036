"""The bundled codec on a GPU: codes, audio, datasets and pitch, compared with the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import codecvq
from codecvq.codec import Codec
from codecvq.data.corpus import open_corpus
from codecvq.networks.voice.best_path import best_path, best_path_on_device
from codecvq.networks.voice.pitch import PitchTracker
from codecvq.tokens.engine import tokenize

SAME_CODES = 0.995  # share of equal codes; cuFFT rounds differently from the FFT of the CPU
CLOSE = 2e-3  # relative to full scale, for audio of the same codes, except a few samples


@pytest.fixture(scope="module")
def clips() -> list[torch.Tensor]:
    corpus = open_corpus("prompts").split("validation")
    return [torch.from_numpy(clip.read(16000))[None, None] for clip in corpus.clips[:6]]


@pytest.fixture(scope="module")
def pair(device: torch.device) -> tuple[Codec, Codec]:
    return codecvq.load("speech-16k"), codecvq.load("speech-16k", device)


def test_codes_equal_those_of_the_cpu(pair: tuple[Codec, Codec], clips: list[torch.Tensor]) -> None:
    cpu, gpu = pair
    equal = [(gpu.encode(wav).cpu() == cpu.encode(wav)).float().flatten() for wav in clips]
    assert float(torch.cat(equal).mean()) >= SAME_CODES


def test_audio_equals_that_of_the_cpu(pair: tuple[Codec, Codec], clips: list[torch.Tensor]) -> None:
    cpu, gpu = pair
    for wav in clips:
        codes = cpu.encode(wav)
        apart = (gpu.decode(codes).cpu() - cpu.decode(codes)).abs()
        assert float((apart > CLOSE).float().mean()) < 0.02


def test_a_padded_batch_has_the_codes_of_its_items(
    pair: tuple[Codec, Codec], clips: list[torch.Tensor]
) -> None:
    gpu = pair[1]
    lengths = torch.tensor([wav.shape[2] for wav in clips])
    batch = torch.zeros(len(clips), 1, int(lengths.max()))
    for row, wav in zip(batch, clips, strict=True):
        row[:, : wav.shape[2]] = wav[0]
    codes = gpu.encode(batch, lengths=lengths)
    equal = []
    for item, wav in zip(codes, clips, strict=True):
        alone = gpu.encode(wav)[0]
        equal.append((item[:, : alone.shape[1]] == alone).float().flatten())
    assert float(torch.cat(equal).mean()) >= SAME_CODES


def test_a_token_dataset_equals_that_of_the_cpu(pair: tuple[Codec, Codec], tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    corpus = open_corpus("prompts").split("validation").clips[:6]
    tables = []
    for name, codec in zip(("cpu", "gpu"), pair, strict=True):
        assert not tokenize(codec, corpus, tmp_path / name).failures
        (file,) = (tmp_path / name / "data").glob("*.parquet")
        tables.append(parquet.read_table(file).to_pylist())
    for ours, theirs in zip(*tables, strict=True):
        assert (ours["id"], ours["num_samples"]) == (theirs["id"], theirs["num_samples"])
        equal = torch.tensor(ours["codes"]) == torch.tensor(theirs["codes"])
        assert float(equal.float().mean()) >= 0.98


def test_the_pitch_path_equals_that_of_the_cpu(device: torch.device, clips: list[torch.Tensor]) -> None:
    tracker = PitchTracker(16000, 160)
    strengths = []
    for wav in clips:
        found, _ = tracker.long(wav[0, :, : wav.shape[2] // 160 * 160])
        unvoiced = torch.full_like(found[..., :1], 0.45)
        strengths.append(torch.cat([found, unvoiced], dim=2))
    equal = [
        (best_path_on_device(each.to(device), None).cpu() == best_path(each, None)).float().flatten()
        for each in strengths
    ]
    assert float(torch.cat(equal).mean()) > 0.998
