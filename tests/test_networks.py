"""Networks: spectral transforms, the mel loss, receptive fields, phases, presets and costs."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from codecvq.codec import Codec
from codecvq.errors import OptionError
from codecvq.losses.mel import MelLoss
from codecvq.networks.build import build_network
from codecvq.networks.cost import cost_of, multiply_adds
from codecvq.networks.fourier import power_spectra
from codecvq.networks.interface import Network
from codecvq.networks.spectral.framing import Crossfade, Framing
from codecvq.networks.spectral.phase import retrieve_phases, unit_phases


def test_power_spectra_have_the_correct_gradient() -> None:
    frames = torch.randn(2, 3, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(power_spectra, (frames,))
    torch.testing.assert_close(power_spectra(frames), torch.fft.rfft(frames).abs().square())


@pytest.mark.parametrize(("window", "hop"), [(1280, 320), (640, 320), (512, 128)])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_overlap_add_inverts_spectra(window: int, hop: int, frames: int) -> None:
    framing = Framing(window, hop)
    wav = torch.randn(2, 1, frames * hop)
    spectra = framing.spectra(wav)
    assert spectra.shape == (2, frames, window // 2 + 1)
    torch.testing.assert_close(framing.overlap_add(spectra, None), wav, atol=1e-4, rtol=1e-4)


def test_frames_are_centered_on_their_hop() -> None:
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


def test_mel_loss_equals_the_reference() -> None:
    decoded, reference = torch.randn(2, 2, 1, 4000)
    loss = MelLoss(16000, [256, 1024], [20, 80])
    expected = reference_mel_loss(decoded, reference, [256, 1024], [20, 80])
    torch.testing.assert_close(loss.distance(decoded, reference).double(), expected, atol=1e-5, rtol=1e-4)
    assert float(loss.distance(reference, reference)) == 0.0


def test_mel_loss_gradient_equals_the_reference() -> None:
    reference = torch.randn(1, 1, 2000)
    ours = torch.randn(1, 1, 2000, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    MelLoss(16000, [256], [20]).distance(ours, reference).backward()
    reference_mel_loss(theirs, reference, [256], [20]).backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-3)


def test_silence_gives_finite_losses_and_gradients() -> None:
    silent = torch.zeros(1, 1, 2000, requires_grad=True)
    loss = MelLoss(16000, [256, 1024], [20, 80]).distance(silent, torch.randn(1, 1, 2000))
    loss.backward()
    assert bool(loss.isfinite())
    assert silent.grad is not None
    assert bool(silent.grad.isfinite().all())


# Receptive fields

HOP = 40
SPECTRAL: dict[str, Any] = {
    "name": "spectral",
    "hop_length": HOP,
    "window_length": 4 * HOP,
    "num_mels": 20,
    "encoder_width": 16,
    "encoder_blocks": 2,
    "decoder_width": 16,
    "decoder_blocks": 1,
    "dim": 8,
}
SEANET: dict[str, Any] = {"name": "seanet", "filters": 2, "ratios": [5, 4, 2], "dim": 8}
NETWORKS: dict[str, dict[str, Any]] = {
    "spectral": SPECTRAL,
    "spectral_stft": {**SPECTRAL, "features": "stft"},
    "spectral_detail": {**SPECTRAL, "detail_window_length": 60},
    "spectral_retrieved": {**SPECTRAL, "phase": "retrieved", "phase_iterations": 3},
    "spectral_retrieved_small_hop": {
        **SPECTRAL,
        "phase": "retrieved",
        "phase_iterations": 2,
        "synthesis_hop_length": HOP // 2,
    },
    "spectral_causal": {**SPECTRAL, "causal": True},
    "spectral_causal_odd_window": {**SPECTRAL, "causal": True, "window_length": 123},
    "spectral_causal_detail": {**SPECTRAL, "causal": True, "detail_window_length": 64},
    "spectral_causal_lookahead": {
        **SPECTRAL,
        "causal": True,
        "lookahead_frames": 2,
        "detail_window_length": 64,
    },
    "seanet": {**SEANET, "residual_layers": 2},
    "seanet_causal": {**SEANET, "causal": True},
    "seanet_causal_lstm": {**SEANET, "causal": True, "lstm_layers": 1},
}
CAUSAL = [name for name in NETWORKS if "causal" in name]


def network(name: str) -> Network:
    torch.manual_seed(0)
    model = build_network(sample_rate=8000, **NETWORKS[name])
    model.encoder.eval()
    model.decoder.eval()
    return model


def input_range(module: nn.Module, inputs: torch.Tensor, outputs: slice) -> tuple[int, int]:
    """First and last position of `inputs` with a gradient from the output positions `outputs`."""
    inputs = inputs.clone().requires_grad_()
    out = module(inputs)[0, :, outputs]
    (out * torch.randn(out.shape)).sum().backward()
    assert inputs.grad is not None
    positions = inputs.grad[0].abs().sum(dim=0).nonzero().flatten()
    return int(positions[0]), int(positions[-1])


@pytest.mark.parametrize("name", NETWORKS)
def test_receptive_field_equals_the_declared_reach(name: str) -> None:
    model, frame, frames = network(name), 30, 61
    encoder, decoder = model.encoder_reach, model.decoder_reach
    assert encoder is not None
    assert decoder is not None
    first, last = input_range(model.encoder, 0.1 * torch.randn(1, 1, frames * HOP), slice(frame, frame + 1))
    past = frame * HOP if encoder.past is None else encoder.past
    edge = 2  # samples: the window is 0 at its ends
    assert frame * HOP - past <= first <= frame * HOP - past + edge
    assert (frame + 1) * HOP - 1 + encoder.future - edge <= last <= (frame + 1) * HOP - 1 + encoder.future
    first, last = input_range(model.decoder, torch.randn(1, 8, frames), slice(frame * HOP, (frame + 1) * HOP))
    past = frame if decoder.past is None else decoder.past
    assert (first, last) == (frame - past, frame + decoder.future)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_networks_do_not_depend_on_future_input(name: str) -> None:
    model = network(name)
    lookahead = NETWORKS[name].get("lookahead_frames", 0)
    assert model.lookahead == lookahead * HOP
    wav, frames = 0.1 * torch.randn(1, 1, 30 * HOP), 12
    other = wav.clone()
    other[:, :, (frames + lookahead) * HOP :] = torch.randn(1, 1, (30 - frames - lookahead) * HOP)
    latents, changed = model.encoder(wav), model.encoder(other)
    assert torch.equal(changed[:, :, :frames], latents[:, :, :frames])
    assert not torch.equal(changed[:, :, frames], latents[:, :, frames])
    mixed = torch.cat([latents[:, :, :frames], changed[:, :, frames:] + 1], dim=2)
    before, after = model.decoder(latents), model.decoder(mixed)
    assert torch.equal(after[:, :, : frames * HOP], before[:, :, : frames * HOP])
    assert not torch.equal(after[:, :, frames * HOP :][:, :, :HOP], before[:, :, frames * HOP :][:, :, :HOP])
    early = model.decoder(latents[:, :, :frames])
    assert early.shape[2] == frames * HOP, "the decoder needs no later codes"
    torch.testing.assert_close(early, before[:, :, : frames * HOP], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in NETWORKS if "lstm" not in name])
def test_chunks_with_their_context_equal_the_whole(name: str) -> None:
    model = network(name)
    wav, latents, frames, chunk = 0.1 * torch.randn(1, 1, 50 * HOP), torch.randn(1, 8, 50), 50, 7
    encoder, decoder = model.encoder_reach, model.decoder_reach
    assert encoder is not None
    assert encoder.past is not None
    assert decoder is not None
    assert decoder.past is not None
    past, future = -(-encoder.past // HOP), -(-encoder.future // HOP)
    encoded, decoded = [], []
    for start in range(0, frames, chunk):
        end = min(start + chunk, frames)
        first, last = max(0, start - past), min(frames, end + future)
        part = model.encoder(wav[:, :, first * HOP : last * HOP])
        encoded.append(part[:, :, start - first : end - first])
        first, last = max(0, start - decoder.past), min(frames, end + decoder.future)
        audio = model.decoder(latents[:, :, first:last])
        decoded.append(audio[:, :, (start - first) * HOP : (end - first) * HOP])
    torch.testing.assert_close(torch.cat(encoded, dim=2), model.encoder(wav), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.cat(decoded, dim=2), model.decoder(latents), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_does_not_change_valid_frames(name: str) -> None:
    model, real = network(name), 9
    mask = (torch.arange(14) < real)[None]
    latents, wav = torch.randn(1, 8, 14), torch.randn(1, 1, 14 * HOP)
    wav[:, :, real * HOP :] = 0  # the codec zeroes padded audio; the mask is for hidden layers
    tolerance = {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(
        model.encoder(wav, mask)[:, :, :real], model.encoder(wav[:, :, : real * HOP]), **tolerance
    )
    torch.testing.assert_close(
        model.decoder(latents, mask)[:, :, : real * HOP], model.decoder(latents[:, :, :real]), **tolerance
    )


def test_receptive_field_is_the_sum_of_encoder_and_decoder_reach() -> None:
    model = network("spectral")
    assert model.encoder_reach is not None
    assert model.decoder_reach is not None
    # Three convolutions over seven frames, and a window that extends 1.5 hops past each side of the frame.
    assert (model.encoder_reach.past, model.encoder_reach.future) == (9 * HOP + 60, 9 * HOP + 60)
    # Two convolutions, and two frames on each side whose windows overlap the hop.
    assert (model.decoder_reach.past, model.decoder_reach.future) == (8, 8)
    assert model.lookahead == 17 * HOP + 60
    assert model.receptive_field == 2 * (17 * HOP + 60) + HOP
    assert network("seanet_causal_lstm").receptive_field is None
    unknown = Network(nn.Identity(), nn.Identity(), 1, 1)
    assert (unknown.lookahead, unknown.receptive_field) == (None, None)


@pytest.mark.parametrize("hop", [2, 5, 40])
def test_crossfaded_frames_reconstruct_the_signal(hop: int) -> None:
    crossfade, frames = Crossfade(hop), 6
    wav = torch.randn(1, frames * hop + hop)
    pieces = wav.unfold(1, crossfade.length, hop)[:, :frames]
    decoded = crossfade.overlap_add(torch.fft.rfft(pieces), None)
    assert decoded.shape == (1, 1, frames * hop)
    torch.testing.assert_close(decoded[0, :, hop:], wav[:, hop : frames * hop])
    torch.testing.assert_close(
        decoded[0, 0, : crossfade.overlap], crossfade.fade * wav[0, : crossfade.overlap]
    )


# Phases


def harmonics() -> torch.Tensor:
    """One second of a speech-like sound at 8 kHz, `[1, 1, 8000]`."""
    time = torch.arange(8000) / 8000
    pitch = 2 * torch.pi * (120 * time + 3 * torch.sin(9 * time))
    tones = torch.stack([(n * pitch).cos() / n for n in range(1, 30)]).sum(dim=0)
    return (0.1 * tones * torch.sin(11 * time).square())[None, None]


def test_more_iterations_retrieve_better_phases() -> None:
    framing, wav = Framing(320, 80), harmonics()
    magnitudes = framing.spectra(wav).abs()

    def spectral_error(iterations: int) -> float:
        phases = retrieve_phases(framing, magnitudes, iterations, None)
        sizes = phases.abs()  # 1, and less in one or two silent bins
        assert float(sizes.max()) < 1.001
        assert float((sizes < 0.999).float().mean()) < 1e-3
        again = framing.spectra(framing.overlap_add(magnitudes * phases, None)).abs()
        return float((again - magnitudes).norm() / magnitudes.norm())

    errors = [spectral_error(iterations) for iterations in (1, 4, 16, 64)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 < errors[0], errors


def test_reference_phases_reconstruct_the_reference() -> None:
    model = network("spectral_retrieved_small_hop")
    framing, wav = model.decoder.framing, 0.1 * torch.randn(1, 1, 12 * HOP)
    spectra = framing.spectra(wav)
    torch.testing.assert_close(
        framing.overlap_add(spectra.abs() * unit_phases(spectra), None), wav, atol=1e-5, rtol=1e-4
    )
    latents = torch.randn(1, 8, 12)
    with torch.no_grad():
        with_reference, without = model.decoder(latents, None, wav), model.decoder(latents)
    assert with_reference.shape == without.shape == wav.shape
    similarity = float((with_reference * wav).sum() / with_reference.norm() / wav.norm())
    assert similarity > 0.3 > float((without * wav).sum())


def test_decoders_receive_the_reference_only_in_training() -> None:
    quantizer = {"name": "fsq", "levels": [5, 5]}
    network = {**NETWORKS["spectral_retrieved"], "training_phase": "recorded"}
    wav = 0.1 * torch.randn(2, 1, 12 * HOP)
    for phase in ("recorded", "retrieved"):
        torch.manual_seed(0)
        codec = Codec(sample_rate=8000, network=network | {"training_phase": phase}, quantizer=quantizer)
        trained, evaluated = codec.train()(wav).wav, codec.eval()(wav).wav
        assert torch.allclose(trained, evaluated, atol=1e-6) == (phase == "retrieved")
        torch.testing.assert_close(evaluated, codec.decode(codec.encode(wav)), atol=1e-5, rtol=1e-4)


# Presets


@pytest.mark.parametrize("name", ["spectral", "seanet"])
def test_presets_have_increasing_sizes_and_options_override_them(name: str) -> None:
    def parameters(**options: Any) -> int:
        model = build_network(name, sample_rate=16000, **options)
        return sum(p.numel() for module in (model.encoder, model.decoder) for p in module.parameters())

    sizes = [parameters(preset=preset) for preset in ("tiny", "small", "base")]
    assert sizes == sorted(set(sizes))
    assert parameters() == sizes[1], "small is the default"
    changed = {"decoder_blocks": 2} if name == "spectral" else {"residual_layers": 2}
    assert parameters(preset="tiny", **changed) != sizes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "spectral", "preset": "bas"}, "Did you mean 'base'"),
        ({"name": "seanet", "preset": "huge"}, "tiny, small, base, large"),
        ({"name": "spectral", "encoder_blocks": 0}, "encoder_blocks is 0"),
        ({"name": "seanet", "filters": 1.5}, r"filters is 1\.5"),
        ({"name": "spectral", "lookahead_frames": 1}, "not causal"),
        ({"name": "spectral", "lookahead_frames": 4, "causal": True}, "0 to 3"),
        ({"name": "spectral", "lookahead_frames": -1, "causal": True}, "lookahead_frames is -1"),
        ({"name": "spectral", "phase": "guessed"}, "'predicted', 'retrieved' or 'source'"),
        ({"name": "spectral", "synthesis_hop_length": 160}, "are for phase: retrieved"),
        ({"name": "spectral", "phase": "retrieved", "training_phase": "none"}, "'recorded' or 'retrieved'"),
        ({"name": "spectral", "phase": "retrieved", "causal": True}, "Set phase: source or predicted"),
        ({"name": "spectral", "phase": "retrieved", "synthesis_hop_length": 300}, "must divide hop_length"),
        ({"name": "spectral", "phase": "retrieved", "synthesis_window_length": 401}, "needed is 640 to"),
        ({"name": "spectral", "phase": "retrieved", "phase_iterations": 0}, "usually 16"),
        ({"name": "seanet", "causal": True, "norm": "time_group_norm"}, "streams would give other codes"),
    ],
)
def test_invalid_network_options_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build_network(sample_rate=16000, **options)


# Cost


def test_multiply_adds_of_layers_equal_the_formulas() -> None:
    inputs = torch.randn(2, 5, 30)
    with torch.no_grad():
        output, linear = multiply_adds(lambda: nn.Linear(30, 7)(inputs))
        assert output.shape == (2, 5, 7)
        assert linear == 2 * 5 * 30 * 7
        _, grouped = multiply_adds(lambda: nn.Conv1d(5, 10, 3, padding=1, stride=2, groups=5)(inputs))
        assert grouped == 2 * 15 * 10 * (5 // 5) * 3
        _, recurrent = multiply_adds(lambda: nn.LSTM(30, 8)(inputs)[0])
        assert recurrent == 2 * 5 * 4 * 8 * (30 + 8)
        _, transform = multiply_adds(lambda: torch.fft.rfft(inputs[..., :16]))
        assert transform == 2 * 5 * 1.25 * 16 * 4
        _, back = multiply_adds(lambda: torch.fft.irfft(torch.fft.rfft(inputs[..., :16])))
        assert back == 2 * transform


def test_cost_of_a_codec_is_the_sum_of_its_layers() -> None:
    options = {**SPECTRAL, "hop_length": 64, "window_length": 256}
    codec = Codec(sample_rate=8000, network=options, quantizer={"name": "vq", "codebook_size": 32})
    cost, frame_rate = cost_of(codec.network, codec.quantizer, 8000), Fraction(8000, 64)
    assert codec.training
    width, window, bins, mels, dim = 16, 256, 129, 20, 8

    def backbone(features: int, blocks: int) -> int:
        return 7 * features * width + blocks * (7 * width + 2 * width * 3 * width)

    encoder = 1.25 * window * 8 + bins * mels + backbone(mels, 2) + width * dim
    decoder = backbone(dim, 1) + width * 2 * bins + 1.25 * window * 8
    assert cost.encoder.multiply_adds_per_s == pytest.approx(float(frame_rate * round(encoder)))
    assert cost.decoder.multiply_adds_per_s == pytest.approx(float(frame_rate * round(decoder)))
    assert cost.quantizer.multiply_adds_per_s >= frame_rate * 32 * dim, "each code is compared"
    assert cost.decoder.parameters == sum(p.numel() for p in codec.decoder.parameters())
    assert cost.by_part()["encoder"]["parameters"] == cost.encoder.parameters
