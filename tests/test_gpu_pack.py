"""Packing of corpora for a GPU machine: size limits, excluded test clips, and exact lossless clips."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from codecvq.audio import read_audio  # noqa: E402
from codecvq.data.corpus import Corpus, open_corpus  # noqa: E402
from codecvq.errors import CorpusError  # noqa: E402
from scripts.gpu import g722, pack, speech, unpack, wheels  # noqa: E402

RATE = 16000
CLIPS = 12
LENGTHS = (4001, 8000, 12345)  # samples, in turn


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Twelve clips of noise, 0.25 to 0.77 s, a third at 24 kHz. Every fourth is for test, the next for
    validation.
    """
    rng = np.random.default_rng(0)
    rows = []
    for n in range(CLIPS):
        noise = np.round(3000 * rng.standard_normal(LENGTHS[n % 3])).astype(np.int16)
        soundfile.write(tmp_path / f"{n}.wav", noise, 24000 if n % 3 == 2 else RATE)
        split = ("test", "validation", "train", "train")[n % 4]
        rows.append(
            {"path": f"{n}.wav", "id": f"clip/{n}", "speaker": f"s{n % 2}", "split": split, "take": n}
        )
    manifest = tmp_path / "corpus.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return open_corpus(manifest=manifest)


def repacked(corpus: Corpus, out: Path, **options: object) -> Corpus:
    speech.pack_speech(corpus, out, **{"coding": "flac", **options})  # type: ignore[arg-type]
    return open_corpus(manifest=unpack.unpack(out, out / "clips"))


def test_parts_respect_the_size_limit_and_contain_the_corpus_in_order(corpus: Corpus, tmp_path: Path) -> None:
    limit = 40_000
    packed = repacked(corpus, tmp_path / "out", limit_bytes=limit)
    sizes = [row["bytes"] for row in pack.describe(tmp_path / "out").values()]
    assert 3 <= len(sizes) <= 5
    assert max(sizes) <= limit
    assert [clip.id for clip in packed] == [f"clip/{n}" for n in range(CLIPS) if n % 4]


def test_a_corpus_that_exceeds_the_parts_is_an_error(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="2 parts of 40000 bytes contain"):
        speech.pack_speech(corpus, tmp_path / "out", coding="flac", limit_bytes=40_000, max_parts=2)
    with pytest.raises(CorpusError, match="more than"):
        speech.pack_speech(corpus, tmp_path / "out", coding="flac", limit_bytes=5000)


def test_test_clips_are_not_packed_and_metadata_is_unchanged(corpus: Corpus, tmp_path: Path) -> None:
    packed = repacked(corpus, tmp_path / "out")
    assert len(packed.split("test")) == 0
    for split in ("train", "validation"):
        for before, after in zip(corpus.measured().split(split), packed.split(split), strict=True):
            for name in ("id", "speaker", "duration_s", "columns"):
                assert getattr(before, name) == getattr(after, name), name


