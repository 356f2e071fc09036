"""Training batches as a pure function of seed, step and rank.

Item i of step s is drawn by a generator seeded with (seed, s, i): no sampler state is to be saved, a resumed
training sees the batches that it would have seen, and W processes with B items each see, together, what one
process with W * B items sees.

A clip is drawn in proportion to its length and cut at a random place, so that every second of speech is about
as likely as every other; `balance` moves that towards every speaker being as likely as every other. Clips are
decoded and resampled once and kept as 16-bit integers while they fit; what is not kept passes through 16 bits
all the same, so that no sample depends on what the cache holds.

A clip that cannot be read passes each of its draws to another that is drawn in its place, in proportion to
its length again, from the same generator.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codecvq.audio import SEEKABLE_SUFFIXES, resample
from codecvq.audio.limits import MAX_DECODED_S
from codecvq.data.clip import Clip, ClipFailure
from codecvq.data.corpus import Corpus
from codecvq.data.shared_array import SharedArray
from codecvq.errors import AudioError, CorpusError, OptionError

FloatArray = npt.NDArray[np.float32]

LONG_CLIP_S = 60.0  # beyond it, where the format can seek, only the segment is read, with a margin
MAX_REDRAWS = 32  # clips drawn in place of one that cannot be read, before any that can is taken
MARGIN_S = 0.1  # on either side of such a segment; longer than the resampler's filter at any usual rate


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to a segment at random; the defaults change its level and its sign."""

    gain_db: tuple[float, float] = (-10.0, 6.0)  # uniform in dB; less where a sample would leave [-1, 1]
    polarity: float = 0.5  # probability that the sign is flipped
    tilt_db: float = 0.0  # the Nyquist frequency against 0 Hz, uniform in ± this; 0 for no filter

    #: played at a speed uniform between these: pitch and formants move with it, as between speakers
    speed: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.gain_db
        if not -100 <= low <= high <= 100:
            raise OptionError(
                f"augment.gain_db is [{low:g}, {high:g}], but two numbers from -100 to 100 are needed, the "
                "lower first."
            )
        if not 0.5 <= self.speed[0] <= self.speed[1] <= 2:
            raise OptionError(
                f"augment.speed is [{self.speed[0]:g}, {self.speed[1]:g}], but two factors from 0.5 to 2 are "
                "needed, the lower first."
            )
        if not 0 <= self.polarity <= 1:
            raise OptionError(
                f"augment.polarity is {self.polarity:g}, but a probability from 0 to 1 is needed."
            )
        if not 0 <= self.tilt_db <= 40:
            raise OptionError(f"augment.tilt_db is {self.tilt_db:g}, but 0 to 40 dB are needed.")


NO_AUGMENT = AugmentConfig(gain_db=(0.0, 0.0), polarity=0.0, tilt_db=0.0)


class Draw(NamedTuple):
    """What is drawn for an item of a batch."""

    clip: int  # in the corpus
    position: float  # 0 … 1, of the segment in the clip
    length: int  # samples that are taken, and played faster or slower to last as long as a segment
    tilt_db: float
    gain_db: float
    flipped: bool  # the sign


class Item(NamedTuple):
    """A segment, and where it is from."""

    wav: FloatArray  # [S]
    clip: int  # in the corpus


