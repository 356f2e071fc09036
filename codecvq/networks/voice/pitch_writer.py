"""`PitchWriter`, the last layer of an encoder, which writes a measured pitch into the latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from codecvq.errors import ShapeError
from codecvq.networks.voice import pitch_code
from codecvq.networks.voice.knots import knots
from codecvq.networks.voice.pitch import PitchTracker
from codecvq.networks.voice.survey import knots_in_pieces
from codecvq.streaming import State, StreamingModule


class PitchWriter(nn.Module):
    """Writes the pitch of audio into three latent channels.

    A codec frame has `upsampling` frames of the tracker. The written values are the knots of the piecewise
    linear function that is closest to the pitch.
    """

    places: Tensor  # [3]: channel indices

    def __init__(self, tracker: PitchTracker, upsampling: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.tracker, self.upsampling = tracker, upsampling
        self.channels = list(channels)
        self.register_buffer("places", torch.tensor(self.channels), persistent=False)

    def forward(self, latents: Tensor, wav: Tensor, mask: Tensor | None) -> Tensor:
        """Write the pitch of audio `[B, 1, S]` into latents `[B, T, D]`, mask `[B, T]` -> `[B, T, D]`."""
        fine_mask = None if mask is None else mask.repeat_interleave(self.upsampling, dim=1)
        pitch = self.tracker(wav, fine_mask)
        numbers = pitch_code.number_of(knots(pitch.position, pitch.voiced, self.upsampling, mask))
        return self.write(latents, numbers)

    def write(self, latents: Tensor, numbers: Tensor) -> Tensor:
        """Write numbers of pitch steps `[B, T]` into latents `[B, T, D]` -> `[B, T, D]`."""
        code = pitch_code.channels_of(numbers.long())
        return latents.index_copy(2, self.places, code.to(latents.dtype))

    @torch.no_grad()
    def survey(self, recording: Callable[[], Iterable[Tensor]]) -> Tensor:
        """Return the numbers of the pitch steps, uint8 `[1, T]`, of a recording of any length.

        They equal those of the whole recording. `recording` returns blocks of audio `[1, 1, S]` from the
        beginning. It is called twice. Zeros at the end complete the last frame.
        """
        numbers = [torch.zeros(1, 0, dtype=torch.uint8, device=self.places.device)]
        with torch.autocast(self.places.device.type, enabled=False):
            for piece in knots_in_pieces(self.tracker, self.upsampling, recording):
                numbers.append(pitch_code.number_of(piece).to(torch.uint8))
        return torch.cat(numbers, dim=1)

    def as_stream(self, survey: Tensor) -> StreamingModule:
        """Return a stream that writes the numbers `survey` `[1, T]` into latents `[1, D, n]`."""
        return WrittenStream(self, survey)


class WrittenStream(StreamingModule):
    """Writes numbers of pitch steps that were measured before: `[1, D, n]` -> `[1, D, n]`.

    The state holds the numbers of the frames to come.
    """

    def __init__(self, writer: PitchWriter, numbers: Tensor) -> None:
        self.writer, self.numbers = writer, numbers

    def start(self, device: torch.device) -> State:
        """Return all numbers."""
        return {"numbers": self.numbers.to(device)}

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Write the numbers of the next frames. Raises ShapeError if the recording has another length."""
        numbers, count = state["numbers"], block.shape[2]
        assert isinstance(numbers, Tensor)
        if count > numbers.shape[1] or (last and count < numbers.shape[1]):
            raise ShapeError(
                f"the survey is of a recording of {self.numbers.shape[1]} frames, and the stream has "
                f"{'more' if count > numbers.shape[1] else 'fewer'}. Pass the survey of the same recording."
            )
        if not count:
            return block, state
        written = self.writer.write(block.transpose(1, 2), numbers[:, :count])
        return written.transpose(1, 2), {"numbers": numbers[:, count:]}