def test_a_held_out_clip_outside_the_test_split_is_an_error(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert speech.clips_to_pack(corpus)
    monkeypatch.setattr(speech, "HELD_OUT_SPEAKERS", frozenset({"s1"}))
    with pytest.raises(CorpusError, match="held out"):
        speech.clips_to_pack(corpus)


def test_flac_clips_have_the_samples_of_the_corpus_at_16_khz(corpus: Corpus, tmp_path: Path) -> None:
    known = {clip.id: clip for clip in corpus}
    for clip in repacked(corpus, tmp_path / "out"):
        np.testing.assert_array_equal(
            speech.to_int16(clip.read(RATE)), speech.to_int16(known[clip.id].read(RATE)), clip.id
        )


@pytest.mark.skipif(not shutil.which("opusenc"), reason="opusenc is not installed (opus-tools)")
def test_opus_clips_have_the_length_of_the_corpus_and_no_delay(tmp_path: Path) -> None:
    time_s = np.arange(8003) / RATE
    chirp = np.round(8000 * np.sin(2 * np.pi * (200 * time_s + 1500 * time_s**2))).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", chirp, RATE)
    manifest = tmp_path / "corpus.jsonl"
    manifest.write_text('{"path": "a.wav", "split": "train"}\n', encoding="utf-8")
    (clip,) = repacked(open_corpus(manifest=manifest), tmp_path / "out", coding="opus")
    decoded = clip.read(RATE)
    assert clip.path.suffix == ".opus"
    assert len(decoded) == len(chirp)
    middle = slice(1000, 7000)
    shifts = [np.dot(chirp[middle], np.roll(decoded, shift)[middle]) for shift in range(-20, 21)]
    assert int(np.argmax(shifts)) - 20 == 0


def test_packing_again_gives_the_same_bytes(corpus: Corpus, tmp_path: Path) -> None:
    for out in ("one", "two"):
        speech.pack_speech(corpus, tmp_path / out, coding="flac", limit_bytes=40_000)
    assert pack.describe(tmp_path / "one") == pack.describe(tmp_path / "two")


def test_clips_of_missing_parts_are_not_in_the_manifest(corpus: Corpus, tmp_path: Path) -> None:
    everything = repacked(corpus, tmp_path / "out", limit_bytes=40_000)
    shutil.rmtree(tmp_path / "out" / "speech-2")
    some = open_corpus(manifest=unpack.unpack(tmp_path / "out", tmp_path / "out" / "clips"))
    assert some.clips == tuple(clip for clip in everything if "speech-2" not in clip.path.parts)
    assert not some.failures


def g722_stream(path: Path, samples: npt.NDArray[np.int16]) -> Path:
    """Write samples as G.722 with FFmpeg."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


@pytest.mark.parametrize("amplitude", [300, 12000, 32767], ids=["quiet", "loud", "overdriven"])
def test_g722_files_are_packed_unchanged_and_decode_like_ffmpeg(tmp_path: Path, amplitude: int) -> None:
    rng = np.random.default_rng(1)
    samples = np.clip(amplitude * rng.standard_normal(800), -32768, 32767).astype(np.int16)
    path = g722_stream(tmp_path / "a.g722", samples)
    np.testing.assert_array_equal(
        g722.decode(path.read_bytes()), speech.to_int16(read_audio(path).samples[0])
    )
    (tmp_path / "m.jsonl").write_text('{"path": "a.g722", "split": "train"}\n', encoding="utf-8")
    original = open_corpus(manifest=tmp_path / "m.jsonl")
    packed = repacked(original, tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "out" / "speech-1" / "clips.zip") as archive:
        assert archive.read("00000.g722") == path.read_bytes()
    np.testing.assert_array_equal(packed[0].read(RATE), original[0].read(RATE))


def write_wheel(folder: Path, name: str, version: str, *required: str) -> None:
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {line}\n" for line in required)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}-{version}.dist-info/METADATA", metadata)


def test_the_wheel_closure_reports_missing_wheels(tmp_path: Path) -> None:
    write_wheel(
        tmp_path, "upper", "2.0", "lower>=1", "there", "win ; sys_platform == 'win32'", "x; extra == 'x'"
    )
    write_wheel(tmp_path, "lower", "1.5")
    found = wheels.read_requirements(tmp_path)
    wheels.check(["upper>=1", "There", "home"], found, {"there"}, {"home"})
    with pytest.raises(wheels.WheelError, match="codecvq needs new_one"):
        wheels.check(["upper", "new_one"], found, {"there"}, set())
    with pytest.raises(wheels.WheelError, match=r"upper==2\.0 needs there"):
        wheels.check(["upper"], found, set(), set())
    with pytest.raises(wheels.WheelError, match=r"upper>=3, but the wheel is 2\.0"):
        wheels.check(["upper>=3"], found, {"there"}, set())


def test_every_dependency_is_a_wheel_in_the_image_or_excluded() -> None:
    pytest.importorskip("tomllib")
    needed = wheels.requirements(ROOT / "pyproject.toml")
    listed = {f"{wheel.name}=={wheel.version}": [] for wheel in wheels.WHEELS}
    wheels.check(needed, listed, wheels.read_image())


def test_the_working_tree_is_registered_with_its_entry_points(tmp_path: Path) -> None:
    pytest.importorskip("tomllib")
    from importlib.metadata import distributions

    from scripts.gpu import registration

    pyproject = ROOT / "pyproject.toml"
    for _ in range(2):
        registration.register(pyproject, tmp_path)
    (found,) = distributions(path=[str(tmp_path)])
    assert found.name == "codecvq"
    assert "codecvq.networks" in {entry.value for entry in found.entry_points.select(group="codecvq")}
    assert (tmp_path / "bin" / "codecvq").stat().st_mode & 0o111
