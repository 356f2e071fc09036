"""Wrapped codecs: what the base class provides, and that every command supports them.

The tests wrap mu-law, and EnCodec from docs/how-to/wrap-a-codec.md with random weights.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_codecs import HOP, LevelCodec, MulawCodec

from codecvq import WrappedCodec, load
from codecvq.api.codec import AudioCodec
from codecvq.audio import read_audio, write_audio
from codecvq.bitstream import pack, read_cvq, unpack
from codecvq.cli.app import main
from codecvq.codec.loading import MEMBERS, missing_members
from codecvq.data.corpus import open_corpus
from codecvq.errors import CodecError, CodecvqError, NonFiniteError, OptionError, PluginError, ShapeError
from codecvq.plugins import registry
from codecvq.testing import codec_checks, run_checks
from codecvq.tokens import read_tokens

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs/how-to/wrap-a-codec.md").read_text(encoding="utf-8")
RATE = 24_000


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def plugin_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`my_encodec.py` of the how-to page."""
    match = re.search(r"^```python\n# my_encodec\.py\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    assert match
    path = tmp_path_factory.mktemp("plugin") / "my_encodec.py"
    path.write_text(match[1])
    return path


@pytest.fixture(scope="module", autouse=True)
def random_weights() -> Iterator[None]:
    """EnCodec models have random weights and codebooks, so nothing is downloaded."""
    from encodec import EncodecModel

    make = EncodecModel.encodec_model_24khz

    def random_model() -> EncodecModel:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch warns about weight_norm in encodec
            model = make(pretrained=False)
        with torch.no_grad():
            spread = model.encoder(noise(1, 1, RATE)).std()
            for layer in model.quantizer.vq.layers:
                layer._codebook.embed.normal_(0, float(spread))
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EncodecModel, "encodec_model_24khz", staticmethod(random_model))
        yield


@pytest.fixture(scope="module")
def encodec(plugin_file: Path) -> Iterator[AudioCodec]:
    origin = registry().load(plugin_file)
    yield load("encodec-24k")
    registry().unregister(origin)


# The base class


