"""The Fourier parts of the spectral network, and the losses, against their definitions."""

from __future__ import annotations

import pytest
import torch

from codecvq.networks.fourier import power_spectra
from codecvq.networks.spectral import Framing
from codecvq.training.losses import LossConfig, MelLoss, build_losses


def test_the_gradient_of_power_spectra_is_the_true_one() -> None:
    frames = torch.randn(2, 3, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(power_spectra, (frames,))
    torch.testing.assert_close(power_spectra(frames), torch.fft.rfft(frames).abs().square())


@pytest.mark.parametrize(("window", "hop"), [(1280, 320), (640, 320), (512, 128)])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_overlap_add_inverts_the_spectra(window: int, hop: int, frames: int) -> None:
    framing = Framing(window, hop)
    wav = torch.randn(2, 1, frames * hop)
    spectra = framing.spectra(wav)
    assert spectra.shape == (2, frames, window // 2 + 1)
    torch.testing.assert_close(framing.overlap_add(spectra, None), wav, atol=1e-4, rtol=1e-4)


def test_frames_are_centred_on_their_hop() -> None:
    framing = Framing(640, 160)
    wav = torch.zeros(1, 1, 10 * 160)
    wav[0, 0, 5 * 160 + 80] = 1.0  # the middle of frame 5
    energy = framing.spectra(wav).abs().square().sum(dim=2)[0]
    assert int(energy.argmax()) == 5
    torch.testing.assert_close(energy[4], energy[6])


def reference_mel_loss(
    decoded: torch.Tensor, reference: torch.Tensor, windows: list[int], mels: list[int]
) -> torch.Tensor:
    import librosa

    losses = []
    for size, bands in zip(windows, mels, strict=True):
        basis = torch.from_numpy(librosa.filters.mel(sr=16000, n_fft=size, n_mels=bands, norm=None)).double()
        basis = basis[basis.sum(dim=1) > 0]
        window = torch.hann_window(size, dtype=torch.float64)
        logs = []
        for wav in (decoded, reference):
            spectra = torch.stft(
                wav[:, 0].double(), size, size // 4, window=window, pad_mode="constant", return_complex=True
            )
            logs.append((basis @ spectra.abs()).clamp(min=1e-5).log10())
        losses.append((logs[0] - logs[1]).abs().mean())
    return torch.stack(losses).mean()


def test_the_mel_loss_is_its_definition() -> None:
    decoded, reference = torch.randn(2, 2, 1, 4000)
    loss = MelLoss(16000, [256, 1024], [20, 80])
    expected = reference_mel_loss(decoded, reference, [256, 1024], [20, 80])
    torch.testing.assert_close(loss(decoded, reference).double(), expected, atol=1e-5, rtol=1e-4)
    assert float(loss(reference, reference)) == 0.0


def test_the_gradient_of_the_mel_loss_is_that_of_its_definition() -> None:
    reference = torch.randn(1, 1, 2000)
    ours = torch.randn(1, 1, 2000, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    MelLoss(16000, [256], [20])(ours, reference).backward()
    reference_mel_loss(theirs, reference, [256], [20]).backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-3)


def test_silence_gives_finite_losses_and_gradients() -> None:
    silent = torch.zeros(1, 1, 2000, requires_grad=True)
    loss = MelLoss(16000, [256, 1024], [20, 80])(silent, torch.randn(1, 1, 2000))
    loss.backward()
    assert bool(loss.isfinite())
    assert silent.grad is not None
    assert bool(silent.grad.isfinite().all())


def test_a_term_of_weight_zero_is_not_computed() -> None:
    modules, weights = build_losses(LossConfig(mel=0.0, waveform=2.0), 16000)
    assert list(modules) == ["waveform"]
    assert weights == {"waveform": 2.0}
    assert float(modules["waveform"](torch.zeros(1, 1, 4), torch.full((1, 1, 4), 0.5))) == 0.5
