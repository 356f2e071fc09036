"""Training batches as a pure function of seed, step and rank.

A generator seeded with (seed, s, i) draws item i of step s. So there is no sampler state to save, a resumed
training gets the same batches, and W processes with B items each get together the batches of one process with
W * B items.

A clip is drawn with probability proportional to its duration and cut at a random position, so that all
seconds of speech are about equally likely. `balance` shifts this towards equally likely speakers. Clips are
decoded and resampled once and cached as 16-bit integers while they fit. Clips that do not fit are also
rounded to 16 bits, so that no sample depends on the state of the cache.

If a clip cannot be read, another one is drawn in its place from the same generator, again in proportion to
the durations.
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

LONG_CLIP_S = 60.0  # in seekable formats, only the segment of a longer clip is read, with a margin
MAX_REDRAWS = 32  # draws in place of an unreadable clip, before the first readable clip is used
MARGIN_S = 0.1  # on either side of such a segment; longer than the resampling filter at usual rates


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random augmentation of segments; the defaults change level and sign."""

    gain_db: tuple[float, float] = (-10.0, 6.0)  # uniform in dB; limited so that samples stay in [-1, 1]
    polarity: float = 0.5  # probability that the sign is flipped
    tilt_db: float = 0.0  # gain at the Nyquist frequency relative to 0 Hz, uniform in ±tilt_db; 0: no filter

    #: playback speed, uniform between these; shifts pitch and formants, similar to another speaker
    speed: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.gain_db
        if not -100 <= low <= high <= 100:
            raise OptionError(
                f"augment.gain_db is [{low:g}, {high:g}], but two numbers from -100 to 100 are needed, the "
                "lower one first."
            )
        if not 0.5 <= self.speed[0] <= self.speed[1] <= 2:
            raise OptionError(
                f"augment.speed is [{self.speed[0]:g}, {self.speed[1]:g}], but two factors from 0.5 to 2 are "
                "needed, the lower one first."
            )
        if not 0 <= self.polarity <= 1:
            raise OptionError(
                f"augment.polarity is {self.polarity:g}, but a probability from 0 to 1 is needed."
            )
        if not 0 <= self.tilt_db <= 40:
            raise OptionError(f"augment.tilt_db is {self.tilt_db:g}, but 0 to 40 dB are needed.")


NO_AUGMENT = AugmentConfig(gain_db=(0.0, 0.0), polarity=0.0, tilt_db=0.0)


class Draw(NamedTuple):
    """The random parameters of a batch item."""

    clip: int  # index in the corpus
    position: float  # 0 … 1, of the segment in the clip
    length: int  # samples before the change of speed, which makes them as long as a segment
    tilt_db: float
    gain_db: float
    flipped: bool  # whether to invert the sign


class Item(NamedTuple):
    """A segment and its clip."""

    wav: FloatArray  # [S]
    clip: int  # index in the corpus


