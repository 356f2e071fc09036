"""Registered codecs, half-precision weights, and the clip list of the pretrained codecs' tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import codecvq_pretrained
import pytest
import torch
from codecvq_free_speech.held_out import HELD_OUT, HELD_OUT_SPEAKERS
from codecvq_pretrained import test_speech as test_speech_corpus
from third_party_plugins import codecvq_command, install_distribution

import codecvq
from codecvq import CodecSpec
from codecvq.codec import Codec, load
from codecvq.data.corpus import Clip, open_corpus
from codecvq.errors import CodecError, CorpusError, OptionError
from codecvq.plugins import registry

NETWORK = {"name": "spectral", "hop_length": 80, "window_length": 320, "num_mels": 20, "dim": 8}
NETWORK |= {"encoder_width": 32, "encoder_blocks": 2, "decoder_width": 32, "decoder_blocks": 2}
VQ = {"name": "residual_vq", "codebook_size": 16, "num_codebooks": 2}
PLUGIN = """
from codecvq import CodecSpec, hookimpl

@hookimpl
def codecvq_codecs():
    yield CodecSpec(name="my-speech", folder="weights", summary="a tiny one", licence="CC0-1.0")
"""


def make() -> Codec:
    torch.manual_seed(0)
    return Codec(sample_rate=8000, network=NETWORK, quantizer=VQ, name="tiny").eval()


def noise(samples: int = 4000) -> torch.Tensor:
    return 0.1 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Codec]:
    codec = make()
    codec.save(tmp_path / "weights")
    (tmp_path / "my_codecs.py").write_text(PLUGIN)
    origin = registry().load(tmp_path / "my_codecs.py")
    yield codec
    registry().unregister(origin)


def test_registered_codecs_load_by_name(plugin: Codec) -> None:
    for name in ("my-speech", "my_codecs/my-speech", Path("my-speech")):
        codec = codecvq.load(name)
        assert not codec.training
        assert torch.equal(codec.encode(noise()), plugin.encode(noise()))


def test_a_folder_takes_precedence_over_a_registered_name(
    plugin: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Codec(sample_rate=8000, network=NETWORK, quantizer={**VQ, "num_codebooks": 1})
    other.save(tmp_path / "here/my-speech")
    monkeypatch.chdir(tmp_path / "here")
    assert load("my-speech").num_codebooks == 1
    assert load("my_codecs/my-speech").num_codebooks == 2


def test_an_unknown_name_raises_with_a_suggestion(plugin: Codec) -> None:
    with pytest.raises(CodecError, match=r"my-spech.*known: .*my-speech.*Did you mean 'my-speech'") as error:
        load("my-spech")
    assert "opus" not in str(error.value)  # cannot be loaded, so it is not listed


def test_third_party_codecs_cannot_be_loaded() -> None:
    with pytest.raises(CodecError, match=r"no codes.*codecvq compare opus-6"):
        load("opus-6")


def test_a_missing_weights_folder_raises(plugin: Codec, tmp_path: Path) -> None:
    (tmp_path / "weights").rename(tmp_path / "elsewhere")
    with pytest.raises(codecvq.CodecvqError, match=r"'my-speech'.*weights does not exist"):
        load("my-speech")


@pytest.mark.parametrize("fields", [{}, {"factory": print, "folder": "x"}, {"folder": "x", "external": True}])
def test_a_codec_spec_needs_exactly_one_of_folder_and_factory(fields: dict) -> None:
    with pytest.raises(ValueError, match="one of them is needed"):
        CodecSpec(name="odd", **fields)


def test_a_third_party_distribution_registers_a_codec(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install_distribution(site, "other-codecs", PLUGIN)
    make().save(site / "weights")
    listed = json.loads(codecvq_command("plugins", "list", "--kind", "codecs", "--json", site=site))["offers"]
    (mine,) = (registration for registration in listed if registration["name"] == "my-speech")
    assert (mine["distribution"], mine["licence"]) == ("other-codecs", "CC0-1.0")
    assert {"opus-6", "codec2-3200"} <= {registration["name"] for registration in listed}
    doctor = codecvq_command("plugins", "doctor", "--json", site=site)
    assert json.loads(doctor)["problems"] == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_rounded_and_match_their_hashes(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    codec = make()
    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    whole, half = codec.save(tmp_path / "whole"), codec.save(tmp_path / "half", dtype=dtype)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.65 * sizes[0]  # names, codebooks and buffers are not rounded
    loaded = load(half)  # raises if the weights do not match the hash in config.json
    assert json.loads((half / "config.json").read_text())["codebooks_sha256"] == loaded.codebooks_sha256
    assert loaded.weights_sha256 != codec.weights_sha256
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == before[name].dtype
        network = name.startswith(("encoder.", "decoder.")) and name in dict(codec.named_parameters())
        expected = before[name].to(dtype).to(tensor.dtype) if network else before[name]
        assert torch.equal(tensor, expected), name
        assert torch.equal(codec.state_dict()[name], before[name]), f"saving changed {name} of the codec"
    assert any(not torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())


def test_rounding_weights_twice_changes_nothing(tmp_path: Path) -> None:
    first = load(make().save(tmp_path / "first", dtype=torch.float16))
    second = load(first.save(tmp_path / "second", dtype=torch.float16))
    assert first.weights_sha256 == second.weights_sha256
    assert torch.equal(first.encode(noise()), second.encode(noise()))
    assert torch.equal(first.decode(first.encode(noise())), second.decode(second.encode(noise())))


def test_buffers_that_half_precision_represents_take_half_the_bytes(tmp_path: Path) -> None:
    codec = make()
    whole = codec.save(tmp_path / "whole", dtype=torch.float16)
    codec.encoder.front.mel.copy_(codec.encoder.front.mel.half())
    half = codec.save(tmp_path / "half", dtype=torch.float16)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[0] - sizes[1] == pytest.approx(2 * codec.encoder.front.mel.numel(), abs=64)
    assert torch.equal(load(half).encoder.front.mel, codec.encoder.front.mel)


def test_weights_out_of_the_float16_range_raise(tmp_path: Path) -> None:
    codec = make()
    weight = next(codec.decoder.parameters())
    weight.data.view(-1)[0] = 1e6
    with pytest.raises(CodecError, match=r"decoder\..*1e\+06.*bfloat16"):
        codec.save(tmp_path, dtype=torch.float16)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OptionError, match=r"torch.int8"):
        codec.save(tmp_path, dtype=torch.int8)


ROWS = [json.loads(line) for line in test_speech_corpus.LISTING.read_text().splitlines()]


def test_listed_clips_are_balanced_and_not_in_the_comparison_set() -> None:
    ids = [row["id"] for row in ROWS]
    assert len(set(ids)) == len(ids) == 60
    assert not set(ids) & HELD_OUT
    assert {row["speaker"] for row in ROWS if row["group"] == "unseen"} == HELD_OUT_SPEAKERS
    seen = [row["speaker"] for row in ROWS if row["group"] == "seen"]
    assert {speaker: seen.count(speaker) for speaker in seen} == dict.fromkeys(seen, 8)
    assert all(1.5 <= row["duration"] <= 12 for row in ROWS)


@pytest.fixture
def listed_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Clip]:
    """The corpora as lists in memory, because their packages are not installed on every machine."""
    clips = [Clip(id=row["id"], path=tmp_path, columns={"package": "p"}) for row in ROWS]
    clips += [Clip(id="asterisk/other", path=tmp_path)]
    monkeypatch.setattr(
        test_speech_corpus,
        "open_corpus",
        lambda name, root: [c for c in clips if c.id.startswith(name.removesuffix("_ru"))],
    )
    return clips


def test_clips_have_the_listed_order_and_groups(listed_clips: list[Clip]) -> None:
    clips = open_corpus("test_speech").split("test")
    assert [(clip.id, clip.columns["group"]) for clip in clips] == [(r["id"], r["group"]) for r in ROWS]
    assert {clip.columns["package"] for clip in clips} == {"p"}


def test_a_missing_clip_is_an_error(listed_clips: list[Clip]) -> None:
    listed_clips.pop(3)
    with pytest.raises(CorpusError, match=f"1 of 60 clips are missing, the first: {ROWS[3]['id']}"):
        open_corpus("test_speech")


def test_bundled_codecs_load_and_are_small() -> None:
    folder = Path(codecvq_pretrained.__file__).parent
    for spec in codecvq_pretrained.codecvq_codecs():
        codec = load(spec.name)
        assert (folder / spec.card).is_file()
        assert sum(file.stat().st_size for file in (folder / spec.folder).iterdir()) < 16e6
        assert codec.encode(torch.zeros(1, 1, codec.sample_rate)).shape[1] == codec.num_codebooks
