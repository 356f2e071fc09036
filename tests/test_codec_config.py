"""Untrusted config.json: each error is one line that names the file and the key."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from codecvq.codec import Codec, load
from codecvq.codec.config import CodecConfig
from codecvq.errors import CodecError, CodecvqError

NETWORK: dict[str, Any] = {
    "name": "spectral", "hop_length": 80, "window_length": 320, "num_mels": 20, "dim": 8,
    "encoder_width": 16, "encoder_blocks": 1, "decoder_width": 16, "decoder_blocks": 1,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Codec(sample_rate=8000, network=NETWORK, quantizer={"name": "fsq", "levels": [5] * 4}).save(
        tmp_path
    )


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("key", CodecConfig.model_fields)
@pytest.mark.parametrize("value", ["missing", None, [], {"a": 1}, -1, "x" * 5000], ids=lambda v: str(v)[:8])
def test_errors_of_missing_keys_and_wrong_values_name_file_and_key(
    folder: Path, key: str, value: Any
) -> None:
    config = config_of(folder)
    if value == "missing":
        del config[key]
    else:
        config[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    if (key, value) == ("plugins", {}):
        return
    with pytest.raises(CodecError, match=rf"(?s)config\.json.*{key}") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": ' + "[" * 100_000,
        '{"format": ' * 200 + "1" + "}" * 200,
        '{"format": ' + "9" * 400 + "}",
        '{"format": NaN}',
        '{"format": "codecvq.codec/2", "format": "codecvq.codec/2"}',
        '{"format": "\\u0000"}',
        '{"format": "\\ud800"}',
        "\xff\xfe",
        " " * (2 << 20),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_invalid_json_is_an_error(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CodecError, match=r"config\.json"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["fifo", "zeros", "folder", "loop"])
def test_special_files_are_an_error_without_blocking(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "zeros" else path)
    with pytest.raises(CodecvqError):
        load(folder)


@pytest.mark.parametrize("source", ["a\0b", "x" * 5000, "~nosuchuser/x", "\ud800"], ids=ascii)
def test_an_impossible_path_is_an_error(source: str) -> None:
    with pytest.raises(CodecvqError):
        load(source)
