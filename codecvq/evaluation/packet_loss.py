"""`PacketLoss`: a random and repeatable loss of packets, equal for all codecs."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from codecvq.errors import OptionError

MAX_BURST = 1000.0  # packets


@dataclass(frozen=True)
class PacketLoss:
    """Loss of `percent` of all packets, each with the frames that begin in its `packet_ms` milliseconds.

    Packets are lost independently, or with `burst` in runs of this mean length (Gilbert model). The packets
    of a clip depend on `seed` and its samples: they are the same for all codecs. Without bursts, packets that
    are lost at some percentage are also lost at a higher one. Raises OptionError for invalid values.

    Source: E. N. Gilbert, "Capacity of a burst-noise channel", 1960.
    """

    percent: float
    packet_ms: float = 20.0
    burst: float | None = None  # mean number of packets that are lost in a row; None: independent losses
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.percent < 100:
            raise OptionError(f"loss is {self.percent:g} %; give percentages from 0 to below 100.")
        if not 1 <= self.packet_ms <= 10_000:
            raise OptionError(f"packet_ms is {self.packet_ms:g}; give a length from 1 to 10000 ms.")
        if self.burst is not None and not 1 <= self.burst <= MAX_BURST:
            raise OptionError(
                f"burst is {self.burst:g}; give a mean run length from 1 to {MAX_BURST:g} packets."
            )
        if self.burst is not None and self._begins > 1:
            raise OptionError(
                f"a loss of {self.percent:g} % with runs of {self.burst:g} packets is impossible. Give a "
                f"burst of at least {self.percent / (100 - self.percent):.3g}."
            )
        if self.seed < 0:
            raise OptionError(f"seed is {self.seed}; give a whole number from 0 up.")

    def lost_frames(
        self, samples: npt.NDArray[np.float32], frames: int, frame_s: Fraction | float
    ) -> npt.NDArray[np.bool_]:
        """Return which of the frames `[T]` of a clip `[S]` are lost; a frame takes `frame_s` seconds."""
        packet_s = Fraction(self.packet_ms).limit_denominator(1000) / 1000
        packets = np.array(
            [math.floor(t * Fraction(frame_s) / packet_s) for t in range(frames)], dtype=np.int64
        )
        count = int(packets[-1]) + 1 if frames else 0
        generator = np.random.default_rng([self.seed, zlib.crc32(np.ascontiguousarray(samples).tobytes())])
        lost: npt.NDArray[np.bool_] = self._lost_packets(generator.random(count))[packets]
        return lost

    def _lost_packets(self, draws: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Return which packets are lost, for uniform numbers from 0 to 1."""
        rate = self.percent / 100
        if self.burst is None:
            return draws < rate
        lost = np.zeros(draws.size, dtype=bool)
        state = False
        for index, draw in enumerate(draws):
            likelihood = rate if index == 0 else 1 - 1 / self.burst if state else self._begins
            lost[index] = state = bool(draw < likelihood)
        return lost

    @property
    def _begins(self) -> float:
        """Probability that a packet is lost after one that is not."""
        assert self.burst is not None
        return self.percent / (100 - self.percent) / self.burst
