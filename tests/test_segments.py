"""Training segments depend only on seed, step and item, not on caches, prefetching or earlier errors."""

from __future__ import annotations

import logging
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codecvq.audio import write_audio
from codecvq.data.corpus import Clip, Corpus
from codecvq.data.device_segments import DeviceSegments
from codecvq.data.loading import load_batches, prefetch
from codecvq.data.segments import NO_AUGMENT, AugmentConfig, Draw, Segments, augment_segment, tilt_segment
from codecvq.errors import CorpusError, OptionError

RATE = 8000
SEGMENT_S = 0.1
EVERYTHING = AugmentConfig(gain_db=(-12.0, 6.0), polarity=0.5, tilt_db=6.0)


def ramp(length: int, first: int = 1) -> np.ndarray:
    """16-bit samples first, first + 1, … No sample is 0, and each value identifies its position."""
    return (np.arange(first, first + length) / 32768).astype(np.float32)


def corpus_of(folder: Path, lengths_s: list[float]) -> Corpus:
    clips = []
    for n, length_s in enumerate(lengths_s):
        path = write_audio(folder / f"{n}.wav", ramp(round(length_s * RATE), 1 + 100 * n), RATE)
        clips.append(Clip(id=str(n), path=path))
    return Corpus("ramps", tuple(clips))


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return corpus_of(tmp_path, [0.5, 0.3, 0.05, 0.8])


def segments_of(corpus: Corpus, batch_size: int = 4, seed: int = 1, **options: object) -> Segments:
    return Segments(corpus, RATE, SEGMENT_S, batch_size, seed, **options)  # type: ignore[arg-type]


def test_batch_shape_and_dtype(corpus):
    batch = segments_of(corpus, augment=EVERYTHING).batch(0)
    assert batch.shape == (4, 1, 800)
    assert batch.dtype == np.float32
    assert np.abs(batch).max() <= 1


def test_batches_do_not_depend_on_order_or_process(corpus):
    first = segments_of(corpus, augment=EVERYTHING)
    batches = [first.batch(step) for step in range(6)]
    resumed = segments_of(corpus, augment=EVERYTHING)
    assert all(np.array_equal(resumed.batch(step), batches[step]) for step in (5, 2, 3))
    assert not np.array_equal(batches[0], batches[1])
    assert not np.array_equal(segments_of(corpus, seed=2, augment=EVERYTHING).batch(0), batches[0])


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_ranks_draw_the_same_items_as_one_process(corpus, world):
    whole = segments_of(corpus, batch_size=6, augment=EVERYTHING).batch(7)
    part = segments_of(corpus, batch_size=6 // world, augment=EVERYTHING)
    ranks = [part.batch(7, rank, world) for rank in range(world)]
    assert np.array_equal(np.concatenate(ranks), whole)


@pytest.mark.parametrize("options", [{"cache": False}, {"cache_bytes": 0}, {"cache_bytes": 5000}], ids=str)
def test_caching_does_not_change_samples(corpus, options):
    cached, other = segments_of(corpus), segments_of(corpus, **options)
    for step in range(8):
        assert np.array_equal(cached.batch(step), other.batch(step))
    cached_bytes = sum(samples.nbytes for samples in other._cache.values())
    assert cached_bytes <= options.get("cache_bytes", 0)


def test_cached_files_are_decoded_once(corpus, monkeypatch):
    reads: list[str] = []
    read = Clip.read
    monkeypatch.setattr(
        Clip, "read", lambda clip, rate, **limit: (reads.append(clip.id), read(clip, rate, **limit))[1]
    )
    segments = segments_of(corpus)
    for step in range(50):
        segments.batch(step)
    assert sorted(reads) == ["0", "1", "2", "3"]


def test_prefetching_does_not_change_batches(corpus):
    segments = segments_of(corpus, augment=EVERYTHING)
    batches = list(load_batches(segments, 3, 9, rank=1, world=2))
    assert len(batches) == 6
    assert all(np.array_equal(batch.wav, segments.batch(step, 1, 2)) for step, batch in enumerate(batches, 3))
    assert list(load_batches(segments, 3, 3)) == []


@pytest.mark.parametrize("kind", ["thread", "worker", "device"])
def test_batches_contain_the_clip_of_each_item(corpus: Corpus, kind: str) -> None:
    segments = segments_of(corpus)
    source = DeviceSegments(segments, torch.device("cpu")) if kind == "device" else segments
    for batch in load_batches(source, 3, 9, workers=int(kind == "worker")):
        assert len(batch.clips) == 4
        for wav, clip in zip(batch.wav[:, 0], batch.clips, strict=True):
            whole = clip.read(RATE)  # each value identifies its position
            piece = wav[wav > 0]
            first = int(np.flatnonzero(np.isclose(whole, float(piece[0]), atol=1e-7))[0])
            assert np.allclose(whole[first : first + len(piece)], piece), clip.id
        assert [clip.id for clip in batch.clips[1:3]] == [batch.clips[1].id, batch.clips[2].id]


def test_closing_the_prefetch_stops_its_thread(corpus):
    segments = segments_of(corpus)
    running = prefetch(segments.batch, 0, 10**6, depth=1)
    assert np.array_equal(next(running), segments.batch(0))
    running.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "codecvq-segments"]


