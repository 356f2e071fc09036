"""All audio of a corpus in device memory, where segments are cut and augmented.

Random draws come from `Segments`, so a step has the same segments, gain, tilt, sign and speed as on the
CPU. Only the resampling filter for the speed differs. Signal x played r times as fast is

    y[n] = Σ_k x[k] c sinc(c (r n - k)) w(c (r n - k) / Z),      c = min(1, 1/r)

with the window w(u) = cos²(πu/2) over Z = 16 zero crossings on either side. (soxr uses a longer filter.)
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from codecvq.data.segments import Segments, tilt_coefficient
from codecvq.errors import CorpusError
from codecvq.transfer import to_device

ZEROS = 16  # Z
MAX_PRODUCTS = 2**24  # products of samples and filter taps at a time: 64 MB
MAX_MEMORY_SHARE = 0.5  # maximum share of the memory that is free at the start


class DeviceSegments:
    """Batches of equally long segments, created on a device.

    The audio takes two bytes per sample in device memory: 115 MB per hour at 16 kHz. Raises CorpusError if
    this exceeds half of the free memory, or if no clip can be read.
    """

    def __init__(self, segments: Segments, device: torch.device) -> None:
        self.segments, self.device = segments, device
        self._check_memory()
        with ThreadPoolExecutor() as pool:
            decoded = dict(enumerate(pool.map(segments.decode, range(len(segments.corpus)))))
        readable = {index: samples for index, samples in decoded.items() if samples is not None}
        if not readable:
            raise segments.no_readable_clips()
        sizes = {index: len(samples) for index, samples in readable.items()}
        begins = np.cumsum([0, *sizes.values()]).tolist()
        #: index of a readable clip -> its offset in `_speech` and its number of samples
        self._extents = {index: (begin, sizes[index]) for index, begin in zip(readable, begins, strict=False)}
        self._speech = torch.from_numpy(np.concatenate(list(readable.values()))).to(device)  # [all] int16

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """Return the audio `[B, 1, S]` of a step for process `rank` of `world`."""
        return self.render(self.plan(step, rank, world))

    def plan(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """Draw the parameters of a step for `render`: float64 `[8, B]` on the CPU.

        A column belongs to an item. The last row has the index of the clip of each item.
        """
        first = rank * self.segments.batch_size
        rows = []
        for item in range(first, first + self.segments.batch_size):
            draw = self.segments.draw(step, item)
            clip = next(index for index in self.segments.candidates(step, item) if index in self._extents)
            begin, size = self._extents[clip]
            room = size - draw.length
            # a clip shorter than its segment is placed at a random position in silence
            start = int(draw.position * (room + 1)) if room >= 0 else -int(draw.position * (1 - room))
            gain = 10 ** (draw.gain_db / 20) * (-1 if draw.flipped else 1)
            tilt = tilt_coefficient(draw.tilt_db)
            rows.append((begin, size, start, draw.length, tilt, gain, draw.tilt_db, clip))
        return torch.tensor(rows, dtype=torch.float64).T.contiguous()

    @torch.no_grad()
    def render(self, plan: Tensor) -> Tensor:
        """Return the audio `[B, 1, S]` of `plan` on the device, without synchronizing with it."""
        begin, size, start, length, tilt, gain, tilt_db = to_device(plan[:7], self.device)[..., None].unbind()
        longest = int(plan[3].max())
        offset = torch.arange(longest, device=self.device)
        inside = (offset < length) & (start + offset >= 0) & (start + offset < size)
        source = torch.where(inside, begin + start + offset, 0.0).long()
        wav = self._speech[source].float() / 32768 * inside  # [B, longest]
        if self.segments.augment.speed != (1.0, 1.0):
            wav = change_speed(
                wav, length[:, 0] / self.segments.segment_samples, self.segments.segment_samples
            )
        filtered = wav.clone()
        filtered[:, 1:] += tilt.float() * wav[:, :-1]
        energy = filtered.square().sum(dim=1, keepdim=True)
        energy_scale = (wav.square().sum(dim=1, keepdim=True) / energy).sqrt()
        wav = torch.where((tilt_db != 0) & (energy > 0), filtered * energy_scale, wav)
        peak = wav.abs().amax(dim=1, keepdim=True)
        scale = torch.where(peak > 0, torch.minimum(gain.abs().float(), 1 / peak), gain.abs().float())
        return (wav * scale * gain.sign().float())[:, None]

    def _check_memory(self) -> None:
        if self.device.type != "cuda":
            return
        needed = 2 * self.segments.corpus.duration_s * self.segments.sample_rate
        free = torch.cuda.mem_get_info(self.device)[0]
        if needed > MAX_MEMORY_SHARE * free:
            raise CorpusError(
                f"corpus {self.segments.corpus.name!r} needs {needed / 1e9:.1f} GB on {self.device}, but at "
                f"most half of the {free / 1e9:.1f} GB free may be used. Set corpus.cache=memory."
            )


def change_speed(wav: Tensor, speed: Tensor, samples: int) -> Tensor:
    """Change the speed of signals `[B, S]` by the factors `speed` `[B]`: `[B, samples]`.

    A factor above 1 makes a signal faster.
    """
    max_speed = wav.shape[1] / samples  # from shapes: no synchronization with the device
    half_width = int(ZEROS * max(1.0, max_speed)) + 1
    taps = torch.arange(-half_width, half_width + 1, device=wav.device)
    padded = torch.nn.functional.pad(wav, (half_width, half_width + 1))
    rows = max(1, MAX_PRODUCTS // (samples * len(taps)))
    parts = []
    for signals, rates in zip(padded.split(rows), speed.split(rows), strict=True):
        times = torch.arange(samples, device=wav.device) * rates[:, None]  # [b, samples], float64
        whole = times.floor()
        cutoff = rates.clamp(min=1).reciprocal().float()[:, None, None]
        distance = cutoff * ((times - whole).float()[..., None] - taps)  # [b, samples, taps]
        filters = (
            cutoff * torch.sinc(distance) * torch.cos(torch.pi / 2 * (distance / ZEROS).clamp(-1, 1)).square()
        )
        index = (whole.long()[..., None] + taps + half_width).clamp(max=padded.shape[1] - 1)
        near = signals.gather(1, index.flatten(1)).view_as(filters)
        parts.append((near * filters).sum(dim=2))
    return torch.cat(parts)