def test_rates_and_lengths_of_a_wrapped_codec_are_exact(encodec: AudioCodec) -> None:
    assert (encodec.frame_rate, encodec.bitrate, encodec.num_codebooks) == (Fraction(75), 24_000, 32)
    for samples in (0, 1, 319, 320, 321, 2000):
        codes = encodec.encode(noise(2, 1, samples))
        assert codes.shape == (2, 32, -(-samples // 320))
        assert codes.dtype == torch.int64
        assert encodec.decode(codes, num_samples=samples).shape == (2, 1, samples)
    assert encodec.encode(noise(1, 1, 8000), sample_rate=8000).shape[2] == 75
    assert codes.unique().numel() > 50


@pytest.mark.parametrize("length", [0, 1, 320, 1603])
def test_padding_does_not_change_codes_and_audio(encodec: AudioCodec, length: int) -> None:
    batch, lengths = noise(3, 1, 3200), torch.tensor([3200, length, 3200])
    codes, alone = encodec.encode(batch, lengths=lengths), encodec.encode(batch[1:2, :, :length])
    assert torch.equal(codes[1:2, :, : alone.shape[2]], alone)
    assert not codes[1, :, alone.shape[2] :].any()
    assert torch.equal(codes[[0, 2]], encodec.encode(batch[[0, 2]]))
    wav = encodec.decode(codes, lengths=lengths)
    assert torch.equal(wav[1:2, :, :length], encodec.decode(alone, num_samples=length))
    assert not wav[1, :, length:].any()


def test_a_smaller_depth_needs_nested_codebooks(encodec: AudioCodec) -> None:
    wav = noise(1, 1, 1600)
    assert torch.equal(encodec.encode(wav, num_codebooks=4), encodec.encode(wav)[:, :4])
    assert encodec.decode(encodec.encode(wav, num_codebooks=4)).shape == wav.shape
    mulaw = MulawCodec()
    for call in (lambda: mulaw.encode(wav, num_codebooks=4), lambda: mulaw.decode(mulaw.encode(wav)[:, :4])):
        with pytest.raises(ShapeError, match=r"num_codebooks is 4.*'mulaw' needs all 8 codebooks"):
            call()
    with pytest.raises(ShapeError, match=r"num_codebooks is 33.*has 32"):
        encodec.encode(wav, num_codebooks=33)


def test_hashes_depend_on_weights_and_declared_properties(encodec: AudioCodec) -> None:
    again = load("encodec-24k")
    assert (again.weights_sha256, again.codebooks_sha256) == (
        encodec.weights_sha256,
        encodec.codebooks_sha256,
    )
    assert re.fullmatch("[0-9a-f]{64}", encodec.weights_sha256)
    with torch.no_grad():
        again.model.decoder.model[0].conv.conv.bias += 1  # type: ignore[attr-defined]
    assert again.weights_sha256 != encodec.weights_sha256
    assert not again.matches_codebooks(encodec.codebooks_sha256)
    hashes = {
        codec.codebooks_sha256
        for codec in (
            LevelCodec(),
            LevelCodec((256, 255)),
            LevelCodec(hop_length=80),
            LevelCodec(strides=(2, 1)),
            LevelCodec(name="b"),
        )
    }
    assert len(hashes) == 5
    ours, trained = LevelCodec(), LevelCodec(weights="trained further")
    assert trained.matches_codebooks(ours.codebooks_sha256[:8])
    assert not trained.matches_weights(ours.weights_sha256)


def test_codes_of_codebooks_with_strides_repeat_over_blocks() -> None:
    codec = LevelCodec((16, 16), strides=(4, 1))
    assert codec.bitrate == 100 * (1 + 4)
    codes = codec.encode(noise(1, 1, 6 * HOP))
    assert torch.equal(codes[0, 0], codes[0, 0, ::4].repeat_interleave(4)[:6])
    codes[0, 0, 1] = (codes[0, 0, 0] + 1) % 16
    with pytest.raises(ShapeError, match="codebook 0 change at frame 1"):
        codec.decode(codes)


def test_invalid_audio_and_codes_raise() -> None:
    codec, wav = LevelCodec((256, 8)), torch.zeros(2, 1, 320)
    wav[1, 0, 7] = torch.nan
    with pytest.raises(NonFiniteError, match=r"samples of item 1 .* index 7"):
        codec.encode(wav)
    with pytest.raises(ShapeError, match="code 8 of item 0, codebook 1, frame 0"):
        codec.decode(torch.tensor([[[0], [8]]]))
    with pytest.raises(ShapeError, match=r"C=1"):
        codec.encode(torch.zeros(1, 2, 320))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook_sizes": []}, "codebook_sizes has 0"),
        ({"codebook_sizes": [8, 0]}, r"codebook_sizes\[1\] is 0"),
        ({"codebook_sizes": [8, 2**62 + 1]}, r"codebook_sizes\[1\] is"),
        ({"sample_rate": 24_000.0}, "sample_rate is 24000.0"),
        ({"hop_length": 0}, "hop_length is 0"),
        ({"strides": [1]}, "strides are .* 2 codebooks"),
        ({"weights": ""}, "an empty str, but a state dict or a text"),
        ({"weights": {}}, "an empty dict"),
        ({"weights": {"a": [1.0]}}, "a dict, but a state dict"),
        ({"codebooks": 5}, "a int"),
    ],
    ids=str,
)
def test_invalid_codec_properties_raise_at_construction(options: dict[str, Any], message: str) -> None:
    class Invalid(LevelCodec):
        def __init__(self) -> None:
            defaults: dict[str, Any] = {"name": "invalid", "sample_rate": 16_000, "hop_length": 160}
            defaults |= {"codebook_sizes": (8, 8), "weights": "1"}
            WrappedCodec.__init__(self, **(defaults | options))

    with pytest.raises(OptionError, match=message):
        Invalid()


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(1, 2, 4, dtype=torch.int64), r"returned torch.int64 \[1, 2, 4\]; .* = \[1, 2, 3\]"),
        (torch.zeros(1, 2, 3), "returned torch.float32"),
        (None, "returned NoneType"),
        (torch.full((1, 2, 3), 256), "code 256"),
        (torch.tensor([[[1, 2, 3], [0, 0, 0]]]), "change at frame 1"),
    ],
    ids=["frames", "floats", "nothing", "range", "stride"],
)
def test_invalid_codes_of_a_model_raise(codes: Any, message: str) -> None:
    class Faulty(LevelCodec):
        def encode_frames(self, wav: torch.Tensor) -> torch.Tensor:
            return codes  # type: ignore[no-any-return]

    with pytest.raises(CodecError, match=f"(?s)codec 'level': encode_frames .*{message}"):
        Faulty(strides=(3, 1)).encode(torch.zeros(1, 1, 3 * HOP))


def test_audio_of_the_wrong_length_from_a_model_raises() -> None:
    class Faulty(LevelCodec):
        def decode_frames(self, codes: torch.Tensor) -> torch.Tensor:
            return super().decode_frames(codes)[:, :, :-1]

    with pytest.raises(CodecError, match=r"of 3 frames returned .*\[1, 1, 479\].*= \[1, 1, 480\]"):
        Faulty().decode(torch.zeros(1, 2, 3, dtype=torch.int64))


def test_autocast_does_not_change_codes_of_wrapped_codecs(encodec: AudioCodec) -> None:
    wav = noise(1, 1, 1600)
    codes = encodec.encode(wav)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encodec.encode(wav), codes)
        assert torch.equal(encodec.decode(codes), encodec.decode(codes))


# The protocol


@pytest.mark.slow
def test_wrapped_codecs_pass_all_checks(encodec: AudioCodec) -> None:
    broken = [outcome for outcome in run_checks(codec_checks(encodec)) if outcome.is_broken]
    assert [f"{outcome.check.short_name}: {outcome.found}" for outcome in broken] == []


@pytest.mark.parametrize("codec", [LevelCodec(), MulawCodec(), load("speech-16k")], ids=lambda c: c.name)
def test_codecs_have_every_member_of_the_protocol(codec: AudioCodec) -> None:
    assert {"encode", "decode", "strides", "frame_rate", "weights_sha256", "matches_codebooks"} <= set(
        MEMBERS
    )
    assert missing_members(codec) == []


