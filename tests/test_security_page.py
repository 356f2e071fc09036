"""SECURITY.md names tests that exist, and every fuzzer."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "SECURITY.md").read_text(encoding="utf-8")


def test_each_promise_names_tests_that_exist() -> None:
    promises = re.findall(r"^\| \*\*.*", PAGE, flags=re.MULTILINE)
    assert len(promises) == 7
    for promise in promises:
        names = re.findall(r"`(test_\w+\.py|fuzz/)`", promise.rpartition(" | ")[2])
        assert names, promise
        assert all((TESTS / name).exists() for name in names), promise


def test_each_kind_of_file_has_a_fuzzer() -> None:
    fuzzers = {path.stem.removeprefix("test_fuzz_") for path in (TESTS / "fuzz").glob("test_fuzz_*.py")}
    assert fuzzers == {"cvq", "codec_folders", "datasets", "manifests", "recipes", "audio"}
