"""`Windows`: streaming of any module with a finite receptive field, by overlapping windows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from codecvq.api.reach import Reach
from codecvq.errors import StreamingError
from codecvq.streaming.module import StreamingModule, append
from codecvq.streaming.state import State, number_of, tensor_of


class Windows(StreamingModule):
    """Calls a module on windows that contain the context of their frames.

    A frame is `samples_in` input elements and `samples_out` output elements. Its output is returned as soon
    as the input contains its lookahead. Windows do not extend beyond the ends of the recording, so the
    function pads them like the whole recording.

    Args:
        function: Maps `[B, X, T * samples_in]` to `[B, Y, T * samples_out]`, for T ≥ 1.
        reach: Left context and lookahead of a frame, in input elements.
        samples_in: Input elements per frame.
        samples_out: Output elements per frame.
        block: Number of frames that belong together. Windows start at multiples of it, and frames are
            returned in multiples of it; only the last block can be shorter.
        frames_at_once: Number of frames that are computed together, if the recording does not end. More
            frames share one context but are delayed.

    Raises StreamingError for an unlimited left context.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        reach: Reach,
        *,
        samples_in: int = 1,
        samples_out: int = 1,
        block: int = 1,
        frames_at_once: int = 1,
    ) -> None:
        if reach.past is None:
            raise StreamingError(
                "its left context is unlimited, so windows cannot contain it. Define as_stream(), which "
                "returns a codecvq.streaming.StreamingModule."
            )
        self.function, self.samples_in, self.samples_out, self.block = (
            function,
            samples_in,
            samples_out,
            block,
        )
        frames = -(-reach.past // samples_in)
        self.context = -(-frames // block) * block  # frames of left context
        self.lookahead = reach.future  # input elements
        self.frames_at_once = frames_at_once

    def start(self, device: torch.device) -> State:
        """Return an empty buffer: input elements, and the number of frames in it that are already done."""
        return {"input": torch.zeros(1, 0, 0, device=device), "done": 0}

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Return the output of all frames whose lookahead is complete."""
        before, done = tensor_of(state, "input"), number_of(state, "done")
        signal = append(before, block)
        frames = signal.shape[2] // self.samples_in
        if not last:
            frames = (signal.shape[2] - self.lookahead) // self.samples_in
            frames -= max(0, frames - done) % self.block
        if frames <= done or (frames - done < self.frames_at_once and not last):
            return signal[:, :, :0], {"input": signal, "done": done}
        end = signal.shape[2] if last else frames * self.samples_in + self.lookahead
        window = torch.nn.functional.pad(signal[:, :, :end], (0, -end % self.samples_in))
        output = self.function(window)[:, :, done * self.samples_out : frames * self.samples_out]
        kept = min(self.context, frames)
        return output, {"input": signal[:, :, (frames - kept) * self.samples_in :], "done": kept}
