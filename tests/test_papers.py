"""Methods of papers as short plugins: they train on speech and have the properties that the papers state.

`plugins/example/papers/distillation.py` is a loss. `test_loss_plugins.py` trains it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import codecvq
from codecvq.bitstream import pack, unpack
from codecvq.codec import Codec
from codecvq.data import open_corpus
from codecvq.networks.spectral.features import LogMel
from codecvq.networks.spectral.framing import Framing
from codecvq.plugins import load, registry
from codecvq.quantizer import Quantizer
from codecvq.testing import quantizer_checks, run_checks

PAPERS = Path(__file__).resolve().parent.parent / "plugins/example/papers"
SMALL: dict[str, dict[str, Any]] = {
    "ibq": {"codebook_size": 16},
    "gumbel": {"codebook_size": 16},
    "nsvq": {"codebook_size": 16},
    "qinco": {"codebook_size": 16},
    "delta": {"codebook_size": 16},
    "snac": {"codebook_size": 16, "codebook_dim": 3},
    "unequal_groups": {"levels": [5, 3], "codebook_size": 16},
    "own_ema": {"codebook_size": 16},
    "rate_vq": {"codebook_size": 16},
}
#: have several codebooks, so their residual form is rejected
SEVERAL_CODEBOOKS = ("snac", "unequal_groups")
MAX_LINES = 70
DIM, BANDS, STEPS = 8, 40, 20


@pytest.fixture(autouse=True)
def _loaded() -> Iterator[None]:
    origins = [load(PAPERS / f"{file.stem}.py") for file in sorted(PAPERS.glob("*.py"))]
    yield
    for origin in origins:
        registry().unregister(origin)


@pytest.fixture(scope="module")
def speech() -> Tensor:
    """Log-mel spectra of speech, `[B, bands, T]`: 1.2 s of 16 clips of the bundled corpus."""
    clips = [clip for clip in open_corpus("prompts").split("train") if clip.duration_s > 1.3][:16]
    wavs = [torch.from_numpy(clip.read(16_000))[:19_200] for clip in clips]
    features = LogMel(Framing(1280, 320), 16_000, BANDS)
    with torch.no_grad():
        spectra = features(torch.stack(wavs)[:, None]).transpose(1, 2)
    return (spectra - spectra.mean()) / spectra.std()


def make(name: str, seed: int = 0, **more: Any) -> Quantizer:
    torch.manual_seed(seed)
    plain = name.removeprefix("residual_")
    return codecvq.build_quantizer(name, **{"dim": DIM, **SMALL[plain], **more})


def residual(name: str) -> str:
    return name if name in SEVERAL_CODEBOOKS else f"residual_{name}"


def test_example_files_are_short_and_use_public_names_only() -> None:
    for file in PAPERS.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= MAX_LINES, file
        modules = [node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
        ours = {module for module in modules if module and module.startswith("codecvq")}
        assert ours <= {"codecvq", "codecvq.quantizer", "codecvq.losses"}, file
        assert not re.search(r"(?<!\))\._[a-z]", text), file


def test_the_readme_lists_every_example_file() -> None:
    page = (PAPERS / "README.md").read_text(encoding="utf-8")
    assert [file.name for file in PAPERS.glob("*.py") if f"[{file.name}]({file.name})" not in page] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_form_passes_all_checks(name: str) -> None:
    outcomes = list(run_checks(quantizer_checks(name, **SMALL[name])))
    assert {o.check.name: o.found for o in outcomes if o.is_broken} == {}
    rejected = {o.check.name.partition("/")[0] for o in outcomes if o.state == "refused"}
    assert rejected == ({f"residual_{name}", f"multiscale_{name}"} if name in SEVERAL_CODEBOOKS else set())
    assert len(outcomes) > 60


@pytest.mark.parametrize("name", SMALL)
def test_twenty_training_steps_reduce_the_error(name: str, speech: Tensor) -> None:
    more = {} if name in SEVERAL_CODEBOOKS else {"num_codebooks": 2, "dropout": 0.5}
    quantizer = make(residual(name), **more)
    encoder, decoder = nn.Conv1d(BANDS, DIM, 1), nn.Conv1d(DIM, BANDS, 1)
    parameters = [*encoder.parameters(), *decoder.parameters(), *quantizer.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    before = [each.detach().clone() for each in (*quantizer.parameters(), *quantizer.buffers())]

    def error() -> float:
        quantizer.eval()
        with torch.no_grad():
            return float(F.mse_loss(decoder(quantizer(encoder(speech)).latents), speech))

    first = error()
    for step in range(STEPS):
        quantizer.train().set_progress(step, STEPS)
        out = quantizer(encoder(speech))
        loss = F.mse_loss(decoder(out.latents), speech) + sum(out.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert error() < 0.8 * first
    after = (*quantizer.parameters(), *quantizer.buffers())
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_ibq_gives_gradients_to_unselected_codewords(speech: Tensor) -> None:
    quantizer = make("residual_ibq", num_codebooks=2, codebook_size=64)
    out = quantizer(speech[:1, :DIM, :20])
    out.latents.square().sum().backward()
    for n, stage in enumerate(quantizer.stages):
        chosen = len(out.codes[:, n].unique())
        assert chosen <= 20
        assert int((stage.codebook.grad.abs().sum(dim=1) > 0).sum()) > 2 * chosen


def test_gumbel_temperature_decreases_during_training_in_all_stages(speech: Tensor) -> None:
    quantizer = make("residual_gumbel", num_codebooks=2, dropout=1.0)
    temperatures = []
    for step in (0, 50, 100):
        quantizer.set_progress(step, 100)
        assert quantizer.stage(0).temperature == quantizer.stage(1).temperature
        temperatures.append(quantizer.stage(0).temperature)
    assert temperatures == pytest.approx([2.0, 1.0, 0.5])
    quantizer(speech[:, :DIM]).latents.square().sum().backward()
    assert bool(quantizer.stage(0).logits.weight.grad.any())


def test_gumbel_saves_its_training_progress(tmp_path: Path) -> None:
    network = {"name": "spectral", "hop_length": 320, "window_length": 640, "num_mels": 16, "dim": DIM}
    network |= {"encoder_width": 8, "encoder_blocks": 1, "decoder_width": 8, "decoder_blocks": 1}
    codec = Codec(
        sample_rate=16_000,
        network=network,
        quantizer={"name": "residual_gumbel", "codebook_size": 16, "num_codebooks": 2},
    )
    codec.quantizer.set_progress(30, 120)
    loaded = codecvq.load(codec.save(tmp_path / "codec"))
    assert isinstance(loaded, Codec)
    assert loaded.weights_sha256 == codec.weights_sha256
    assert [each.progress.step for each in loaded.quantizer.stages] == [30, 30]


def test_nsvq_noise_has_the_norm_of_the_quantization_error(speech: Tensor) -> None:
    quantizer, latents = make("residual_nsvq", num_codebooks=2), speech[:, :DIM]
    out = quantizer(latents)
    decoded = quantizer.decode(out.codes)
    torch.testing.assert_close((out.latents - latents).norm(dim=1), (decoded - latents).norm(dim=1))
    assert float((out.latents - decoded).abs().max()) > 0.1
    out.latents.square().sum().backward()
    assert all(bool(stage.codebook.grad.any()) for stage in quantizer.stages)


def test_qinco_codewords_depend_on_the_partial_sum() -> None:
    quantizer = make("residual_qinco", num_codebooks=2).eval()
    codes = torch.tensor([[[0, 1], [3, 3]]])  # equal second codes after different first codes
    added = quantizer.decode(codes) - quantizer.decode(codes[:, :1])
    assert not torch.allclose(added[..., 0], added[..., 1])


def test_delta_adds_codewords_to_the_previous_frame(speech: Tensor) -> None:
    quantizer = make("delta").eval()
    codes = quantizer.encode(speech[:2, :DIM])
    values = quantizer.decode(codes)
    steps = quantizer.codebook[codes[:, 0, 1:]].transpose(1, 2)
    torch.testing.assert_close(values[..., 1:] - values[..., :-1], steps, rtol=1e-4, atol=1e-4)


def test_snac_codes_are_constant_over_their_stride(speech: Tensor) -> None:
    quantizer = make("snac").eval()
    assert quantizer.strides == (4, 2, 1)
    assert quantizer.bits_per_frame == 4 * (1 / 4 + 1 / 2 + 1)
    codes = quantizer.encode(speech[:1, :DIM, :7])
    assert [len(codes[0, n].unique_consecutive()) <= most for n, most in enumerate((2, 4, 7))] == [True] * 3


def test_unequal_groups_use_separate_channels(speech: Tensor) -> None:
    quantizer = make("unequal_groups").eval()
    assert quantizer.codebook_sizes == (15, 16)
    latents = speech[:2, :DIM].clone()
    codes = quantizer.encode(latents)
    latents[:, 2:] = 0.0
    other = quantizer.encode(latents)
    assert torch.equal(codes[:, 0], other[:, 0])
    assert not torch.equal(codes[:, 1], other[:, 1])


def test_own_ema_equals_the_built_in_ema_codebook(speech: Tensor) -> None:
    own = make("own_ema")
    built_in = codecvq.build_quantizer("vq", dim=DIM, codebook_size=16, dead_code_threshold=0.0)
    own.codebook.copy_(built_in.codebook)
    own.counts.copy_(built_in.usage.fill_(1.0))
    for quantizer in (own, built_in):
        quantizer.started.fill_(True)
        for _ in range(3):
            quantizer(speech[:, :DIM])
    torch.testing.assert_close(own.codebook, built_in.codebook)


def test_the_rate_loss_reduces_the_file_size(speech: Tensor) -> None:
    network = {"name": "spectral", "hop_length": 1280, "window_length": 1280, "num_mels": 16, "dim": DIM}
    network |= {"encoder_width": 8, "encoder_blocks": 1, "decoder_width": 8, "decoder_blocks": 1}
    options = {"codebook_size": 16, "lagrangian": 0.5}
    codec = Codec(sample_rate=16_000, network=network, quantizer={"name": "rate_vq", **options})
    optimizer = torch.optim.AdamW(codec.quantizer.parameters(), lr=0.1)
    latents = speech[:, :DIM, ::4]  # 12.5 Hz: adjacent frames have little in common
    for _ in range(10 * STEPS):
        optimizer.zero_grad()
        torch.stack([*codec.quantizer(latents).losses.values()]).sum().backward()
        optimizer.step()
    codec.eval()
    codes = codec.quantizer.encode(latents)[..., :16]  # short clips: the adaptive model has learned little
    learned, packed, kinds = 0, 0, list[str]()
    for clip in codes:
        packet = unpack(pack(codec, clip, 1280 * clip.shape[1]), codec)
        kinds.append(packet.kind)
        assert torch.equal(torch.from_numpy(packet.codes), clip)
        learned += packet.payload_bits
        packed += unpack(pack(codec, clip, 1280 * clip.shape[1], entropy=False), codec).payload_bits
    assert kinds.count("learned") > len(kinds) / 2, kinds
    assert learned < 0.8 * packed
    free = make("rate_vq", lagrangian=0.0, seed=1)
    free.codebook.data.copy_(codec.quantizer.codebook)
    # The rate term makes rare codes rarer.
    assert len(free.eval().encode(latents).unique()) > len(codes.unique())
