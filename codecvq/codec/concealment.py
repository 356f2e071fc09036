"""`Concealment`: codes and gains in place of frames that were lost on the way to a decoder.

Codes are continued from the last ones (by repetition, or by the codec), so that the decoder runs on without a
jump. The audio of lost frames fades out, because a sound that is held for long is worse than silence, and
fades in after the loss.

Letters: C channels, N codebooks, S samples, T frames.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codecvq.arguments import INTEGERS
from codecvq.errors import CodecError, ShapeError
from codecvq.streaming import State, number_of, tensor_of

if TYPE_CHECKING:
    from codecvq.codec.framed import FramedCodec

FADE_IN_S = 0.01  # seconds from silence to the full level after a loss
FADES = 10  # fading out takes this multiple of the time of fading in: 100 ms
HISTORY_S = 0.2  # seconds of codes that a codec gets to continue


class Concealment:
    """Conceals lost frames of streams of one codec. `start` returns the state of a stream.

    Positions count the frames that the decoder gets. The gain is a whole number of steps, so that it does not
    depend on the division of a recording into blocks.
    """

    def __init__(self, codec: FramedCodec) -> None:
        self._codec, self._hop, self._block = codec, codec.hop_length, math.lcm(*codec.strides)
        self._full = FADES * max(1, round(FADE_IN_S * codec.sample_rate))  # gain 1, in steps
        self._history_frames = max(self._block, math.ceil(HISTORY_S * codec.frame_rate))  # frames

    def start(self, device: torch.device) -> State:
        """Return the state of a new stream."""
        return {
            # the last codes [1, n, k]
            "history": torch.zeros(1, 0, 0, dtype=torch.int64, device=device),
            # start and end of losses that are not output yet
            "runs": torch.zeros(1, 0, 2, dtype=torch.int64),
            "lost_until": 0,  # position after the last lost frame
            "leading": 0,  # frames that were lost before the first received one
            "skipped": 0,  # samples to discard from the output of the decoder
            "samples": 0,  # output of the decoder until now
            "gain": self._full,  # of the last sample, in steps
        }

    def received(self, codes: Tensor, position: int, state: State) -> tuple[Tensor, State]:
        """Return the codes `[1, n, T]` for the decoder, and the new state.

        A code of a stride belongs to the first frame of its block. If a loss cut this block, its code is
        continued to its end. Raises ShapeError if n changes.
        """
        if not codes.shape[2]:
            return codes, state
        history, leading = tensor_of(state, "history"), number_of(state, "leading")
        if history.shape[2] and history.shape[1] != codes.shape[1]:
            raise ShapeError(
                f"codes have {codes.shape[1]} codebooks, but the recording began with {history.shape[1]}. "
                "Flush or reset the stream before a change."
            )
        if leading and not position:  # silence was output; blocks of strides begin at the right position
            missing = leading % self._block
            codes = torch.cat([codes[:, :, :1].expand(-1, -1, missing), codes], dim=2)
            state = {**state, "leading": 0, "skipped": missing * self._hop, "gain": 0}
            state = self._with_run(state, 0, missing)
        else:
            codes = self._completed(codes, position, state)
        return codes, self._remembered(codes, state)

    def lost(self, frames: int, position: int, state: State) -> tuple[Tensor, int, State]:
        """Return codes `[1, n, T]` of a loss, the samples of silence to output now, and the state.

        Before the first received frame there are no codes, and the output is silence.
        """
        history = tensor_of(state, "history")
        if not frames or not position:
            leading = number_of(state, "leading") + frames
            return history[:, :, :0], frames * self._hop, {**state, "leading": leading}
        state = self._with_run(state, position, position + frames)
        codes = self._continued(history, frames)
        for book, stride in enumerate(self._codec.strides[: codes.shape[1]]):
            if stride > 1:  # the first code of each block
                at = torch.arange(position, position + frames, device=codes.device)
                codes[:, book] = codes[:, book, (at // stride * stride - position).clamp(min=0)]
        codes = self._completed(codes, position, state)
        return codes, 0, self._remembered(codes, state)

    def faded(self, samples: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the next decoded samples `[1, C, S]` with the gain of its frames, and the new state."""
        runs, gain, skipped = tensor_of(state, "runs"), number_of(state, "gain"), number_of(state, "skipped")
        start = number_of(state, "samples")
        end = start + samples.shape[2]
        state = {**state, "samples": end}
        if not runs.shape[1] and gain == self._full and not skipped:
            return samples, state
        steps, at = [], start
        bounds = [(first * self._hop, last * self._hop) for first, last in runs[0].tolist()]
        for first, last in bounds:
            received, at = self._rise(gain, min(first, end) - at), max(at, min(first, end))
            gain = int(received[-1]) if len(received) else gain
            lost, at = self._fall(gain, min(last, end) - at), max(at, min(last, end))
            gain = int(lost[-1]) if len(lost) else gain
            steps += [received, lost]
        steps.append(self._rise(gain, end - at))
        whole = torch.cat(steps)
        state["gain"] = int(whole[-1]) if len(whole) else gain
        state["runs"] = runs[:, torch.tensor([last > end for _, last in bounds], dtype=torch.bool)]
        state["skipped"] = max(0, skipped - samples.shape[2])
        return (samples * (whole / self._full).to(samples))[:, :, skipped:], state

    def _rise(self, gain: int, samples: int) -> Tensor:
        return (gain + FADES * torch.arange(1, max(0, samples) + 1)).clamp(max=self._full)

    def _fall(self, gain: int, samples: int) -> Tensor:
        return (gain - torch.arange(1, max(0, samples) + 1)).clamp(min=0)

    def _continued(self, history: Tensor, frames: int) -> Tensor:
        """Return `frames` codes after a history, from the codec. Raises CodecError if they are invalid."""
        conceal = getattr(self._codec, "conceal", repeat_last)  # third-party codecs may lack it
        codes = conceal(history, frames)
        shape = (1, history.shape[1], frames)
        if not isinstance(codes, Tensor) or codes.dtype not in INTEGERS or codes.shape != shape:
            found = (
                f"{codes.dtype} {list(codes.shape)}" if isinstance(codes, Tensor) else type(codes).__name__
            )
            raise CodecError(
                f"codec {self._codec.name!r} conceals lost frames with {found}; needed are integers "
                f"{list(shape)}. Correct conceal of {type(self._codec).__name__}."
            )
        return codes.to(history, copy=True)

    def _completed(self, codes: Tensor, position: int, state: State) -> Tensor:
        """Return the codes with the code of each block that a loss cut, up to the end of the block."""
        history, lost_until = tensor_of(state, "history"), number_of(state, "lost_until")
        strides = self._codec.strides[: codes.shape[1]]
        for book, stride in enumerate(strides):
            start = position // stride * stride
            if start < lost_until and start < position:
                codes = codes.clone()
                codes[:, book, : start + stride - position] = history[:, book, -1:]
        return codes

    def _remembered(self, codes: Tensor, state: State) -> State:
        history = tensor_of(state, "history")
        joined = torch.cat([history, codes], dim=2) if history.shape[2] else codes
        return {**state, "history": joined[:, :, -self._history_frames :].clone()}

    def _with_run(self, state: State, start: int, end: int) -> State:
        """Return the state with a loss of the frames `start` to `end`."""
        if start == end:
            return state
        runs = torch.cat([tensor_of(state, "runs").cpu(), torch.tensor([[[start, end]]])], dim=1)
        return {**state, "runs": runs, "lost_until": end}


def repeat_last(codes: Tensor, frames: int) -> Tensor:
    """Return the last of the codes `[B, n, k]` repeated to `[B, n, frames]`."""
    return codes[:, :, -1:].expand(-1, -1, frames)
