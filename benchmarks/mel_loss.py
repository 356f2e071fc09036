"""Time saved by the mel loss's own backward pass, compared with torch.stft.

    python benchmarks/mel_loss.py [--threads 1] [--repeats 9]

Both run in one process, interleaved; the script prints medians and their ratio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from codecvq.losses.mel import FLOOR, MelLoss


class PlainMelLoss(nn.Module):
    """The same loss with one torch.stft of both signals, differentiated by autograd."""

    def __init__(self, mel_loss: MelLoss) -> None:
        super().__init__()
        self.mel_loss = mel_loss

    def forward(self, decoded: Tensor, reference: Tensor) -> Tensor:
        both = torch.cat([decoded, reference]).flatten(0, 1)
        losses = []
        for size in self.mel_loss.windows:
            window, mel = self.mel_loss.get_buffer(f"window_{size}"), self.mel_loss.get_buffer(f"mel_{size}")
            spectra = torch.stft(
                both, size, size // 4, window=window, pad_mode="constant", return_complex=True
            )
            power = spectra.real.square() + spectra.imag.square()
            logs = ((power + FLOOR**2).sqrt().mT @ mel).clamp(min=FLOOR).log10()
            losses.append((logs[: len(decoded)] - logs[len(decoded) :]).abs().mean())
        return torch.stack(losses).mean()


def seconds(loss: Callable[[Tensor, Tensor], Tensor], decoded: Tensor, reference: Tensor) -> float:
    decoded.grad = None
    start = time.perf_counter()
    loss(decoded, reference).backward()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ours = MelLoss(16000)
    plain = PlainMelLoss(ours)
    decoded, reference = torch.randn(16, 1, 16000, requires_grad=True), torch.randn(16, 1, 16000)
    torch.testing.assert_close(
        ours.distance(decoded, reference), plain(decoded, reference), rtol=1e-4, atol=1e-5
    )
    times: dict[str, list[float]] = {"ours": [], "torch.stft": []}
    for repeat in range(options.repeats + 2):
        for name, loss in (("ours", ours.distance), ("torch.stft", plain)):
            taken = seconds(loss, decoded, reference)
            if repeat >= 2:  # the first two are warm-up
                times[name].append(taken)
    for name, taken in times.items():
        print(
            f"{name:12} {1000 * median(taken):7.1f} ms forward and backward, 16 x 1 s, median of {len(taken)}"
        )
    print(f"ratio        {median(times['torch.stft']) / median(times['ours']):7.2f}")


if __name__ == "__main__":
    main()
