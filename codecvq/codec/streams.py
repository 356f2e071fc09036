"""`StreamEncoder` and `StreamDecoder`: audio to codes and back, block by block.

The codes and samples of all blocks together equal those of the whole recording, for any partition into
blocks. Letters: B streams, C channels, N codebooks, S samples, T frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from codecvq.arguments import as_integer, checked_codes, checked_lengths, checked_wav
from codecvq.codec.concealment import Concealment
from codecvq.errors import ShapeError
from codecvq.numerics import plain_float32
from codecvq.streaming import State, StreamingModule, Streams, StreamState, number_of, state_of

if TYPE_CHECKING:
    from codecvq.codec.framed import FramedCodec

#: Frames that are processed at once. It bounds the memory that a large block takes.
MAX_FRAMES = 512


class CodecStream(ABC):
    """Independent streams of one codec; the common part of `StreamEncoder` and `StreamDecoder`.

    Each stream can begin, end and be reset by itself. After a flush, the next push begins a new recording.
    A call that raises changes no stream.
    """

    def __init__(self, codec: FramedCodec, module: StreamingModule, batch: int, per_frame: int) -> None:
        count = as_integer(batch)
        if count is None or count < 1:
            raise ShapeError(
                f"batch is {batch!r}; needed is the number of streams, a whole number from 1 up."
            )
        self.codec, self.batch, self.device = codec, count, codec.device
        self._streams, self._per_frame = Streams(module), per_frame  # input elements per frame
        self._states = [self._new_state() for _ in range(count)]
        #: Number of valid elements of each stream in the last result, int64 `[B]`. Later elements are 0.
        self.output_lengths = torch.zeros(count, dtype=torch.int64)

    @property
    def state(self) -> StreamState:
        """State of all streams. Set it to continue from an earlier state of the same codec."""
        return StreamState(tuple(self._states))

    @state.setter
    def state(self, state: StreamState) -> None:
        if len(state.streams) != self.batch:
            raise ShapeError(
                f"the state has {len(state.streams)} streams, and this object {self.batch}. Make a "
                f"{type(self).__name__} with batch={len(state.streams)}."
            )
        self._states = list(state.to(self.device).streams)

    def reset(self, items: Sequence[int] | None = None) -> None:
        """Discard the recordings of all streams, or of the streams with the indices `items`."""
        for index in self._checked_items(items):
            self._states[index] = self._new_state()

    def _flush(self, items: Sequence[int] | None, nothing: Tensor) -> Tensor:
        """End recordings, and return the remaining output; `nothing` is an output `[1, Y, 0]`."""
        ending = set(self._checked_items(items))
        blocks = [
            self._last_block(state) if index in ending else nothing[:, :, :0]
            for index, state in enumerate(self._states)
        ]
        return self._advance(blocks, [index in ending for index in range(self.batch)], nothing)

    @torch.no_grad()
    def _advance(
        self,
        blocks: Sequence[Tensor],
        ending: Sequence[bool],
        nothing: Tensor,
        states: Sequence[State] | None = None,
        first: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Process a block `[1, X, n]` of each stream; n can differ.

        Returns the output of all streams, padded to the longest; `nothing` is an output `[1, Y, 0]`. `states`
        are the states before the blocks, by default those of the streams. `first` `[1, Y, n]` is output
        before that of the blocks.
        """
        states = list(self._states if states is None else states)
        outputs = [[own] for own in first or [nothing] * len(blocks)]
        limit = MAX_FRAMES * self._per_frame
        pieces = max(1, -(-max(block.shape[2] for block in blocks) // limit))
        with plain_float32(self.device):
            for piece in range(pieces):
                parts = [block[:, :, piece * limit : (piece + 1) * limit] for block in blocks]
                last = [end and piece == pieces - 1 for end in ending]
                self._step(parts, last, states, outputs)
        self._states = [
            self._new_state() if end else state for end, state in zip(ending, states, strict=True)
        ]
        joined = [torch.cat(parts, dim=2) if len(parts) > 1 else parts[0] for parts in outputs]
        self.output_lengths = torch.tensor([output.shape[2] for output in joined])
        longest = int(self.output_lengths.max())
        return torch.cat([F.pad(output, (0, longest - output.shape[2])) for output in joined])

    def _step(
        self, parts: Sequence[Tensor], last: Sequence[bool], states: list[State], outputs: list[list[Tensor]]
    ) -> None:
        """Process one part of each stream's block; change `states` and append to `outputs`."""
        elements = [
            number_of(state, "elements") + part.shape[2] for state, part in zip(states, parts, strict=True)
        ]
        active = [
            index
            for index, (part, end) in enumerate(zip(parts, last, strict=True))
            if part.shape[2] or (end and elements[index])
        ]
        if not active:
            return
        results, module_states = self._streams.step(
            [parts[index] for index in active],
            [state_of(states[index], "module") for index in active],
            [last[index] for index in active],
        )
        for index, result, module_state in zip(active, results, module_states, strict=True):
            state = {**states[index], "elements": elements[index], "module": module_state}
            result, states[index] = self._finished(result, state)
            if result.shape[2]:
                outputs[index].append(result)

    def _finished(self, output: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the final form of an output `[1, Y, m]` of the module, and the new state."""
        return output, state

    @abstractmethod
    def _last_block(self, state: State) -> Tensor:
        """Return the block `[1, X, n]` that completes the last frame of a recording; n can be 0."""

    def _new_state(self) -> State:
        return {"elements": 0, "module": self._streams.module.start(self.device)}

    def _checked_items(self, items: Sequence[int] | None) -> list[int]:
        if items is None:
            return list(range(self.batch))
        numbers = []
        for item in items:
            number = as_integer(item)
            if number is None or not 0 <= number < self.batch:
                raise ShapeError(
                    f"items contains {item!r}; the streams have the indices 0 to {self.batch - 1}."
                )
            numbers.append(number)
        return numbers

    def _split(self, block: Tensor, lengths: Tensor | None) -> list[Tensor]:
        """Return the valid part `[1, X, n]` of each stream of a block `[B, X, n]`."""
        if len(block) != self.batch:
            raise ShapeError(
                f"the block has {len(block)} items; needed is one for each of the {self.batch} streams. Set "
                "`lengths` to 0 for streams without new input."
            )
        limit = checked_lengths(lengths, self.batch, block.shape[2], "the block has no more elements")
        block = block.to(self.device)
        if limit is None:
            return list(block.split(1))
        return [row[:, :, :length] for row, length in zip(block.split(1), limit.tolist(), strict=True)]


class StreamEncoder(CodecStream):
    """Encodes streams of audio to codes; made by `codec.stream_encoder`."""

    def __init__(self, codec: FramedCodec, module: StreamingModule, batch: int, num_codebooks: int) -> None:
        super().__init__(codec, module, batch, codec.hop_length)
        self._nothing = torch.zeros(1, num_codebooks, 0, dtype=torch.int64, device=self.device)

    def push(self, samples: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encode new samples `[B, C, S]`, and return the codes that are determined by now, int64 `[B, n, T]`.

        S is any number. `lengths` `[B]` are the numbers of valid samples of each stream, by default S. If
        streams return different numbers of frames, `output_lengths` has these numbers. Raises ShapeError for
        arguments of the wrong type, shape or range, NonFiniteError for NaN or infinity.
        """
        blocks = self._split(checked_wav(samples, self.codec.channels), lengths)
        return self._advance(blocks, [False] * self.batch, self._nothing)

    def flush(self, items: Sequence[int] | None = None) -> Tensor:
        """End the recordings of all streams, or of the streams with the indices `items`.

        Returns the remaining codes, int64 `[B, n, T]`. An incomplete last frame is completed with zeros.
        """
        return self._flush(items, self._nothing)

    def _last_block(self, state: State) -> Tensor:
        missing = -number_of(state, "elements") % self.codec.hop_length
        return torch.zeros(1, self.codec.channels, missing, device=self.device)


class StreamDecoder(CodecStream):
    """Decodes streams of codes to audio; made by `codec.stream_decoder`."""

    def __init__(self, codec: FramedCodec, module: StreamingModule, batch: int) -> None:
        self._concealment = Concealment(codec)
        super().__init__(codec, module, batch, 1)
        self._nothing = torch.zeros(1, codec.channels, 0, device=self.device)

    def push(self, codes: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decode new codes `[B, n, T]`, and return the samples that are determined by now, `[B, C, S]`.

        T is any number; n is the same for all blocks of a recording. `lengths` `[B]` are the numbers of valid
        frames of each stream, by default T. If streams return different numbers of samples, `output_lengths`
        has these numbers. Raises ShapeError for arguments of the wrong type, shape or range.
        """
        blocks = self._split(checked_codes(codes, self.codec.num_codebooks), lengths)
        states = list(self._states)
        for index, (block, state) in enumerate(zip(blocks, self._states, strict=True)):
            blocks[index], loss = self._concealment.received(
                block, number_of(state, "elements"), state_of(state, "loss")
            )
            states[index] = {**state, "loss": loss}
        return self._advance(blocks, [False] * self.batch, self._nothing, states)

    def lost(self, frames: int, items: Sequence[int] | None = None) -> Tensor:
        """Conceal the next `frames` frames of all streams, or of the streams with the indices `items`.

        Returns the samples that are determined by now, as `push` does; each lost frame yields a hop of
        samples. The codec continues the last codes (`conceal`). The audio of lost frames fades out within
        100 ms, and fades in within 10 ms after the loss. Frames that are lost before the first received one
        are silent. Raises ShapeError for arguments of the wrong type or range.
        """
        count = as_integer(frames)
        if count is None or count < 0:
            raise ShapeError(f"frames is {frames!r}; needed is the number of lost frames, from 0 up.")
        states, silence = list(self._states), [self._nothing] * self.batch
        blocks = [self._last_block(state) for state in states]
        for index in set(self._checked_items(items)):
            state = states[index]
            blocks[index], samples, loss = self._concealment.lost(
                count, number_of(state, "elements"), state_of(state, "loss")
            )
            states[index] = {**state, "loss": loss}
            silence[index] = F.pad(self._nothing, (0, samples))
        return self._advance(blocks, [False] * self.batch, self._nothing, states, silence)

    def flush(self, items: Sequence[int] | None = None) -> Tensor:
        """End the recordings of all streams, or of the streams with the indices `items`.

        Returns the remaining samples, float32 `[B, C, S]`.
        """
        return self._flush(items, self._nothing)

    def _new_state(self) -> State:
        return {**super()._new_state(), "loss": self._concealment.start(self.device)}

    def _finished(self, output: Tensor, state: State) -> tuple[Tensor, State]:
        samples, loss = self._concealment.faded(output, state_of(state, "loss"))
        return samples, {**state, "loss": loss}

    def _last_block(self, state: State) -> Tensor:
        return torch.zeros(1, self.codec.num_codebooks, 0, dtype=torch.int64, device=self.device)
