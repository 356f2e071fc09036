"""Quality of quantizers on the same speech at the same rate: a small autoencoder around each of them.

    python benchmarks/quantizer_quality.py [--only residual_] [--steps 500] [--seeds 2] [--json out.json]

The task: log-mel spectra (40 bands, 50 frames per second) of the bundled corpus, each band normalized to mean
0 and variance 1 over the training split. A convolution over three frames maps them to 12 latent channels, the
quantizer codes these with 10 or 30 bits per frame, and another convolution reconstructs the spectra. All
quantizers get the same encoder, batches and optimizer and use their default options. The loss is the mean
squared error plus the quantizer's own losses.

SNR is measured on the spectra of the other splits (held-out clips): variance over squared error in dB, as
mean and half-range over seeds. Code usage is counted over the training split, because the other splits are
too short for 1024 codewords: `used` is the share of codes that occur, `entropy` the bits per frame of an
ideal memoryless entropy coder. The whole benchmark takes about five minutes on one core. Such short trainings
show the effect of a quantizer on the same latents; they do not predict how a codec sounds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import codecvq
from codecvq.data import Corpus, open_corpus
from codecvq.networks.spectral.features import LogMel
from codecvq.networks.spectral.framing import Framing

SAMPLE_RATE, HOP, WINDOW, BANDS = 16_000, 320, 1280, 40
DIM, WIDTH = 12, 128
BATCH, FRAMES = 16, 64  # 1024 frames per step
LEARNING_RATE = 2e-3

#: Bits per frame -> quantizers of about that rate with their options (Any: defined by the quantizer).
CASES: dict[int, list[tuple[str, dict[str, Any]]]] = {
    10: [
        ("vq", {"codebook_size": 1024}),
        ("rotation_vq", {"codebook_size": 1024}),
        ("simvq", {"codebook_size": 1024}),
        ("fsq", {"levels": [4, 4, 4, 4, 4]}),
        ("lfq", {"bits": 10}),
        ("bsq", {"bits": 10}),
        ("residual_vq", {"codebook_size": 32, "num_codebooks": 2}),
        ("residual_fsq", {"levels": [2, 2, 2, 2, 2], "num_codebooks": 2}),
        ("grouped_vq", {"codebook_size": 32, "num_codebooks": 2}),
    ],
    30: [
        ("residual_vq", {"codebook_size": 1024, "num_codebooks": 3}),
        ("residual_vq", {"codebook_size": 1024, "num_codebooks": 3, "beam": 4}),
        ("residual_rotation_vq", {"codebook_size": 1024, "num_codebooks": 3}),
        ("residual_simvq", {"codebook_size": 1024, "num_codebooks": 3}),
        ("residual_fsq", {"levels": [2] * 10, "num_codebooks": 3}),
        ("residual_lfq", {"bits": 10, "num_codebooks": 3}),
        ("residual_bsq", {"bits": 10, "num_codebooks": 3}),
        ("grouped_vq", {"codebook_size": 1024, "num_codebooks": 3}),
        ("fsq", {"levels": [4, 4, 4, 4, 4], "num_codebooks": 3}),
        ("fsq", {"levels": [4, 4, 4, 4, 4], "num_codebooks": 3, "noise_dropout": 0.5}),
        ("lfq", {"bits": 10, "num_codebooks": 3}),
        ("bsq", {"bits": 10, "num_codebooks": 3}),
    ],
}


@dataclass(frozen=True)
class Spectra:
    """Log-mel spectra, normalized by the training split: one `[1, F, T]` per clip."""

    train: list[Tensor]
    held_out: list[Tensor]


@dataclass(frozen=True)
class Row:
    """The results of one quantizer; `name` is empty for the autoencoder without quantizer."""

    name: str
    options: dict[str, Any]
    bits: float  # per frame
    snr_db: list[float]  # of the held-out clips, by seed
    used: float  # share of codes that occur in the training split, mean over codebooks and seeds
    entropy_bits: float  # per frame, summed over codebooks, mean over seeds
    step_ms: float


# Data


def read_spectra() -> Spectra:
    corpus = open_corpus("prompts")
    train = log_mels(corpus.split("train"))
    held_out = [*log_mels(corpus.split("validation")), *log_mels(corpus.split("test"))]
    everything = torch.cat(train, dim=2)
    mean, std = everything.mean(dim=2, keepdim=True), everything.std(dim=2, keepdim=True)
    return Spectra([(clip - mean) / std for clip in train], [(clip - mean) / std for clip in held_out])


@torch.no_grad()
def log_mels(corpus: Corpus) -> list[Tensor]:
    log_mel = LogMel(Framing(WINDOW, HOP), SAMPLE_RATE, BANDS)
    spectra = []
    for clip in corpus:
        wav = torch.from_numpy(clip.read(SAMPLE_RATE))
        whole = wav[: len(wav) // HOP * HOP]
        spectra.append(log_mel(whole[None, None]).transpose(1, 2))
    return spectra


def batches(clips: list[Tensor], steps: int, seed: int) -> Iterator[Tensor]:
    """Yield random segments of the concatenated clips: `[BATCH, F, FRAMES]`."""
    frames = torch.cat(clips, dim=2)[0].T  # [T, F]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(len(frames) - FRAMES, (BATCH, 1), generator=generator)
        yield frames[starts + torch.arange(FRAMES)].transpose(1, 2)


# One quantizer


class Autoencoder(nn.Module):
    """A convolution in each direction around a quantizer, or around none."""

    def __init__(self, quantizer: codecvq.Quantizer | None) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(BANDS, WIDTH, 3, padding=1), nn.GELU(), nn.Conv1d(WIDTH, DIM, 1)
        )
        self.decoder = nn.Sequential(
            nn.Conv1d(DIM, WIDTH, 1), nn.GELU(), nn.Conv1d(WIDTH, BANDS, 3, padding=1)
        )
        self.quantizer = quantizer

    def forward(self, spectra: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        latents = self.encoder(spectra)
        if self.quantizer is None:
            return self.decoder(latents), {}
        out = self.quantizer(latents)
        return self.decoder(out.latents), out.losses

    def codes(self, spectra: Tensor) -> Tensor:
        assert self.quantizer is not None, "only a quantizer has codes"
        return self.quantizer.encode(self.encoder(spectra))


def train(name: str, options: dict[str, Any], spectra: Spectra, steps: int, seed: int) -> Autoencoder:
    torch.manual_seed(seed)
    model = Autoencoder(None)  # built before the quantizer, so that all start from the same weights
    model.quantizer = codecvq.build_quantizer(name, dim=DIM, **options) if name else None
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for batch in batches(spectra.train, steps, seed):
        decoded, losses = model(batch)
        loss = (decoded - batch).square().mean() + sum(losses.values(), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def snr_db(model: Autoencoder, clips: list[Tensor]) -> float:
    error = sum(float((model(clip)[0] - clip).square().sum()) for clip in clips)
    return 10 * math.log10(sum(float(clip.square().sum()) for clip in clips) / error)


@torch.no_grad()
def code_usage(model: Autoencoder, clips: list[Tensor]) -> tuple[float, float]:
    """The share of the codes that occur, and their entropy in bits per frame."""
    codes = torch.cat([model.codes(clip) for clip in clips], dim=2)[0]  # [N, T]
    used = entropy = 0.0
    for column, size in zip(codes, model.quantizer.codebook_sizes, strict=True):
        counts = column.unique(return_counts=True)[1].double()
        used += len(counts) / size / len(codes)
        entropy += float(torch.special.entr(counts / counts.sum()).sum()) / math.log(2)
    return used, entropy


def measure(name: str, options: dict[str, Any], spectra: Spectra, steps: int, seeds: int) -> Row:
    snrs, uses, entropies, bits = [], [], [], math.inf
    start = time.process_time()
    models = [train(name, options, spectra, steps, seed) for seed in range(seeds)]
    step_ms = 1000 * (time.process_time() - start) / (steps * seeds)
    for model in models:
        snrs.append(snr_db(model, spectra.held_out))
        if model.quantizer is not None:
            used, entropy = code_usage(model, spectra.train)
            uses.append(used)
            entropies.append(entropy)
            bits = model.quantizer.bits_per_frame
    return Row(name, options, bits, snrs, mean(uses), mean(entropies), step_ms)


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


# Output

HEADER = (
    "| quantizer | options | bits | SNR dB | used | entropy | ms per step |\n|---|---|---|---|---|---|---|"
)


def markdown(row: Row) -> str:
    options = ", ".join(f"{key}={value}" for key, value in row.options.items())
    spread = f" ± {(max(row.snr_db) - min(row.snr_db)) / 2:.2f}" if len(row.snr_db) > 1 else ""
    cells = [f"`{row.name}`", f"`{options}`", f"{row.bits:.0f}"] if row.name else ["no quantizer", "", "–"]
    cells += [f"{mean(row.snr_db):.2f}{spread}"]
    cells += [f"{100 * row.used:.0f} %", f"{row.entropy_bits:.1f}"] if row.name else ["–", "–"]
    return f"| {' | '.join([*cells, f'{row.step_ms:.0f}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="run quantizers whose name contains this")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    spectra = read_spectra()
    frames = [sum(clip.shape[2] for clip in clips) for clips in (spectra.train, spectra.held_out)]
    print(f"{frames[0]} training frames, {frames[1]} held out; {options.steps} steps\n\n{HEADER}", flush=True)
    rows = []
    for name, settings in [("", {}), *(case for cases in CASES.values() for case in cases)]:
        if options.only in name:
            rows.append(measure(name, settings, spectra, options.steps, options.seeds))
            print(markdown(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
