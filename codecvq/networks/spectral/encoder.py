"""The encoder: features, a backbone, and values that a head's writer puts into the latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from codecvq.api.reach import Reach, widest
from codecvq.errors import StreamingError
from codecvq.networks.spectral.parts import FrameNetwork, FrontEnd
from codecvq.networks.spectral.streaming import FrontEndStream, JoinedStream
from codecvq.streaming import Chain, FramewiseModule, StreamingModule, Windows, exact_stream

SURVEYED_FRAMES = 256  # that are computed together where a delay does not matter


class SpectralEncoder(nn.Module):
    """Encodes audio to latents.

    Args:
        front: Features of audio.
        backbone: Network over the features.
        hop_length: Samples per frame.
        dim: Number of latent channels D.
        writer: Module that writes values for the head into the latents; see `Head`.
    """

    def __init__(
        self,
        front: FrontEnd,
        backbone: FrameNetwork,
        hop_length: int,
        dim: int,
        writer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.front, self.pitch, self.hop_length = front, writer, hop_length
        if writer is not None:  # the buffer makes these channels part of the hash of the codes
            self.register_buffer("written_at", torch.tensor(writer.channels))
            self.register_load_state_dict_pre_hook(_check_written_at)
        self.backbone = backbone
        self.project = nn.Linear(backbone.width, dim)
        past, future = backbone.reach.past, backbone.reach.future
        #: reach of the latents without those of the writer
        self.network_reach = Reach(
            None if past is None else past * hop_length + front.before, future * hop_length + front.after
        )
        written = Reach(0, 0) if writer is None else getattr(writer, "reach", None)
        if past is not None and written is not None:  # a writer without reach depends on all audio
            self.reach = widest([self.network_reach, written])

    def forward(self, wav: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode audio: `[B, 1, S]`, S = T * H, mask `[B, T]` -> `[B, D, T]`."""
        latents = self._network(wav, mask)
        if self.pitch is not None:
            latents = self.pitch(latents, wav, mask)
        return rearrange(latents, "b t d -> b d t")

    def _network(self, wav: Tensor, mask: Tensor | None) -> Tensor:
        """Return the latents `[B, T, D]` before the writer."""
        with torch.autocast(wav.device.type, enabled=False):
            features = self.front(wav)
        latents: Tensor = self.project(self.backbone(features, mask))
        return latents

    def survey(self, recording: Callable[[], Iterable[Tensor]]) -> Tensor | None:
        """Return what `as_stream` needs to know of a whole recording: `[1, X]`, or None if it is nothing.

        `recording` returns blocks of audio `[1, 1, S]` from the beginning; it is called several times.
        """
        if self.pitch is None or not hasattr(self.pitch, "survey"):
            return None
        survey: Tensor = self.pitch.survey(recording)  # type: ignore[operator]
        return survey

    def as_stream(self, survey: Tensor | None = None) -> StreamingModule | None:
        """Return a stream with exact state if all parts have one, else None.

        With a writer that makes surveys, the stream encodes the recording of the `survey`. Raises
        StreamingError without one.
        """
        if self.pitch is None or not hasattr(self.pitch, "survey"):
            if survey is not None:
                raise StreamingError("the encoder uses no survey. Omit it.")
            latents = self._exact_stream()
            if self.pitch is None or latents is None:
                return latents
            values = exact_stream(self.pitch)
            return None if values is None else JoinedStream(latents, values, self.get_buffer("written_at"))
        if survey is None:
            raise StreamingError(
                "the codes contain the pitch, which depends on the whole recording, so live audio cannot be "
                "encoded. If the recording can be read several times, pass survey=codec.survey(recording). "
                "For live audio, use a codec with a causal network, such as speech-16k-stream."
            )
        network = self._exact_stream() or Windows(
            lambda wav: self._network(wav, None).transpose(1, 2),
            self.network_reach,
            samples_in=self.hop_length,
            frames_at_once=SURVEYED_FRAMES,
        )
        return Chain([network, self.pitch.as_stream(survey)])  # type: ignore[operator]

    def _exact_stream(self) -> StreamingModule | None:
        """Return a stream of the latents before the writer if all parts have exact state, else None."""
        backbone = exact_stream(self.backbone)
        if backbone is None or not self.front.accepts_padded:
            return None
        front = FrontEndStream(self.front, self.hop_length)
        return Chain([front, backbone, FramewiseModule(self._projected, products=True)])

    def _projected(self, hidden: Tensor) -> Tensor:
        """Project `[B, X, T]` to latents `[B, D, T]`."""
        latents: Tensor = self.project(hidden.transpose(1, 2))
        return latents.transpose(1, 2)


def _check_written_at(encoder: nn.Module, weights: Mapping[str, Tensor], prefix: str, *details: Any) -> None:
    """Report an error unless the weights have their pitch in the same latent channels.

    torch calls it before it loads weights; the last of `details` is the list of error messages.
    """
    saved, own = weights.get(f"{prefix}written_at"), encoder.get_buffer("written_at")
    if saved is not None and saved.tolist() != own.tolist():
        details[-1].append(
            f"their pitch is written in channels {saved.tolist()}, and pitch_channels are {own.tolist()}"
        )