def test_errors_of_the_prefetch_thread_are_raised_in_the_caller(corpus):
    segments = segments_of(corpus)
    for clip in corpus:
        clip.path.write_bytes(b"gone")
    with pytest.raises(CorpusError, match="none of its 4 clips can be read"):
        next(load_batches(segments, 0, 3))


def test_segments_can_be_pickled(corpus):
    segments = segments_of(corpus)
    first = segments.batch(0)
    twin = pickle.loads(pickle.dumps(segments))  # like multiprocessing with the start method spawn
    assert np.array_equal(twin.batch(0), first)
    assert np.array_equal(twin.batch(1), segments.batch(1))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_errors_of_workers_have_one_line(corpus):
    segments = segments_of(corpus)
    for clip in corpus:
        clip.path.unlink()
    with pytest.raises(CorpusError, match="none of its") as caught:
        list(load_batches(segments, 0, 3, workers=1))
    assert "\n" not in str(caught.value)


def test_segments_equal_parts_of_their_clip(corpus):
    segments = segments_of(corpus, augment=NO_AUGMENT)
    for step in range(10):
        for item in segments.batch(step)[:, 0]:
            nonzero = np.flatnonzero(item)
            numbers = np.rint(item[nonzero] * 32768)
            assert np.array_equal(np.diff(numbers), np.ones(len(numbers) - 1))  # consecutive values of a ramp
            assert np.array_equal(np.diff(nonzero), np.ones(len(nonzero) - 1))
            assert len(nonzero) in (400, 800)  # the padded clip of 0.05 s, or a full segment


def test_a_short_clip_is_complete_at_random_positions(tmp_path):
    segments = segments_of(corpus_of(tmp_path, [0.05]), batch_size=64)
    items = segments.batch(0)[:, 0]
    starts = {int(np.flatnonzero(item)[0]) for item in items}
    for item in items:
        start = np.flatnonzero(item)[0]
        assert np.array_equal(item[start : start + 400], ramp(400))
        assert not item[:start].any()
        assert not item[start + 400 :].any()
    assert min(starts) < 100 < 300 < max(starts) <= 400


@pytest.mark.parametrize("length", [800, 801])
def test_segments_start_at_every_possible_position(tmp_path, length):
    segments = segments_of(corpus_of(tmp_path, [length / RATE]), batch_size=32)
    firsts = {round(float(item[0]) * 32768) for item in segments.batch(0)[:, 0]}
    assert firsts == set(range(1, length - 800 + 2))


def test_clips_are_drawn_in_proportion_to_their_duration(tmp_path, monkeypatch):
    segments = segments_of(corpus_of(tmp_path, [0.2, 0.4, 1.4]), batch_size=3000)
    drawn: list[int] = []
    monkeypatch.setattr(
        Segments, "_segment", lambda self, index, position, length: (drawn.append(index), np.zeros(length))[1]
    )
    segments.batch(0)
    assert np.bincount(drawn) / 3000 == pytest.approx([0.1, 0.2, 0.7], abs=0.03)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_speed_changes_the_pitch_but_not_the_length(tmp_path, factor):
    tone = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000).astype(np.float32)  # 1 kHz, 2 s
    write_audio(tmp_path / "tone.wav", tone, 16000)
    corpus = Corpus("tone", (Clip(id="tone", path=tmp_path / "tone.wav"),))
    augment = AugmentConfig(gain_db=(0, 0), polarity=0, speed=(factor, factor))
    segment = Segments(corpus, 16000, 1.0, 1, 0, augment=augment).batch(0)[0, 0]
    assert segment.shape == (16000,)
    spectrum = np.abs(np.fft.rfft(segment * np.hanning(16000)))
    assert int(spectrum.argmax()) == pytest.approx(1000 * factor, abs=1)  # a bin is 1 Hz
    assert segment.std() == pytest.approx(tone.std(), rel=0.01)


@pytest.mark.parametrize("speed", [(1.2, 0.9), (0.1, 1.0), (1.0, 3.0)])
def test_an_invalid_speed_raises(speed):
    with pytest.raises(OptionError, match=r"augment\.speed"):
        AugmentConfig(speed=speed)