class Segments:
    """Batches of equally long segments from a corpus, safe to ask from several threads."""

    def __init__(
        self,
        corpus: Corpus,
        sample_rate: int,
        segment_s: float,
        batch_size: int,
        seed: int,
        *,
        augment: AugmentConfig = NO_AUGMENT,
        balance: float = 0.0,
        cache: bool = True,
        cache_bytes: int = 2 << 30,  # eighteen hours at 16 kHz
    ) -> None:
        self.segment_samples = round(segment_s * sample_rate)
        if self.segment_samples < 1 or batch_size < 1:
            raise OptionError(
                f"segments of {segment_s:g} s at {sample_rate} Hz in batches of {batch_size}: at least "
                "one sample and one item are needed."
            )
        self.corpus = corpus
        self._failures: dict[int, ClipFailure] = {}
        if not len(corpus):
            if corpus.failures:
                raise self.no_readable_clips()
            raise CorpusError(
                f"corpus {corpus.name!r} has no clips to draw from. Add clips, or take another split."
            )
        measured = corpus.measured()
        self.corpus, self.sample_rate, self.batch_size = measured, sample_rate, batch_size
        self.seed, self.augment = seed, augment
        self._shared_ends = SharedArray(np.cumsum(_clip_weights(measured, balance)))
        self._free_bytes = cache_bytes if cache else 0
        self._cache: dict[int, npt.NDArray[np.int16]] = {}
        self._unreadable: set[int] = set()  # those of `_failures` that cannot be read at any place
        self._lock = threading.Lock()
        if not len(measured) or not self._ends[-1] > 0:
            raise self.no_readable_clips()

    @property
    def _ends(self) -> npt.NDArray[np.float64]:
        """Where the share of each clip ends, `[M]`, all shares one behind the other."""
        return self._shared_ends.values

    @property
    def failures(self) -> tuple[ClipFailure, ...]:
        """Clips that could not be read so far, first those without a readable header."""
        return self.corpus.failures + tuple(self._failures[index] for index in sorted(self._failures))

    def __getstate__(self) -> dict[str, Any]:
        """For another process: it decodes for itself."""
        free = self._free_bytes + sum(samples.nbytes for samples in self._cache.values())
        return {**self.__dict__, "_lock": None, "_cache": {}, "_free_bytes": free}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def unreadable(self) -> dict[int, ClipFailure]:
        """Clips that could not be read so far, by their places in the corpus."""
        return dict(self._failures)

    def add_failures(self, unreadable: Mapping[int, ClipFailure]) -> None:
        """Add what a worker process could not read: its `unreadable`."""
        self._failures.update(unreadable)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> FloatArray:
        """The audio `[B, 1, S]` of a step for one of `world` processes; all ranks' together are the step."""
        return self.cut_batch(step, rank, world)[0]

    def cut_batch(self, step: int, rank: int = 0, world: int = 1) -> tuple[FloatArray, list[int]]:
        """What `batch` gives, and the clip in the corpus of each item."""
        assert 0 <= rank < world, f"rank {rank} of {world} processes"
        first = rank * self.batch_size
        items = [self.item(step, first + b) for b in range(self.batch_size)]
        return np.stack([item.wav for item in items])[:, None, :], [item.clip for item in items]  # [B, 1, S]

    def item(self, step: int, index: int) -> Item:
        """Item `index` of the whole batch of a step; a function of (seed, step, index) alone."""
        drawn = self.draw(step, index)
        for clip in self.candidates(step, index):
            segment = self._segment(clip, drawn.position, drawn.length)
            if segment is not None:
                return Item(
                    augment_segment(resample(segment, drawn.length, self.segment_samples), drawn), clip
                )
        raise self.no_readable_clips()

    def draw(self, step: int, index: int) -> Draw:
        """What is drawn for item `index` of the whole batch of a step."""
        clip_at, position, speed, tilt, gain, sign = self._generator(step, index).random(6)
        slow, fast = self.augment.speed
        low, high = self.augment.gain_db
        return Draw(
            clip=self._clip_at(clip_at),
            position=position,
            length=round(self.segment_samples * (slow + speed * (fast - slow))),
            tilt_db=(2 * tilt - 1) * self.augment.tilt_db,
            gain_db=low + gain * (high - low),
            flipped=bool(sign < self.augment.polarity),
        )

    def candidates(self, step: int, index: int) -> Iterator[int]:
        """The clips for item `index` of a step, in the order in which they are tried: the one that `draw`
        gives, others drawn from those that are left, and in the end all, from a random one on.
        """
        generator = self._generator(step, index)
        tried = [self._clip_at(generator.random(6)[0])]
        yield tried[0]
        for at in generator.random(MAX_REDRAWS):
            other = self._clip_at(at, tried)
            if other not in tried:
                yield other
                tried.append(other)
        first = int(generator.random() * len(self.corpus))
        for offset in range(len(self.corpus)):
            other = (first + offset) % len(self.corpus)
            if other not in tried:
                yield other

    def decoded(self, index: int) -> npt.NDArray[np.int16] | None:
        """All samples `[S]` of a clip, 16 bits; None where it cannot be read, which is noted."""
        try:
            return self._read(index)
        except (AudioError, OSError) as error:
            self._record_failure(index, error, whole_clip=True)
            return None

    def _generator(self, step: int, index: int) -> np.random.Generator:
        # Only `random()` is drawn: numpy keeps the streams of its bit generators, not of its distributions.
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, step, index))))

    def _clip_at(self, at: float, excluded: Sequence[int] = ()) -> int:
        """The clip at a place of 0 … 1 in all clips, one behind the other by their shares, without some."""
        begins = {index: float(self._ends[index - 1]) if index else 0.0 for index in excluded}
        position = at * (self._ends[-1] - sum(self._ends[index] - begin for index, begin in begins.items()))
        for index in sorted(begins):
            if position >= begins[index]:
                position += self._ends[index] - begins[index]
        return min(int(np.searchsorted(self._ends, position, side="right")), len(self._ends) - 1)

    def _segment(self, index: int, position: float, length: int) -> FloatArray | None:
        """A segment `[length]` of a clip; None where it cannot be read, which is noted."""
        if index in self._unreadable:
            return None
        clip = self.corpus[index]
        is_long = self._is_long(clip)
        try:
            return (
                self._read_part(clip, position, length)
                if is_long
                else _cut(self._cached_samples(index), length, position)
            )
        except (AudioError, OSError) as error:
            # of a long clip another part may be readable: what a step gets must not depend on those before
            self._record_failure(index, error, whole_clip=not is_long)
            return None

    def _read(self, index: int) -> npt.NDArray[np.int16]:
        return _to_int16(self.corpus[index].read(self.sample_rate, longest_s=MAX_DECODED_S))

    def _record_failure(self, index: int, error: Exception, *, whole_clip: bool) -> None:
        clip = self.corpus[index]
        with self._lock:
            self._failures.setdefault(index, ClipFailure(clip.id, clip.path, str(error)))
            if whole_clip:
                self._unreadable.add(index)

    def _cached_samples(self, index: int) -> npt.NDArray[np.int16]:
        """All samples of a clip `[S]`, 16 bits; kept while they fit.

        Nothing is evicted for another: with random draws, what goes is needed as soon as what comes.
        """
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        samples = self._read(index)
        with self._lock:
            if index not in self._cache and samples.nbytes <= self._free_bytes:
                self._cache[index] = samples
                self._free_bytes -= samples.nbytes
        return samples

    def _is_long(self, clip: Clip) -> bool:
        """Whether a segment is read from the file by itself: a property of the clip, not of what is kept."""
        longest_s = LONG_CLIP_S + self.augment.speed[1] * self.segment_samples / self.sample_rate
        seekable = clip.source is None and clip.path.suffix.lower() in SEEKABLE_SUFFIXES
        return (clip.duration_s or 0.0) > longest_s and seekable

    def _read_part(self, clip: Clip, position: float, length: int) -> FloatArray:
        """A segment `[length]` of a clip too long to keep, read from the file by itself."""
        assert clip.duration_s is not None, "measured() fills it"
        length_s = length / self.sample_rate
        start_s = clip.start_s + position * (clip.duration_s - length_s)
        before_s = min(start_s, MARGIN_S)
        audio = clip.audio.read(start_s=start_s - before_s, duration_s=before_s + length_s + MARGIN_S)
        samples = resample(clip.mono(audio), audio.sample_rate, self.sample_rate)
        first = round(before_s * self.sample_rate)
        return _cut(_to_int16(samples[first : first + length]), length, 0.0)

    def no_readable_clips(self) -> CorpusError:
        """The error for a corpus of which no clip can be read."""
        failures = self.failures
        first = f" The first: {failures[0].error}" if failures else ""
        return CorpusError(
            f"corpus {self.corpus.name!r}: none of its {len(failures)} clips can be read.{first}"
        )