class Segments:
    """Batches of equally long segments of a corpus. Thread-safe."""

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
                f"corpus {corpus.name!r} has no clips to draw from. Add clips, or use another split."
            )
        measured = corpus.measured()
        self.corpus, self.sample_rate, self.batch_size = measured, sample_rate, batch_size
        self.seed, self.augment = seed, augment
        self._shared_ends = SharedArray(np.cumsum(_clip_weights(measured, balance)))
        self._free_bytes = cache_bytes if cache else 0
        self._cache: dict[int, npt.NDArray[np.int16]] = {}
        self._skipped: set[int] = set()  # indices of clips that cannot be read at all: not tried again
        self._lock = threading.Lock()
        if not len(measured) or not self._ends[-1] > 0:
            raise self.no_readable_clips()

    @property
    def _ends(self) -> npt.NDArray[np.float64]:
        """Cumulative sum `[M]` of the weights of the clips."""
        return self._shared_ends.values

    @property
    def failures(self) -> tuple[ClipFailure, ...]:
        """Clips that could not be read; failures of the corpus come first."""
        return self.corpus.failures + tuple(self._failures[index] for index in sorted(self._failures))

    def __getstate__(self) -> dict[str, Any]:
        """State for another process, without the cache."""
        free = self._free_bytes + sum(samples.nbytes for samples in self._cache.values())
        return {**self.__dict__, "_lock": None, "_cache": {}, "_free_bytes": free}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def unreadable(self) -> dict[int, ClipFailure]:
        """Clips that could not be read, by their indices in the corpus."""
        return dict(self._failures)

    def add_failures(self, unreadable: Mapping[int, ClipFailure]) -> None:
        """Add the `unreadable` clips of a worker process."""
        self._failures.update(unreadable)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> FloatArray:
        """Return the audio `[B, 1, S]` of a step for process `rank` of `world`."""
        return self.cut_batch(step, rank, world)[0]

    def cut_batch(self, step: int, rank: int = 0, world: int = 1) -> tuple[FloatArray, list[int]]:
        """Return the result of `batch` and the index of each item's clip in the corpus."""
        assert 0 <= rank < world, f"rank {rank} of {world} processes"
        first = rank * self.batch_size
        items = [self.item(step, first + b) for b in range(self.batch_size)]
        return np.stack([item.wav for item in items])[:, None, :], [item.clip for item in items]  # [B, 1, S]

    def item(self, step: int, index: int) -> Item:
        """Return item `index` of the whole batch of a step; depends only on (seed, step, index)."""
        draw = self.draw(step, index)
        for clip in self.candidates(step, index):
            segment = self._segment(clip, draw.position, draw.length)
            if segment is not None:
                return Item(augment_segment(resample(segment, draw.length, self.segment_samples), draw), clip)
        raise self.no_readable_clips()

    def draw(self, step: int, index: int) -> Draw:
        """Draw the parameters of item `index` of the whole batch of a step."""
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
        """Yield the clips to try for item `index` of a step, in order.

        The first is the clip of `draw`. Up to `MAX_REDRAWS` others follow, drawn from the remaining clips,
        and finally all remaining clips, starting at a random one.
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

    def decode(self, index: int) -> npt.NDArray[np.int16] | None:
        """Decode a clip to 16-bit samples `[S]`. On failure, records it and returns None."""
        try:
            return self._read(index)
        except (AudioError, OSError) as error:
            self._record_failure(index, error, whole_clip=True)
            return None

    def _generator(self, step: int, index: int) -> np.random.Generator:
        # Use only `random()`: NumPy guarantees the streams of bit generators, but not of distributions.
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, step, index))))

    def _clip_at(self, at: float, excluded: Sequence[int] = ()) -> int:
        """Return the clip at `at` (0 … 1) in the cumulative weights of all clips that are not excluded."""
        begins = {index: float(self._ends[index - 1]) if index else 0.0 for index in excluded}
        position = at * (self._ends[-1] - sum(self._ends[index] - begin for index, begin in begins.items()))
        for index in sorted(begins):
            if position >= begins[index]:
                position += self._ends[index] - begins[index]
        return min(int(np.searchsorted(self._ends, position, side="right")), len(self._ends) - 1)

    def _segment(self, index: int, position: float, length: int) -> FloatArray | None:
        """Cut a segment `[length]` of a clip. On failure, records it and returns None."""
        if index in self._skipped:
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
            # Another part of a long clip may be readable. A step must not depend on earlier steps.
            self._record_failure(index, error, whole_clip=not is_long)
            return None

    def _read(self, index: int) -> npt.NDArray[np.int16]:
        return _to_int16(self.corpus[index].read(self.sample_rate, longest_s=MAX_DECODED_S))

    def _record_failure(self, index: int, error: Exception, *, whole_clip: bool) -> None:
        clip = self.corpus[index]
        with self._lock:
            self._failures.setdefault(index, ClipFailure(clip.id, clip.path, str(error)))
            if whole_clip:
                self._skipped.add(index)

    def _cached_samples(self, index: int) -> npt.NDArray[np.int16]:
        """Return all samples `[S]` of a clip, 16 bits, and cache them if they fit.

        The cache evicts nothing: draws are random, so all clips are equally likely to be needed next.
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
        """Whether to read only the segment from the file; independent of the state of the cache."""
        longest_s = LONG_CLIP_S + self.augment.speed[1] * self.segment_samples / self.sample_rate
        seekable = clip.source is None and clip.path.suffix.lower() in SEEKABLE_SUFFIXES
        return (clip.duration_s or 0.0) > longest_s and seekable

    def _read_part(self, clip: Clip, position: float, length: int) -> FloatArray:
        """Read only a segment `[length]` of a clip that is too long for the cache."""
        assert clip.duration_s is not None, "measured() fills it"
        length_s = length / self.sample_rate
        start_s = clip.start_s + position * (clip.duration_s - length_s)
        before_s = min(start_s, MARGIN_S)
        audio = clip.audio.read(start_s=start_s - before_s, duration_s=before_s + length_s + MARGIN_S)
        samples = resample(clip.mono(audio), audio.sample_rate, self.sample_rate)
        first = round(before_s * self.sample_rate)
        return _cut(_to_int16(samples[first : first + length]), length, 0.0)

    def no_readable_clips(self) -> CorpusError:
        """Return the error for a corpus without readable clips."""
        failures = self.failures
        first = f" The first: {failures[0].error}" if failures else ""
        return CorpusError(
            f"corpus {self.corpus.name!r}: none of its {len(failures)} clips can be read.{first}"
        )


