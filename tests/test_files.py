"""Atomic writes, and file names from untrusted text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from codecvq.files import atomic_file, path_inside, stale_temporary_files, write_atomically


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_file(path) as temporary:
            temporary.write_bytes(b"half of the ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_atomically(path, "ä")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_concurrent_writers_of_one_path_do_not_interfere(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with atomic_file(path) as first, atomic_file(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
        assert stale_temporary_files(path) == []  # both writes are in progress
    assert path.read_bytes() == b"first"  # the block that ended last
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_files_of_a_killed_writer_are_stale(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    program = (
        "import os, signal, pathlib, codecvq.files as f\n"
        f"with f.atomic_file(pathlib.Path({str(path)!r})) as t:\n"
        "    t.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    (left,) = stale_temporary_files(path)
    assert left.read_bytes() == b"half"
    assert stale_temporary_files(tmp_path / "other.bin") == []


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, target = tmp_path / "x.bin", tmp_path / "precious"
    target.write_bytes(b"precious")
    tokens = iter(["planted", "free"])
    monkeypatch.setattr("secrets.token_hex", lambda n: next(tokens))
    with atomic_file(path) as temporary:
        free = temporary.name.replace("free", "planted")
    (tmp_path / free).symlink_to(target)
    tokens = iter(["planted", "free"])
    with pytest.raises(FileExistsError):
        write_atomically(path, b"new")
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize("length", [240, 255])
def test_the_longest_names_can_be_written(tmp_path: Path, length: int) -> None:
    path = tmp_path / ("x" * (length - 4) + ".bin")
    write_atomically(path, b"content")
    assert path.read_bytes() == b"content"


HOSTILE = [
    "", ".", "..", "/", "//abs/x", "\\\\abs\\x", "../../x", "a/../../x", "/etc/passwd", "C:\\x", "C:x",
    "c:/x", "a\0b", "nul", "NUL.txt", "com1", "aux/x", "x" * 300, "ä" * 200, "🎤" * 100, "a//b", "a/",
    "\ud800", "a\udcffb", "a\x1b[31mb", "a\nb", "\u202egpj.exe", " ", "...", "a/./b", "-rf", "~root",
    "a" * 5000 + "/" + "b",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:20])
@pytest.mark.parametrize("suffix", ["", ".flac"])
def test_no_name_escapes_the_folder(tmp_path: Path, text: str, suffix: str) -> None:
    folder = tmp_path / "inside"
    path = path_inside(folder, text, suffix)
    write_atomically(path, b"content")
    assert path.resolve().is_relative_to(folder)
    assert path != folder
    assert "\n" not in str(path)
    assert "\x1b" not in str(path)
    assert all(len(part.encode()) <= 255 for part in path.parts)
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("suffix", ["", ".flac"])
def test_different_names_give_different_paths(suffix: str) -> None:
    texts = {*HOSTILE, "abs/x", "abs_x", "x", "ab", "a_b", "a b", "A", "nul ", "a/b", "a.b"}
    assert len({path_inside(Path(), text, suffix) for text in texts}) == len(texts)


@pytest.mark.parametrize("text", ["LJ001-0001", "p225/p225_001", "a b", "клип", "x.y", "it/wavs/1"])
def test_valid_names_are_unchanged(text: str) -> None:
    assert path_inside(Path("out"), text, ".flac") == Path("out", f"{text}.flac")
