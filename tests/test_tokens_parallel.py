"""Several processes on one token dataset: different parts in parallel, each part once, one job per folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_codecs import LevelCodec
from test_tokens_interrupted import write_clips

from codecvq.errors import FolderInUse, TokensError
from codecvq.tokens import check, read_tokens, tokenize
from codecvq.tokens.locks import _overlap

WORKER = """
import sys
sys.path.insert(0, {tests!r})
from test_tokens_interrupted import Clip, LevelCodec, Path, tokenize
class Waiting(LevelCodec):
    def encode(self, *arguments, **keywords):
        Path({folder!r}, ".at-work").touch()
        sys.stdin.readline()
        return super().encode(*arguments, **keywords)
clips = [Clip(id=path.stem, path=path) for path in sorted(Path({audio!r}).iterdir())]
tokenize(Waiting(), clips, {folder!r}, shard_clips=1, shard=({index}, {count}))
"""


@pytest.fixture
def audio(tmp_path):
    write_clips(tmp_path / "audio", 4)
    return tmp_path / "audio"


def worker(audio, folder, index, count):
    """A process that locks a part of the job. It encodes one clip for each input line."""
    script = WORKER.format(
        tests=str(Path(__file__).parent), audio=str(audio), folder=str(folder), index=index, count=count
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (folder / ".at-work").exists():
        assert process.poll() is None, "the process ended"
        assert time.monotonic() < deadline, "the process does not reach its first clip"
        time.sleep(0.02)
    return process


def test_different_parts_run_in_parallel_and_equal_parts_do_not(tmp_path, audio):
    folder, clips = tmp_path / "t", write_clips(audio, 4)
    with worker(audio, folder, 0, 2) as first:
        with pytest.raises(FolderInUse, match=rf"dataset {folder} is in use by process {first.pid} on"):
            tokenize(LevelCodec(), clips, folder, shard_clips=1, shard=(0, 2))
        for part in ((0, 1), (2, 4), (1, 3)):  # these have common shards with 0/2
            with pytest.raises(FolderInUse, match=f"process {first.pid}"):
                tokenize(LevelCodec(), clips, folder, shard_clips=1, shard=part)
        with pytest.raises(TokensError, match="another job: its number of clips is 4, but now it is 3"):
            tokenize(LevelCodec(), clips[:3], folder, shard_clips=1, shard=(1, 2))
        other = tokenize(LevelCodec(), clips, folder, shard_clips=1, shard=(1, 2))
        assert (other.shards_written, other.complete) == (2, False)
        first.communicate("\n\n")
    assert first.returncode == 0
    assert check(folder).problems == ()
    assert read_tokens(folder).ids == [clip.id for clip in clips]


@pytest.mark.slow
def test_a_killed_process_releases_its_locks(tmp_path, audio):
    folder, clips = tmp_path / "t", write_clips(audio, 4)
    with worker(audio, folder, 0, 1) as process:
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert tokenize(LevelCodec(), clips, folder, shard_clips=1).complete
    assert check(folder).problems == ()


def test_parts_overlap_if_they_have_a_common_shard():
    for n in range(1, 7):
        for m in range(1, 7):
            for i in range(n):
                for j in range(m):
                    common = set(range(i, n * m, n)) & set(range(j, n * m, m))
                    assert _overlap(i, n, j, m) == bool(common)