def _clip_weights(corpus: Corpus, balance: float) -> npt.NDArray[np.float64]:
    """Return the weights `[M]` of the clips: d / (seconds of the speaker)^balance, d the clip's seconds."""
    clips = corpus.lazy_clips
    durations_s = np.nan_to_num(clips.durations_s, nan=0.0)
    if balance == 0:
        return durations_s
    speaker_s = np.bincount(clips.speaker_codes, durations_s, minlength=len(clips.speakers))
    return durations_s / np.maximum(speaker_s, 1e-9)[clips.speaker_codes] ** balance


def augment_segment(segment: FloatArray, draw: Draw) -> FloatArray:
    """Apply the drawn tilt, gain and sign to a segment `[S]`."""
    if draw.tilt_db:
        segment = tilt_segment(segment, draw.tilt_db)
    scale = 10 ** (draw.gain_db / 20)
    peak = float(np.abs(segment).max(initial=0.0))
    scale = min(scale, 1 / peak) if peak > 0 else scale
    return segment * np.float32(-scale if draw.flipped else scale)


def tilt_segment(segment: FloatArray, tilt_db: float) -> FloatArray:
    """Raise the Nyquist frequency of a segment `[S]` by `tilt_db` relative to 0 Hz; preserves the energy.

    y[n] = x[n] + a x[n - 1] has gain 1 + a at 0 Hz and 1 - a at the Nyquist frequency. Their ratio
    r = 10^(tilt / 20) = (1 - a) / (1 + a) gives a = (1 - r) / (1 + r).
    """
    a = np.float32(tilt_coefficient(tilt_db))
    out = segment.copy()
    out[1:] += a * segment[:-1]
    energy = float(np.dot(out, out))
    return out * np.float32((float(np.dot(segment, segment)) / energy) ** 0.5) if energy > 0 else out


def tilt_coefficient(tilt_db: float) -> float:
    """The filter coefficient a of `tilt_segment`."""
    ratio = 10 ** (tilt_db / 20)
    return (1 - ratio) / (1 + ratio)


def _cut(samples: npt.NDArray[np.int16], length: int, position: float) -> FloatArray:
    """Cut `length` float32 samples at `position` (0 … 1). A shorter clip is placed in silence."""
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
