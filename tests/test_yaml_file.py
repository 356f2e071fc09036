"""YAML from untrusted files: limits, the core schema, and round trips."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from codecvq.errors import CodecvqError
from codecvq.yaml_file import dump_yaml, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1.5", 1.5), (".5", 0.5), ("-3", -3), ("0x10", 16), ("007", 7), ("true", True),
        ("null", None), ("", None), ("~", None), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"),
        ("yes", "yes"), ("[a, 1, {b: 2}]", ["a", 1, {"b": 2}]), ("'5'", "5"), ("-.inf", float("-inf")),
        ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}), ("{<<: {a: 1}, b: 2}", {"a": 1, "b": 2}),
    ],
)  # fmt: skip
def test_values_follow_the_yaml_core_schema(text: str, value: Any) -> None:
    assert parse_yaml(text, "it") == value


def aliases() -> str:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join(['*' + before] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (aliases(), "more than 50,000 values"),
        ("a: &a [*a]", "values"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 60 + "]" * 60, "nested deeper than 50"),
        ("x: " + "9" * 400, "has 400 digits"),
        ("x: " + "9" * 9000, "digits"),
        ('x: "\\0"', "contains a NUL"),
        ('x: "\\ud800"', "surrogate"),
        ("{a: 1, a: 2}", "the key 'a' occurs twice"),
        ("x: !!python/object:os.system ls", "python/object"),
        ("x: !!timestamp 2001-99-99", "timestamp"),
        ("? [a]\n: 1", "unhashable"),
        ("a: [", "not YAML"),
        ("a: 1\n--- \nb: 2", "single document"),
        ("\x01", "special characters"),
        ("x: !!int many", "many"),
        ("x: !!float many", "many"),
    ],
    ids=range(17),
)
def test_invalid_yaml_raises_quickly_with_one_line(text: str, message: str) -> None:
    began = time.process_time()
    with pytest.raises(CodecvqError, match=message) as caught:
        parse_yaml(text, "it")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert time.process_time() - began < 2


def test_only_small_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "large.yaml").write_text("a" * 300_000)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    for name, message in {
        "fifo.yaml": "not a regular file",
        "large.yaml": "more than the",
        "latin.yaml": "UTF-8",
        "none.yaml": "cannot be read",
        "/dev/zero": "not a regular file",
        "a\0b": "cannot be read",
    }.items():
        with pytest.raises(CodecvqError, match=message):
            read_yaml(tmp_path / name)


def test_dumped_yaml_loads_unchanged() -> None:
    value = {"a": ["1e-3", "1e3", "yes", "12:30", "null", "~", "", "0x10", "1_000", "<<", "=", "é", " x"]}
    value["b"] = [1e-3, 1.0, 1e300, True, None, 5, "5", -0.5, 1e-300]
    assert parse_yaml(dump_yaml(value), "it") == value
