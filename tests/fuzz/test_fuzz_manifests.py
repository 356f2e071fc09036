"""Hostile manifests: random JSON lines and tables give a corpus or CorpusError."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from limits import run_limited

from codecvq.audio import write_audio
from codecvq.data import SPLITS, Clips, open_corpus
from codecvq.data.manifest_row import NAMES, UNSUPPORTED_COLUMNS
from codecvq.data.split_file import read_split, write_split
from codecvq.errors import AudioError, CorpusError

CASES = 2000
COLUMNS = (
    [name for names in NAMES.values() for name in names]
    + list(UNSUPPORTED_COLUMNS)
    + ["x", "", "path ", "ÄÖ"]
)
TEXTS = [
    "", "a.wav", "b.wav", "a", "é", "\0", "\ud800", "\udcff", "x" * 5000, "../../etc/passwd", "/dev/zero",
    "~nosuchuser/a", "~", "https://host/a.wav", "pipe.wav", ".", "a\nb", "\x1b[31m", "\u2028", "=1+1", "NaN",
    "-1", "1e999", "0x10", "²", "train", "dev", "test", "true",
]  # fmt: skip
NUMBERS = [
    0,
    1,
    -1,
    0.5,
    1e300,
    -0.0,
    10**18,
    2**63,
    2**64,
    10**400,
    float("nan"),
    float("inf"),
    True,
    None,
    1500,
]


def _value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(6)
    if kind < 2:
        return rng.choice(TEXTS)
    if kind < 4:
        return rng.choice(NUMBERS)
    if depth > 3:
        return None
    if kind == 4:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(3))]
    return {
        rng.choice([*TEXTS[:6], "path", "bytes"]): _value(rng, depth + 1) for _ in range(rng.randrange(3))
    }


def _row(rng: random.Random) -> dict[str, Any]:
    row = (
        {}
        if rng.random() < 0.1
        else {"path": rng.choice(["a.wav", "b.wav", "pipe.wav"]), "id": str(rng.random())}
    )
    for _ in range(rng.randrange(4)):
        row[rng.choice(COLUMNS)] = _value(rng)
    return row


def _json_lines(rng: random.Random) -> bytes:
    lines = []
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        line = json.dumps(_row(rng), ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")
        if rng.random() < 0.05:
            depth = rng.choice([10, 60, 100_000])
            line = b'{"path": "a.wav", "x": ' + b"[" * depth + b"]" * depth + b"}"
        if rng.random() < 0.05:
            line = b'{"path": "a.wav", "start": ' + b"9" * rng.choice([300, 5000]) + b"}"
        lines.append(line)
    return rng.choice([b"\n", b"\r\n", b"\n\n"]).join(lines)


def _table(rng: random.Random, delimiter: str) -> bytes:
    header = ["path", "id", *rng.sample(COLUMNS, rng.randrange(4))]
    lines = [header] + [
        [str(_row(rng).get("path", "")), str(n), *(str(_value(rng)) for _ in header[2:])]
        for n in range(rng.randrange(4))
    ]
    quoted = [[f'"{cell}"' if rng.random() < 0.2 else cell for cell in line] for line in lines]
    return "\n".join(map(delimiter.join, quoted)).encode("utf-8", "surrogatepass")


def _damaged(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice([0, 0, 1, 3])):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del data[at : at + rng.choice([1, 20])]
        elif kind == 2:
            data[at:at] = rng.choice([b"\0", b"\xff\xfe", b'"', b"\n", b"\t", b",", b"{", b"\xef\xbb\xbf"])
        else:
            data[at:at] = b"A" * rng.choice([10, 200_000])
    return bytes(data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import os

    write_audio(tmp_path / "a.wav", np.full(800, 0.1), 8000)
    write_audio(tmp_path / "b.wav", np.full((2, 80), 0.1), 8000)
    os.mkfifo(tmp_path / "pipe.wav")
    return tmp_path


FORMS: dict[str, Callable[[random.Random], bytes]] = {
    "m.jsonl": _json_lines,
    "m.csv": lambda rng: _table(rng, ","),
    "m.tsv": lambda rng: _table(rng, "\t"),
}


def _check(message: str) -> None:
    assert message.isprintable(), repr(message)


def _use(path: Path) -> None:
    """Use a manifest in every way, including reading its clips."""
    try:
        corpus = open_corpus(manifest=path)
    except CorpusError as error:
        return _check(str(error))
    measured = corpus.measured()
    for clip in corpus:
        assert corpus.split_of(clip) in SPLITS
        "".join((clip.id, clip.text, clip.speaker, clip.language, clip.licence)).encode()
        try:
            assert clip.read(16000).size
        except AudioError as error:
            _check(str(error))
    for failure in measured.failures:
        failure.id.encode()
        failure.error.encode()
    if len(measured):
        assert len(read_split(write_split(measured, path.with_name("split.jsonl"))).ids) == len(measured)


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [0, 1000], ids=["on_disk", "in_memory"])
def test_hostile_manifests_give_a_corpus_or_corpus_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(Clips, "MAX_IN_MEMORY", in_memory)
    (folder / "m.jsonl").write_text('{"path": "a.wav"}\n{"path": "b.wav"}\n')
    _use(folder / "m.jsonl")

    def case(seed: int) -> None:
        rng = random.Random(seed)
        name = rng.choice([*FORMS, "m.jsonl"])
        (folder / name).write_bytes(_damaged(FORMS[name](rng), rng))
        _use(folder / name)

    problems = run_limited(case, CASES)
    assert not problems, "\n".join(problems)
