"""SECURITY.md names existing tests, and each kind of file has a fuzzer."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "SECURITY.md").read_text(encoding="utf-8")


def test_each_guarantee_names_existing_tests() -> None:
    guarantees = re.findall(r"^\| \*\*.*", PAGE, flags=re.MULTILINE)
    assert len(guarantees) == 7
    for guarantee in guarantees:
        names = re.findall(r"`(test_\w+\.py|fuzz/)`", guarantee.rpartition(" | ")[2])
        assert names, guarantee
        assert all((TESTS / name).exists() for name in names), guarantee


def test_each_kind_of_file_has_a_fuzzer() -> None:
    fuzzers = {path.stem.removeprefix("test_fuzz_") for path in (TESTS / "fuzz").glob("test_fuzz_*.py")}
    assert fuzzers == {"cvq", "codec_folders", "datasets", "manifests", "recipes", "audio"}