def test_a_factory_that_returns_no_codec_raises(tmp_path: Path) -> None:
    (tmp_path / "no_codec.py").write_text(
        "from codecvq import CodecSpec, hookimpl\n\n\nclass Half:\n    def __init__(self, device):\n"
        "        self.name = 'half'\n\n    def encode(self, wav):\n        return wav\n\n\n@hookimpl\n"
        "def codecvq_codecs():\n    yield CodecSpec(name='half', factory=Half)\n"
    )
    origin = registry().load(tmp_path / "no_codec.py")
    try:
        with pytest.raises(
            PluginError, match=r"codec no_codec/half is a Half without .*decode.*WrappedCodec"
        ):
            load("half")
    finally:
        registry().unregister(origin)


# Files, datasets and commands


def test_files_contain_the_codes_and_reject_another_codec(encodec: AudioCodec) -> None:
    codes = encodec.encode(noise(1, 1, 4000), num_codebooks=4)[0]
    packet = unpack(pack(encodec, codes, 4000), encodec)
    assert np.array_equal(packet.codes, codes.numpy())
    assert (packet.sample_rate, packet.hop_length, packet.codebook_sizes) == (RATE, 320, (1024,) * 4)
    with pytest.raises(
        CodecvqError, match="has codebooks of 4 x 1024, but codec 'level' has codebooks of 2 x"
    ):
        unpack(pack(encodec, codes, 4000), LevelCodec())


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder. Its subfolder `recordings` contains two clips of 0.25 s of speech."""
    monkeypatch.chdir(tmp_path)
    clips = open_corpus("prompts").split("test").clips
    for clip in clips[:2]:
        write_audio(
            tmp_path / "recordings" / f"{clip.path.stem}.wav", clip.read(16_000)[8_000:12_000], 16_000
        )
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as exit_error:
        main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert not exit_error.value.code, captured.err
    return json.loads(captured.out)  # type: ignore[no-any-return]


@pytest.mark.slow
def test_every_command_supports_wrapped_codecs(
    recordings: Path, plugin_file: Path, encodec: AudioCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = ("--plugin", str(plugin_file))
    run(capsys, "encode", "encodec-24k", "recordings", "-o", "small", "--num-codebooks", "4", *plugin)
    run(capsys, "decode", "encodec-24k", "small", "-o", "again", "--codec-rate", *plugin)
    files = sorted(Path("small").iterdir())
    assert len(files) == 2
    for file in files:
        packet = read_cvq(file, encodec)
        audio = read_audio(Path("again") / f"{file.stem}.wav")
        assert (audio.sample_rate, audio.samples.shape) == (RATE, (1, RATE // 4))
        decoded = encodec.decode(torch.from_numpy(packet.codes)[None], num_samples=packet.num_samples)
        assert np.abs(audio.samples - decoded[0].numpy()).max() < 1e-4
    tokens = run(
        capsys, "tokenize", "encodec-24k", "recordings", "-o", "tokens", "--num-codebooks", "2", *plugin
    )
    assert (tokens["done"], tokens["failed"], tokens["complete"]) == (2, 0, True)
    by_file = {Path(row.source["path"]).stem: row.codes for row in read_tokens("tokens")}
    for file in files:
        assert np.array_equal(by_file[file.stem], read_cvq(file, encodec).codes[:2])
    assert run(capsys, "detokenize", "encodec-24k", "tokens", "-o", "back", *plugin)["done"] == 2
    metrics = ("--metrics", "si_sdr,mel_distance")
    result = run(capsys, "evaluate", "encodec-24k", "recordings", "--split", "all", *metrics, *plugin)
    assert result["codec"]["weights_sha256"] == encodec.weights_sha256
    assert result["bitrate"]["nominal_bps"] == 24_000
    assert (result["done"], result["failed"]) == (2, 0)
    compared = run(capsys, "compare", "encodec-24k@4", "encodec-24k", "-d", "recordings", *metrics, *plugin)
    rates = [codec["groups"]["all"]["bitrate_bps"] for codec in compared["codecs"]]
    assert rates == [pytest.approx(3_000, rel=0.02), pytest.approx(24_000, rel=0.02)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("encode", "encodec-24k", "recordings", "-o", "o", "--num-codebooks", "33"),
            "--num-codebooks is 33",
        ),
        (("compare", "encodec-24k@33", "-d", "recordings"), "has 32. Give 1 to 32"),
        (
            ("train", "quickstart", "--init-from", "encodec-24k", "-r", "run"),
            "a EnCodec, whose weights fit no",
        ),
    ],
    ids=["depth", "compared depth", "init-from"],
)
def test_unsupported_options_print_one_line(
    recordings: Path, plugin_file: Path, encodec: AudioCodec, capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as exit_error:
        main([*arguments, "--plugin", str(plugin_file)])
    stderr = capsys.readouterr().err
    assert exit_error.value.code == 2
    assert message in stderr.splitlines()[-1]
