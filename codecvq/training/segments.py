"""Training batches as a pure function of seed, step and rank.

Item i of step s is drawn by a generator seeded with (seed, s, i): no sampler state is to be saved, a resumed
training sees the batches that it would have seen, and W processes with B items each see, together, what one
process with W * B items sees.

A clip is drawn in proportion to its length and cut at a random place, so that every second of speech is about
as likely as every other; `balance` moves that towards every speaker being as likely as every other. Clips are
decoded and resampled once and kept as 16-bit integers while they fit; what is not kept passes through 16 bits
all the same, so that no sample depends on what the cache holds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codecvq.audio import SEEKABLE_SUFFIXES, read_audio, resample, to_mono
from codecvq.errors import AudioError, CorpusError, OptionError
from codecvq.training.corpus import Clip, ClipFailure, Corpus

FloatArray = npt.NDArray[np.float32]

LONG_CLIP_S = 60.0  # beyond it, where the format can seek, only the segment is read, with a margin
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
        if not low <= high:
            raise OptionError(f"augment.gain_db is [{low:g}, {high:g}], but the lower end must come first.")
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
    place: float  # 0 … 1, of the segment in the clip
    length: int  # samples that are taken, and played faster or slower to last as long as a segment
    tilt_db: float
    gain_db: float
    flipped: bool  # the sign


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
        if not len(corpus):
            raise CorpusError(
                f"corpus {corpus.name!r} has no clips to draw from. Add clips, or take another split."
            )
        measured = corpus.measured()
        self.corpus, self.sample_rate, self.batch_size = measured, sample_rate, batch_size
        self.seed, self.augment = seed, augment
        self._ends = np.cumsum(_shares(measured, balance))
        self._free_bytes = cache_bytes if cache else 0
        self._cache: dict[int, npt.NDArray[np.int16]] = {}
        self._bad: dict[int, ClipFailure] = {}
        self._lock = threading.Lock()
        if not len(measured) or not self._ends[-1] > 0:
            raise self._nothing_readable()

    @property
    def failures(self) -> tuple[ClipFailure, ...]:
        """Clips that could not be read so far, first those without a readable header."""
        return self.corpus.failures + tuple(self._bad[index] for index in sorted(self._bad))

    def __getstate__(self) -> dict[str, Any]:
        """For another process: it decodes for itself."""
        free = self._free_bytes + sum(samples.nbytes for samples in self._cache.values())
        return {**self.__dict__, "_lock": None, "_cache": {}, "_free_bytes": free}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def note_failures(self, failures: Iterable[ClipFailure]) -> None:
        """Add what a worker process could not read."""
        indices = {failure.id: failure for failure in failures}
        known = {clip.id: index for index, clip in enumerate(self.corpus)} if indices else {}
        self._bad.update({known[id_]: failure for id_, failure in indices.items() if id_ in known})

    def batch(self, step: int, rank: int = 0, world: int = 1) -> FloatArray:
        """The audio `[B, 1, S]` of a step for one of `world` processes; all ranks' together are the step."""
        assert 0 <= rank < world, f"rank {rank} of {world} processes"
        first = rank * self.batch_size
        return np.stack([self.item(step, first + b) for b in range(self.batch_size)])[:, None, :]  # [B, 1, S]

    def item(self, step: int, index: int) -> FloatArray:
        """Item `index` of the whole batch of a step, `[S]`; a function of (seed, step, index) alone."""
        drawn = self.draw(step, index)
        segment = self._segment(drawn.clip, drawn.place, drawn.length)
        return augmented(resample(segment, drawn.length, self.segment_samples), drawn)

    def draw(self, step: int, index: int) -> Draw:
        """What is drawn for item `index` of the whole batch of a step."""
        # Only `random()` is drawn: numpy keeps the streams of its bit generators, not of its distributions.
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, step, index))))
        clip_at, place, speed, tilt, gain, sign = rng.random(6)
        clip = int(np.searchsorted(self._ends, clip_at * self._ends[-1], side="right"))
        slow, fast = self.augment.speed
        low, high = self.augment.gain_db
        return Draw(
            clip=min(clip, len(self._ends) - 1),
            place=place,
            length=round(self.segment_samples * (slow + speed * (fast - slow))),
            tilt_db=(2 * tilt - 1) * self.augment.tilt_db,
            gain_db=low + gain * (high - low),
            flipped=bool(sign < self.augment.polarity),
        )

    def decoded(self, index: int) -> tuple[int, npt.NDArray[np.int16]]:
        """All samples `[S]` of a clip, 16 bits, and its index: of the next in the corpus that can be read."""
        for offset in range(len(self.corpus)):
            at = (index + offset) % len(self.corpus)
            if at in self._bad:
                continue
            try:
                return at, _to_int16(self.corpus[at].read(self.sample_rate))
            except (AudioError, OSError) as error:
                self._note(at, error)
        raise self._nothing_readable()

    def _segment(self, drawn: int, place: float, length: int) -> FloatArray:
        """A segment `[length]` of the clip drawn, or of the next in the corpus that can be read."""
        for offset in range(len(self.corpus)):
            index = (drawn + offset) % len(self.corpus)
            if index in self._bad:
                continue
            clip = self.corpus[index]
            try:
                if self._is_long(clip):
                    return self._part_of_long(clip, place, length)
                return _cut(self._kept(index), length, place)
            except (AudioError, OSError) as error:
                self._note(index, error)
        raise self._nothing_readable()

    def _note(self, index: int, error: Exception) -> None:
        clip = self.corpus[index]
        with self._lock:
            self._bad[index] = ClipFailure(clip.id, clip.path, str(error))

    def _kept(self, index: int) -> npt.NDArray[np.int16]:
        """All samples of a clip `[S]`, 16 bits; kept while they fit.

        Nothing is evicted for another: with random draws, what goes is needed as soon as what comes.
        """
        kept = self._cache.get(index)
        if kept is not None:
            return kept
        samples = _to_int16(self.corpus[index].read(self.sample_rate))
        with self._lock:
            if index not in self._cache and samples.nbytes <= self._free_bytes:
                self._cache[index] = samples
                self._free_bytes -= samples.nbytes
        return samples

    def _is_long(self, clip: Clip) -> bool:
        """Whether a segment is read from the file by itself: a property of the clip, not of what is kept."""
        longest_s = LONG_CLIP_S + self.augment.speed[1] * self.segment_samples / self.sample_rate
        return (clip.duration_s or 0.0) > longest_s and clip.path.suffix.lower() in SEEKABLE_SUFFIXES

    def _part_of_long(self, clip: Clip, place: float, length: int) -> FloatArray:
        """A segment `[length]` of a clip too long to keep, read from the file by itself."""
        assert clip.duration_s is not None, "measured() fills it"
        length_s = length / self.sample_rate
        start_s = clip.start_s + place * (clip.duration_s - length_s)
        before_s = min(start_s, MARGIN_S)
        audio = read_audio(clip.path, start_s=start_s - before_s, duration_s=before_s + length_s + MARGIN_S)
        samples = resample(to_mono(audio.samples), audio.sample_rate, self.sample_rate)
        first = round(before_s * self.sample_rate)
        return _cut(_to_int16(samples[first : first + length]), length, 0.0)

    def _nothing_readable(self) -> CorpusError:
        failures = self.failures
        first = f" The first: {failures[0].error}" if failures else ""
        return CorpusError(
            f"corpus {self.corpus.name!r}: none of its {len(failures)} clips can be read.{first}"
        )


