"""The hashes of a codec: what they cover, and compatibility with earlier files."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import codecvq
from codecvq.bitstream import read_cvq
from codecvq.codec import Codec, load
from codecvq.errors import CodecError, CodecvqError
from codecvq.tokens import detokenize, read_tokens

EARLIER = Path(__file__).parent / "earlier"
BUNDLED = Path(codecvq.__file__).parents[1] / "plugins" / "codecvq_pretrained" / "speech_16k"
NETWORK: dict[str, Any] = {
    "name": "spectral", "hop_length": 80, "window_length": 320, "num_mels": 20, "dim": 8,
    "encoder_width": 16, "encoder_blocks": 1, "decoder_width": 16, "decoder_blocks": 1,
}  # fmt: skip
QUANTIZER: dict[str, Any] = {"name": "fsq", "levels": [8, 5, 5, 5], "num_codebooks": 2}


def make(
    sample_rate: int = 8000, network: dict[str, Any] | None = None, quantizer: dict[str, Any] | None = None
) -> Codec:
    torch.manual_seed(0)
    return Codec(
        sample_rate=sample_rate,
        network={**NETWORK, **(network or {})},
        quantizer={**QUANTIZER, **(quantizer or {})},
    ).eval()


@pytest.mark.parametrize(
    ("other", "same_codes"),
    [
        ({"sample_rate": 16000}, False),
        ({"quantizer": {"levels": [5, 8, 5, 5]}}, False),
        ({"network": {"causal": True}}, False),
        ({"network": {"window_length": 240}}, False),
        ({"network": {"phase": "retrieved"}}, True),
        ({"network": {"phase": "retrieved", "phase_iterations": 3}}, True),
    ],
    ids=str,
)
def test_hashes_cover_all_options_that_change_codes_or_samples(
    other: dict[str, Any], same_codes: bool
) -> None:
    codec, changed = make(), make(**other)
    if same_codes:
        changed.encoder.load_state_dict(codec.encoder.state_dict())
    assert changed.weights_sha256 != codec.weights_sha256
    assert (changed.codebooks_sha256 == codec.codebooks_sha256) is same_codes


def changed(folder: Path, **fields: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    for key, value in fields.items():
        *sections, last = key.split("__")
        at = config
        for section in sections:
            at = at[section]
        at[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    "fields",
    [
        {"sample_rate": 16000},
        {"sample_rate": 16000, "frame_rate": [200, 1]},
        {"quantizer__levels": [5, 8, 5, 5]},
        {"network__causal": True},
        {"network__phase": "retrieved"},
        {"hop_length": 160},
        {"frame_rate": [50, 1]},
        {"codebook_sizes": [1000]},
        {"codebook_sizes": [1000, 999]},
        {"weights_sha256": "0" * 64},
        {"codebooks_sha256": "0" * 64},
        {"channels": 2},
    ],
    ids=str,
)
def test_a_changed_config_is_an_error(tmp_path: Path, fields: dict[str, Any]) -> None:
    make().save(tmp_path)
    load(tmp_path)
    with pytest.raises(CodecvqError, match=r"config\.json|do not match the hashes|does not fit|is for mono"):
        load(changed(tmp_path, **fields))


def test_non_finite_weights_are_an_error_despite_a_valid_hash(tmp_path: Path) -> None:
    codec = make()
    with torch.no_grad():
        codec.decoder.head.bias[3] = torch.nan  # type: ignore[operator, union-attr, index]
    codec.save(tmp_path)
    with pytest.raises(CodecError, match=r"NaN or infinity in decoder\.head\.bias"):
        load(tmp_path)


def test_a_codec_saved_in_format_1_loads(tmp_path: Path) -> None:
    shutil.copy(EARLIER / "config.json", tmp_path)
    (tmp_path / "model.safetensors").symlink_to(BUNDLED / "model.safetensors")
    earlier, now = load(tmp_path), load("speech-16k")
    assert earlier.codebooks_sha256 == now.codebooks_sha256
    assert earlier.weights_sha256 == now.weights_sha256
    with pytest.raises(CodecError, match="do not match the hashes"):
        load(changed(tmp_path, quantizer__levels=[5, 8, 5, 5]))


def test_a_file_of_an_earlier_speech_16k_decodes() -> None:
    codec = load("speech-16k")
    packet = read_cvq(EARLIER / "clip.cvq")
    assert packet.codebooks_id != codec.codebooks_sha256[: len(packet.codebooks_id)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = read_cvq(EARLIER / "clip.cvq", codec)
    assert np.array_equal(again.codes, packet.codes)
    (row,) = (row for row in read_tokens(EARLIER / "tokens") if row.num_samples == packet.num_samples)
    assert np.array_equal(row.codes, packet.codes)


def test_a_dataset_of_an_earlier_speech_16k_decodes(tmp_path: Path) -> None:
    codec = load("speech-16k")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = detokenize(codec, EARLIER / "tokens", tmp_path)
    assert len(decoded.files) == 2
    other = make()
    assert not other.matches_codebooks(codec.earlier_codebooks_sha256)
    assert not other.matches_weights(codec.earlier_weights_sha256)
    with pytest.raises(CodecvqError, match="Decode with 'speech-16k'"):
        detokenize(other, EARLIER / "tokens", tmp_path)
