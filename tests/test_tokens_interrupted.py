"""Interrupted tokenization, by SIGKILL or a full disk, loses only the unfinished shard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from small_codecs import RATE, LevelCodec
from test_tokens import contents, tone

from codecvq.audio import write_audio
from codecvq.data.corpus import Clip
from codecvq.errors import TokensError
from codecvq.tokens import check, read_tokens, tokenize


def write_clips(folder, count):
    for i in range(count):
        write_audio(folder / f"{i:02d}.wav", tone(300 + i, i), RATE)
    return [Clip(id=path.stem, path=path) for path in sorted(folder.iterdir())]


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from test_tokens_interrupted import Clip, LevelCodec, Path, tokenize
plain = LevelCodec.encode
def slow(*arguments, **keywords):
    time.sleep(0.02)
    return plain(*arguments, **keywords)
LevelCodec.encode = slow  # a subclass would be another codec
clips = [Clip(id=path.stem, path=path) for path in sorted(Path({audio!r}).iterdir())]
tokenize(LevelCodec(), clips, {folder!r}, shard_clips=2, batch_seconds=0.001)
"""


@pytest.mark.slow
def test_a_killed_process_loses_only_the_unfinished_shard(tmp_path):
    """Two SIGKILLs during a job of 20 shards. The result equals that of an uninterrupted job."""
    audio, folder = tmp_path / "audio", tmp_path / "t"
    clips = write_clips(audio, 40)
    script = KILLED.format(tests=str(Path(__file__).parent), audio=str(audio), folder=str(folder))
    for target in (1, 10):
        process = subprocess.Popen(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": ":".join(sys.path)}
        )
        while len(list(folder.glob("data/[!.]*.parquet"))) < target and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert target <= len(list(folder.glob("data/[!.]*.parquet"))) < 20
        with pytest.raises(TokensError, match="incomplete"):
            read_tokens(folder)
    summary = tokenize(LevelCodec(), clips, folder, shard_clips=2, batch_seconds=0.001)
    assert summary.shards_skipped >= 10
    assert read_tokens(folder).ids == [clip.id for clip in clips]
    tokenize(LevelCodec(), clips, tmp_path / "whole", shard_clips=2, batch_seconds=0.001)
    assert contents(folder) == contents(tmp_path / "whole")


def test_an_incomplete_write_leaves_no_shard(tmp_path, monkeypatch):
    """The disk is full at the second shard. The first shard remains, and the job can resume."""
    real, calls = pq.ParquetWriter.write_table, SimpleNamespace(count=0)

    def full(writer, table, **keywords):
        calls.count += 1
        real(writer, table, **keywords)
        if calls.count == 3:  # the first call is a trial in memory
            raise OSError(28, "No space left on device")

    folder, clips = tmp_path / "t", write_clips(tmp_path / "audio", 10)
    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        tokenize(LevelCodec(), clips, folder, shard_clips=4)
    assert [path.name for path in (folder / "data").iterdir()] == ["train-00000-of-00003.parquet"]
    assert tokenize(LevelCodec(), clips, folder, shard_clips=4).shards_skipped == 1
    assert check(folder).problems == ()