def test_an_unreadable_clip_is_replaced_and_reported(corpus):
    healthy = segments_of(corpus)
    before = [healthy.batch(step) for step in range(20)]
    broken = segments_of(corpus)  # the file breaks after the corpus was opened
    corpus[1].path.write_bytes(b"RIFF, and then nothing of use")
    batches = [broken.batch(step) for step in range(20)]
    assert [failure.id for failure in broken.failures] == ["1"]
    assert str(corpus[1].path) in broken.failures[0].error
    again = segments_of(Corpus("ramps", tuple(healthy.corpus)))
    assert all(np.array_equal(again.batch(step), batches[step]) for step in reversed(range(20)))
    same = [
        np.array_equal(a, b) for a, b in zip(np.concatenate(batches), np.concatenate(before), strict=True)
    ]
    assert len(same) * 0.5 < sum(same) < len(same)  # the other items are unchanged


def test_draws_of_an_unreadable_clip_are_distributed_over_the_others(tmp_path):
    corpus = corpus_of(tmp_path, [0.3] * 20)
    segments = segments_of(corpus, batch_size=1)
    corpus[7].path.write_bytes(b"gone")
    counts = np.zeros(20, dtype=int)
    for step in range(4000):
        drawn = segments.draw(step, 0).clip
        clip = next(clip for clip in segments.candidates(step, 0) if clip != 7)
        assert drawn in (7, clip)  # the other items are unchanged
        counts[clip] += drawn == 7
    assert counts.sum() == pytest.approx(200, abs=50)
    assert counts.max() < 30 < 4000 / 20  # spread over all clips, 11 each on average
    numbers = {int(segments.item(step, 0).wav.max() * 32768) // 100 for step in range(400)}
    assert 7 not in {number // 25 for number in numbers}


def test_replacements_are_drawn_in_proportion_to_duration(tmp_path):
    corpus = corpus_of(tmp_path, [0.2, 0.4, 0.2])
    missing = Clip(id="missing", path=tmp_path / "gone.wav", duration_s=1e6, measured=True)
    segments = segments_of(Corpus("c", (*corpus.clips, missing)), batch_size=1)
    shares = np.zeros(4)
    for step in range(2000):
        assert segments.draw(step, 0).clip == 3
        shares[next(clip for clip in segments.candidates(step, 0) if clip != 3)] += 1
    assert shares / 2000 == pytest.approx([0.25, 0.5, 0.25, 0], abs=0.04)
    assert set(segments.candidates(0, 0)) == {0, 1, 2, 3}


def test_a_damaged_part_of_a_long_clip_does_not_change_other_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("codecvq.data.segments.LONG_CLIP_S", 1.0)
    samples = ramp(3 * RATE)
    samples[RATE : 2 * RATE] = np.nan
    soundfile.write(tmp_path / "long.wav", samples, RATE, subtype="FLOAT")
    other = corpus_of(tmp_path, [0.5]).clips
    corpus = Corpus("c", (Clip(id="long", path=tmp_path / "long.wav"), *other))
    forward, backward = segments_of(corpus), segments_of(corpus)
    batches = [forward.batch(step) for step in range(20)]
    for step in reversed(range(20)):
        assert np.array_equal(backward.batch(step), batches[step])
    assert [failure.id for failure in forward.failures] == ["long"]
    assert "NaN" in forward.failures[0].error


def test_unreadable_clips_are_logged_once(tmp_path, caplog):
    corpus = corpus_of(tmp_path, [0.3] * 4)
    segments = segments_of(corpus)
    soundfile.write(corpus[2].path, np.full(2400, np.inf, np.float32), RATE, subtype="FLOAT")
    with caplog.at_level(logging.WARNING):
        list(load_batches(segments, 0, 30))
    assert [record.getMessage()[:31] for record in caplog.records] == [
        "clip 2 is skipped: " + str(tmp_path)[:12]
    ]
    assert "NaN or infinite samples" in caplog.text


def test_clips_without_a_readable_header_are_never_drawn(corpus):
    corpus[0].path.write_text("no audio")
    segments = segments_of(corpus)
    segments.batch(0)
    assert [clip.id for clip in segments.corpus] == ["1", "2", "3"]
    assert [failure.id for failure in segments.failures] == ["0"]


def test_a_corpus_without_readable_clips_raises(corpus):
    with pytest.raises(CorpusError, match="has no clips"):
        segments_of(Corpus("none", ()))
    for clip in corpus:
        clip.path.write_text("no audio")
    with pytest.raises(CorpusError, match=r"none of its 4 clips can be read. The first: .*0\.wav"):
        segments_of(corpus)


@pytest.fixture
def only_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips over one second count as long. Decoding a whole clip fails."""
    monkeypatch.setattr("codecvq.data.segments.LONG_CLIP_S", 1.0)
    monkeypatch.setattr(Clip, "read", None)


@pytest.mark.usefixtures("only_parts")
def test_long_clips_are_read_in_parts_at_all_positions(tmp_path):
    numbers = segments_of(corpus_of(tmp_path, [3.0]), batch_size=64).batch(0)[:, 0] * 32768
    assert np.array_equal(np.diff(np.rint(numbers)), np.ones((64, 799)))
    assert numbers[:, 0].min() < 3000
    assert numbers[:, -1].max() > 21000


@pytest.mark.usefixtures("only_parts")
@pytest.mark.parametrize("source_rate", [16000, 44100])
def test_parts_are_resampled_with_their_context(tmp_path, source_rate):
    wave = 0.4 * np.sin(2 * np.pi * 200 * np.arange(3 * source_rate) / source_rate)
    path = write_audio(tmp_path / "long.flac", wave, source_rate)
    items = segments_of(Corpus("long", (Clip(id="long", path=path),)), batch_size=32).batch(0)[:, 0]
    angle = 2 * np.pi * 200 * np.arange(800) / RATE
    basis = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    fit, *_ = np.linalg.lstsq(basis, items.T, rcond=None)
    assert np.hypot(*fit) == pytest.approx(0.4, abs=1e-3)
    # Parts that were resampled without their context would fade at the ends.
    assert np.abs((basis @ fit).T - items).max() < 1e-3


# Augmentation


def drawn(tilt_db: float = 0.0, gain_db: float = 0.0, flipped: bool = False) -> Draw:
    return Draw(clip=0, position=0.0, length=1, tilt_db=tilt_db, gain_db=gain_db, flipped=flipped)


def noise(length: int = 4096) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.05, length).astype(np.float32)


def test_a_draw_without_augmentation_does_not_change_the_segment():
    segment = noise()
    assert np.array_equal(augment_segment(segment, drawn()), segment)


def test_gain_and_polarity_follow_their_distributions(corpus):
    segments = segments_of(corpus, augment=AugmentConfig(gain_db=(-12.0, 6.0), polarity=0.25))
    draws = [segments.draw(step, 0) for step in range(400)]
    segment = noise()
    ratios = np.array([augment_segment(segment, each)[0] / segment[0] for each in draws])
    gains_db = 20 * np.log10(np.abs(ratios))
    assert gains_db.min() == pytest.approx(-12, abs=0.5)
    assert gains_db.max() == pytest.approx(6, abs=0.5)
    assert np.mean(ratios < 0) == pytest.approx(0.25, abs=0.08)


def test_gain_does_not_clip_and_silence_remains_silent():
    loud = np.array([0.9, -0.5], dtype=np.float32)
    assert augment_segment(loud, drawn(gain_db=6.0)) == pytest.approx([1.0, -0.5 / 0.9])
    everything = drawn(gain_db=3.0, tilt_db=5.0, flipped=True)
    assert not augment_segment(np.zeros(8, np.float32), everything).any()


@pytest.mark.parametrize("tilt_db", [-12.0, -3.0, 0.0, 6.0])
def test_tilt_is_the_level_difference_of_nyquist_and_zero_frequency(tilt_db):
    length = 4096
    flat = np.zeros(length, dtype=np.float32)
    flat[length // 2] = 0.5  # an impulse has a flat spectrum
    response = np.abs(np.fft.rfft(tilt_segment(flat, tilt_db)))
    assert 20 * np.log10(response[-1] / response[0]) == pytest.approx(tilt_db, abs=1e-3)
    assert np.sum(tilt_segment(flat, tilt_db) ** 2) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"gain_db": (3.0, -3.0)}, {"polarity": 1.5}, {"tilt_db": -1.0}, {"tilt_db": float("nan")}],
    ids=str,
)
def test_invalid_augmentation_options_raise(options):
    with pytest.raises(OptionError, match=f"augment.{next(iter(options))}"):
        AugmentConfig(**options)


def test_empty_segments_and_batches_raise(corpus):
    with pytest.raises(OptionError, match="at least one sample"):
        Segments(corpus, RATE, 0.0, 4, 0)
    with pytest.raises(OptionError, match="at least one sample"):
        Segments(corpus, RATE, 1.0, 0, 0)


@pytest.mark.parametrize(("balance", "share"), [(0.0, 0.1), (0.5, 0.25), (1.0, 0.5)])
def test_balance_interpolates_between_duration_and_speaker_weights(tmp_path, balance, share):
    clips = []
    for speaker, length_s, value in (("much", 4.5, 0.5), ("little", 0.5, -0.5)):
        path = write_audio(tmp_path / f"{speaker}.wav", np.full(round(length_s * RATE), value), RATE)
        clips.append(Clip(id=speaker, path=path, speaker=speaker))
    batch = segments_of(Corpus("two", tuple(clips)), batch_size=2000, balance=balance).batch(0)
    assert np.mean(batch[:, 0, 0] < 0) == pytest.approx(share, abs=0.04)
