"""Untrusted JSON files are read within limits. Errors name the file and the key."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from codecvq.errors import CodecError, CodecvqError
from codecvq.json_file import MAX_BYTES, MAX_DEPTH, read_json, read_model


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = Field(gt=0)
    sizes: tuple[int, ...] = ()
    share: float = 0.5


class Whole(BaseModel):
    name: str
    part: Part


def test_a_valid_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"name": "ä", "part": {"size": 3, "sizes": [1, 18446744073709551615], "share": 1}}')
    assert read_model(path, Whole) == Whole(name="ä", part=Part(size=3, sizes=(1, 2**64 - 1), share=1.0))
    link = tmp_path / "link.json"
    link.symlink_to(path)  # as in the cache of Hugging Face
    assert read_json(link)["name"] == "ä"
    deep = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    path.write_text(f'{{"a": {deep}}}')
    read_json(path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "Expecting value"),
        ("[]", "not an object"),
        ('{"a": 1', "delimiter"),
        ('{"a": 1, "b": 2, "a": 1}', "key 'a' occurs twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": -Infinity}', "-Infinity is not a number"),
        ('{"a": 1e999}', "1e999 is too large"),
        ('{"a": 18446744073709551616}', "does not fit in 64 bits"),
        ('{"a": ' + "9" * 400 + "}", "of 400 digits does not fit"),
        ('{"a": ' + "9" * 5000 + "}", "of 5000 digits does not fit"),
        ('{"a": 0.' + "9" * 5000 + "e999999}", "too large"),
        ('{"a": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}", "nested deeper"),
        ('{"a": ' + "[" * 100_000 + "}", "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"a": "\\ud800"}', "surrogate"),
        ('{"a\\u0000": 1}', "NUL"),
        ('{"a": "\0"}', "control character"),
        (b'{"a": "\xff"}', "utf-8"),
    ],
    ids=range(18),
)
def test_invalid_json_text_is_an_error(tmp_path: Path, text: str | bytes, what: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(CodecError, match=what) as raised:
        read_json(path, error=CodecError)
    assert str(path) in str(raised.value)
    assert str(raised.value).endswith("Copy it again.")
    assert len(str(raised.value)) < 300 + len(str(path))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"part": {"size": 1}}', "name is missing"),
        ('{"name": 3, "part": {"size": 1}}', "name is 3: "),
        ('{"name": "a", "part": {"size": "3"}}', "part.size is '3': input should be a valid integer"),
        ('{"name": "a", "part": {"size": 3.0}}', r"part.size is 3\.0: "),
        ('{"name": "a", "part": {"size": true}}', "part.size is True: "),
        ('{"name": "a", "part": {"size": 0}}', "part.size is 0: input should be greater than 0"),
        ('{"name": "a", "part": {"size": 1, "sizes": [1, null]}}', "part.sizes.1 is None: "),
        ('{"name": "a", "part": {"size": 1, "more": 1}}', "part.more is not a key"),
        ('{"name": "a", "part": []}', r"part is \[\]: "),
    ],
    ids=range(9),
)
def test_an_error_names_the_file_and_the_key(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(CodecvqError, match=f"^{path}: {what}"):
        read_model(path, Whole)


def test_special_and_oversized_files_are_an_error(tmp_path: Path) -> None:
    large, pipe, loop = tmp_path / "large", tmp_path / "pipe", tmp_path / "loop"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    began = time.monotonic()
    for path, what in [
        (large, "more than the"),
        (pipe, "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path, "not a regular file"),
        (loop, "cannot be read"),
        (tmp_path / "no", "cannot be read .No such file"),
        (tmp_path / "a\0b", "cannot be read"),
        (tmp_path / ("a" * 300), "cannot be read .File name too long"),
    ]:
        with pytest.raises(CodecError, match=what):
            read_json(path, error=CodecError)
    assert time.monotonic() - began < 1