def _shares(corpus: Corpus, balance: float) -> npt.NDArray[np.float64]:
    """How likely each clip `[M]` is, up to a factor: d / (seconds of its speaker)^balance, d its seconds."""
    durations_s = np.array([clip.duration_s or 0.0 for clip in corpus], dtype=np.float64)
    speaker_s: dict[str, float] = {}
    for clip in corpus:
        speaker_s[clip.speaker] = speaker_s.get(clip.speaker, 0.0) + (clip.duration_s or 0.0)
    totals_s = np.array([speaker_s[clip.speaker] for clip in corpus], dtype=np.float64)
    return durations_s / np.maximum(totals_s, 1e-9) ** balance


def augmented(segment: FloatArray, drawn: Draw) -> FloatArray:
    """The segment `[S]` with the tilt, gain and sign that were drawn."""
    if drawn.tilt_db:
        segment = tilted(segment, drawn.tilt_db)
    scale = 10 ** (drawn.gain_db / 20)
    peak = float(np.abs(segment).max(initial=0.0))
    scale = min(scale, 1 / peak) if peak > 0 else scale
    return segment * np.float32(-scale if drawn.flipped else scale)


def tilted(segment: FloatArray, tilt_db: float) -> FloatArray:
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
    """a of `tilted`."""
    ratio = 10 ** (tilt_db / 20)
    return (1 - ratio) / (1 + ratio)


def _cut(samples: npt.NDArray[np.int16], length: int, place: float) -> FloatArray:
    """`length` samples, float32, from a random place; a shorter clip stands at a random place in silence."""
    room = len(samples) - length
    if room >= 0:
        start = int(place * (room + 1))
        return samples[start : start + length].astype(np.float32) / np.float32(32768)
    segment = np.zeros(length, dtype=np.float32)
    start = int(place * (1 - room))
    segment[start : start + len(samples)] = samples.astype(np.float32) / np.float32(32768)
    return segment


def _to_int16(samples: FloatArray) -> npt.NDArray[np.int16]:
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