def _clip_weights(corpus: Corpus, balance: float) -> npt.NDArray[np.float64]:
    """How likely each clip `[M]` is, up to a factor: d / (seconds of its speaker)^balance, d its seconds."""
    clips = corpus.lazy_clips
    durations_s = np.nan_to_num(clips.durations_s, nan=0.0)
    if balance == 0:
        return durations_s
    speaker_s = np.bincount(clips.speaker_codes, durations_s, minlength=len(clips.speakers))
    return durations_s / np.maximum(speaker_s, 1e-9)[clips.speaker_codes] ** balance


def augment_segment(segment: FloatArray, drawn: Draw) -> FloatArray:
    """The segment `[S]` with the tilt, gain and sign that were drawn."""
    if drawn.tilt_db:
        segment = tilt_segment(segment, drawn.tilt_db)
    scale = 10 ** (drawn.gain_db / 20)
    peak = float(np.abs(segment).max(initial=0.0))
    scale = min(scale, 1 / peak) if peak > 0 else scale
    return segment * np.float32(-scale if drawn.flipped else scale)


def tilt_segment(segment: FloatArray, tilt_db: float) -> FloatArray:
    """The segment `[S]` with the Nyquist frequency raised by `tilt_db` against 0 Hz, its energy kept.

    y[n] = x[n] + a x[n - 1] has the gain 1 + a at 0 Hz and 1 - a at Nyquist; their ratio is to be
    r = 10^(tilt / 20) = (1 - a) / (1 + a), so a = (1 - r) / (1 + r).
    """
    a = np.float32(tilt_coefficient(tilt_db))
    out = segment.copy()
    out[1:] += a * segment[:-1]
    energy = float(np.dot(out, out))
    return out * np.float32((float(np.dot(segment, segment)) / energy) ** 0.5) if energy > 0 else out


def tilt_coefficient(tilt_db: float) -> float:
    """a of `tilt_segment`."""
    ratio = 10 ** (tilt_db / 20)
    return (1 - ratio) / (1 + ratio)


def _cut(samples: npt.NDArray[np.int16], length: int, position: float) -> FloatArray:
    """`length` samples, float32, from a random place; a shorter clip stands at a random place in silence."""
    spare = len(samples) - length
    if spare >= 0:
        start = int(position * (spare + 1))
        return samples[start : start + length].astype(np.float32) / np.float32(32768)
    segment = np.zeros(length, dtype=np.float32)
    start = int(position * (1 - spare))
    segment[start : start + len(samples)] = samples.astype(np.float32) / np.float32(32768)
    return segment


def _to_int16(samples: FloatArray) -> npt.NDArray[np.int16]:
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
