"""The codec: exact lengths, padding, hashes, and codec folders."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch

import codecvq
from codecvq.codec import Codec, load
from codecvq.errors import CodecError, OptionError, ShapeError
from codecvq.quantizer import Residual, build_quantizer

HOP = 80
SMALL = {"hop_length": HOP, "window_length": 320, "encoder_width": 16, "decoder_width": 16, "dim": 8}
NETWORKS = {
    "spectral": {"name": "spectral", "encoder_blocks": 2, "decoder_blocks": 2, "num_mels": 20, **SMALL},
    "spectral_stft": {
        "name": "spectral",
        "features": "stft",
        "encoder_blocks": 1,
        "decoder_blocks": 1,
        **SMALL,
    },
    "seanet": {"name": "seanet", "filters": 2, "ratios": [5, 4, 4], "dim": 8},
    "seanet_causal": {"name": "seanet", "filters": 2, "ratios": [5, 4, 4], "dim": 8, "causal": True},
}
FSQ = {"name": "fsq", "levels": [5, 5, 5, 5], "num_codebooks": 2}


def make(network: str, quantizer: dict = FSQ) -> Codec:
    torch.manual_seed(0)
    return Codec(sample_rate=8000, network=NETWORKS[network], quantizer=quantizer).eval()


@pytest.fixture(params=NETWORKS)
def codec(request: pytest.FixtureRequest) -> Codec:
    return make(request.param)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("samples", [0, 1, HOP - 1, HOP, HOP + 1, 7 * HOP + 13])
def test_decoded_audio_has_exactly_the_samples_of_the_original(codec: Codec, samples: int) -> None:
    wav = noise(2, 1, samples)
    codes = codec.encode(wav)
    assert codes.shape == (2, 2, -(-samples // HOP))
    assert codec.decode(codes, num_samples=samples).shape == wav.shape
    assert codec.decode(codes).shape[2] == codes.shape[2] * HOP


@pytest.mark.parametrize("length", [1, HOP, 5 * HOP + 3])
def test_padding_changes_neither_codes_nor_audio(codec: Codec, length: int) -> None:
    batch = noise(2, 1, 12 * HOP)
    alone = batch[1:, :, :length]
    lengths = torch.tensor([12 * HOP, length])
    together, single = codec.encode(batch, lengths=lengths), codec.encode(alone)
    frames = single.shape[2]
    assert torch.equal(together[1:, :, :frames], single), "noise after the end of an item changes its codes"
    assert not together[1, :, frames:].any(), "padding has code 0"
    decoded = codec.decode(together, lengths=lengths)
    torch.testing.assert_close(
        decoded[1:, :, :length], codec.decode(single, num_samples=length), atol=1e-6, rtol=1e-5
    )
    assert not decoded[1, :, length:].any()


@pytest.mark.parametrize("length", [1, HOP, 5 * HOP + 3])
def test_padding_changes_nothing_with_strided_codebooks(length: int) -> None:
    codec = make("spectral")
    stages = [build_quantizer("vq", dim=8, codebook_size=16) for _ in range(3)]
    codec.quantizer = Residual(8, stages, strides=(4, 2, 1)).eval()
    assert (codec.strides, codec.bitrate) == ((4, 2, 1), 100 * (1 + 2 + 4))
    batch, lengths = noise(2, 1, 12 * HOP), torch.tensor([12 * HOP, length])
    together, alone = codec.encode(batch, lengths=lengths), codec.encode(batch[1:, :, :length])
    assert torch.equal(together[1:, :, : alone.shape[2]], alone)
    assert not together[1, :, alone.shape[2] :].any()
    decoded = codec.decode(together, lengths=lengths)
    torch.testing.assert_close(
        decoded[1:, :, :length], codec.decode(alone, num_samples=length), atol=1e-6, rtol=1e-5
    )


def test_a_saved_codec_gives_the_same_codes_and_audio(codec: Codec, tmp_path: Path) -> None:
    wav = noise(1, 1, 1000)
    codec.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again = codecvq.load(tmp_path)
    assert torch.equal(again.encode(wav), codec.encode(wav))
    assert torch.equal(again.decode(again.encode(wav)), codec.decode(codec.encode(wav)))
    assert (again.weights_sha256, again.codebooks_sha256) == (codec.weights_sha256, codec.codebooks_sha256)


def test_a_codec_has_name_rates_and_sizes() -> None:
    codec = make("spectral")
    assert (codec.sample_rate, codec.hop_length, codec.frame_rate) == (8000, HOP, Fraction(100))
    assert codec.codebook_sizes == (625, 625)
    assert codec.bitrate == pytest.approx(100 * 8 * 2.321928, rel=1e-6)


def test_different_codecs_have_different_hashes() -> None:
    codec = make("spectral")
    weights, codebooks = codec.weights_sha256, codec.codebooks_sha256
    with torch.no_grad():
        codec.decoder.head.bias += 1  # type: ignore[operator, union-attr]
    assert codec.weights_sha256 != weights
    assert codec.codebooks_sha256 == codebooks, "the meaning of codes does not depend on the decoder"
    with torch.no_grad():
        codec.encoder.project.bias += 1  # type: ignore[operator, union-attr]
    assert codec.codebooks_sha256 != codebooks, "FSQ has no codebook, so its codes depend on the encoder"


def test_audio_at_another_rate_is_resampled() -> None:
    codec = make("spectral")
    at_44k = noise(1, 1, 44100)
    codes = codec.encode(at_44k, sample_rate=44100)
    assert codes.shape[2] == 100, "one second"
    assert codec.encode(at_44k).shape[2] == -(-44100 // HOP), (
        "without a sample rate, samples are not resampled"
    )
    lengths = torch.tensor([22050])
    assert not codec.encode(at_44k, sample_rate=44100, lengths=lengths)[:, :, 50:].any()


def test_padding_at_another_rate_changes_no_codes() -> None:
    codec = make("spectral")
    wav, lengths = noise(2, 1, 30_000), torch.tensor([30_000, 14_321])
    silent = wav.clone()
    silent[1, :, 14_321:] = 0.0
    codes = codec.encode(wav, sample_rate=44_100, lengths=lengths)
    assert torch.equal(codes, codec.encode(silent, sample_rate=44_100, lengths=lengths))
    latents = codec.encode_latents(wav, sample_rate=44_100, lengths=lengths)
    assert torch.equal(latents, codec.encode_latents(silent, sample_rate=44_100, lengths=lengths))
    alone = codec.encode(wav[1:, :, :14_321], sample_rate=44_100)
    assert torch.equal(codes[1:, :, : alone.shape[2]], alone)


def test_the_number_of_codebooks_is_selected_at_run_time() -> None:
    codec = make("spectral", {"name": "residual_vq", "codebook_size": 16, "num_codebooks": 3})
    wav = noise(1, 1, 800)
    codes = codec.encode(wav)
    assert torch.equal(codec.encode(wav, num_codebooks=2), codes[:, :2])
    assert codec.decode(codes[:, :1], num_samples=800).shape == wav.shape


@pytest.mark.parametrize(
    ("wav", "says"),
    [
        (torch.zeros(1, 800), "wav"),
        (torch.zeros(1, 2, 800), "C=1"),
        (torch.zeros(1, 1, 800, dtype=torch.int16), "floats"),
    ],
    ids=["no channel axis", "stereo", "integers"],
)
def test_wrong_audio_is_an_error(wav: torch.Tensor, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        make("spectral").encode(wav)


def test_more_samples_than_the_codes_cover_are_an_error() -> None:
    codec = make("spectral")
    with pytest.raises(ShapeError, match="hold 0 to 800"):
        codec.decode(codec.encode(noise(1, 1, 800)), num_samples=801)


class TestFiles:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        return make("spectral").save(tmp_path)

    @pytest.mark.parametrize("cut", [0, 7, 1000, -1])
    def test_a_truncated_weights_file_gives_a_one_line_error(self, saved: Path, cut: int) -> None:
        path = saved / "model.safetensors"
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(CodecError, match="cannot be read"):
            load(saved)

    def test_weights_of_another_codec_are_an_error(self, saved: Path, tmp_path: Path) -> None:
        torch.manual_seed(5)
        other = Codec(sample_rate=8000, network=NETWORKS["spectral"], quantizer=FSQ).save(tmp_path / "other")
        (saved / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
        with pytest.raises(CodecError, match="do not match the hashes"):
            load(saved)

    def test_a_folder_without_a_codec_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(CodecError, match="is not a codec"):
            load(tmp_path)

    def test_a_newer_format_is_an_error(self, saved: Path) -> None:
        config = json.loads((saved / "config.json").read_text())
        (saved / "config.json").write_text(json.dumps({**config, "format": "codecvq.codec/3"}))
        with pytest.raises(CodecError, match="Update codecvq"):
            load(saved)

    def test_a_missing_plugin_is_an_error_that_names_it(self, tmp_path: Path) -> None:
        plugin = tmp_path / "my_vq.py"
        plugin.write_text(
            "import torch\nfrom codecvq import Quantizer, QuantizerSpec, hookimpl\n"
            "class One(Quantizer):\n"
            "    def __init__(self, dim):\n        super().__init__(dim, [1])\n"
            "    def quantize(self, x):\n        return torch.zeros_like(x), torch.zeros(len(x), 1, "
            "dtype=torch.long)\n"
            "    def dequantize(self, codes):\n        return torch.zeros(len(codes), self.code_dim)\n"
            "@hookimpl\ndef codecvq_quantizers():\n    yield QuantizerSpec(name='one_code', factory=One)\n"
        )
        script = (
            "import sys, codecvq\n"
            "from codecvq.plugins import load\n"
            f"if 'plugin' in sys.argv: load({str(plugin)!r})\n"
            f"network = {NETWORKS['spectral']!r}\n"
            "if 'save' in sys.argv: codecvq.Codec(sample_rate=8000, network=network, "
            f"quantizer=dict(name='one_code')).save({str(tmp_path)!r})\n"
            f"else: print(codecvq.load({str(tmp_path)!r}).codebook_sizes)\n"
        )

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False
            )

        assert run("save", "plugin").returncode == 0
        assert run("plugin").stdout == "(1,)\n"
        alone = run()
        assert alone.returncode != 0
        assert f"plugin file {plugin}" in alone.stderr
        assert "Pass it with --plugin" in alone.stderr


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ({"name": "spectrall"}, "Did you mean 'spectral'"),
        (
            {"name": "spectral", "dim": torch.nn.Identity()},
            r"network\.dim of a codec is a Identity.*'plugin:Name'",
        ),
        ({"name": "spectral", "hop": 320}, "Did you mean 'hop_length'"),
        ({"name": "spectral", "hop_length": 320, "window_length": 321}, "difference even"),
        ({"name": "seanet", "norm": "time_group_norm"}, "over time"),
        ({"hop_length": 320}, "network has no name"),
    ],
)
def test_an_invalid_network_is_an_error(network: dict, says: str) -> None:
    with pytest.raises((OptionError, codecvq.CodecvqError), match=says):
        Codec(sample_rate=16000, network=network, quantizer=FSQ)
