"""Interfaces of the parts of a spectral network: arguments and results of their factories.

A network consists of features, backbones and a head, as in Vocos (arXiv:2306.00814). Plugins register parts
with the hook `codecvq_network_parts`; recipes name them, with their options, as a mapping. Letters in shapes:
F features of a frame, X hidden channels, H hop length.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from codecvq.api.hookspecs import NetworkPartSpec
from codecvq.api.reach import Reach
from codecvq.errors import OptionError
from codecvq.plugins import registry
from codecvq.plugins.options import build_from_options, check_options, shortened
from codecvq.quantizer import Quantizer
from codecvq.streaming import Chain, StreamingModule, exact_stream

#: Kind of part -> arguments of its factory in addition to its options.
FACTORY_ARGUMENTS: dict[str, Collection[str]] = {
    "features": ("sample_rate", "hop_length", "causal", "lookahead_frames"),
    "backbone": ("features", "causal"),
    "head": ("sample_rate", "hop_length", "causal", "dim", "backbone"),
}
#: Kind of part -> attributes of the object that its factory returns.
REQUIRED_ATTRIBUTES: dict[str, Collection[str]] = {
    "features": ("num_features", "before", "after"),
    "backbone": ("width", "reach"),
    "head": ("decoder", "writer", "check"),
}


class FrontEnd(nn.Module):
    """Base class of parts of kind "features": features of frames, `[B, 1, T * H]` -> `[B, T, F]`."""

    num_features: int  # number of features F
    before: int  # number of samples before its hop on which a frame depends
    after: int  # number of samples after its hop on which a frame depends

    def of_padded(self, wav: Tensor) -> Tensor:
        """Compute features of audio that includes context: `[B, 1, before + S + after]` -> `[B, T, F]`.

        Optional: with it, a causal network computes no frame of a stream twice.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define of_padded(wav)")

    @property
    def accepts_padded(self) -> bool:
        """Whether the front end implements `of_padded`."""
        return type(self).of_padded is not FrontEnd.of_padded


class FrameNetwork(nn.Module):
    """Base class of parts of kind "backbone", networks over frames.

    Maps `(features [B, T, F], mask [B, T] or None)` to `[B, T, X]`. Padding frames must not affect valid
    ones.
    """

    width: int  # number of channels X
    reach: Reach  # in frames


@dataclass(frozen=True)
class Head:
    """A part of kind "head", which converts latents to audio with a backbone inside its decoder."""

    #: Builds the decoder: latents `[B, D, T]` and mask `[B, T]` -> audio `[B, 1, T * H]`; see `Network`.
    decoder: Callable[[], nn.Module]
    #: Last layer of the encoder, `(latents [B, T, D], wav [B, 1, S], mask)` -> latents. It writes values for
    #: the decoder into the latent channels `writer.channels`. The encoder saves these channel numbers.
    #: Optional: `writer.survey(recording)` measures the values of a long recording, and
    #: `writer.as_stream(survey)` returns a `StreamingModule` that writes them into latents `[1, D, n]`.
    #: A causal writer has `writer.reach` in samples and `writer.as_stream()` instead, a stream of audio
    #: `[B, 1, n]` to the values `[B, X, m]`.
    writer: nn.Module | None = None
    #: Raises OptionError for a quantizer that does not preserve the values that the decoder reads.
    check: Callable[[Quantizer], None] | None = None


class Decoder(nn.Module):
    """A backbone followed by a head that depends only on the backbone's channels, as most heads do.

    Args:
        backbone: Network over frames.
        head: Maps `(hidden [B, T, X], mask)` to audio `[B, 1, T * H]`.
        head_reach: Numbers of frames before and after a frame on which the audio of the head depends.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, head_reach: Reach) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        reach = getattr(backbone, "reach", None)
        if reach is not None and reach.past is not None and head_reach.past is not None:
            self.reach = Reach(reach.past + head_reach.past, reach.future + head_reach.future)

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """Decode latents: `[B, D, T]`, mask `[B, T]` -> `[B, 1, T * H]`."""
        hidden: Tensor = self.backbone(latents.transpose(1, 2), mask)
        audio: Tensor = self.head(hidden, mask)
        return audio

    def as_stream(self) -> StreamingModule | None:
        """Return a stream with exact state if backbone and head have one, else None."""
        backbone, head = exact_stream(self.backbone), exact_stream(self.head)
        return None if backbone is None or head is None else Chain([backbone, head])


def build_part(kind: str, named: Mapping[str, Any], **given: Any) -> Any:
    """Build a part. `named` is a mapping with its `name` and options.

    `given` are the other arguments of its factory: see `FACTORY_ARGUMENTS`.

    Raises UnknownName, with similar names, and OptionError for wrong options and for a part of another kind.
    """
    options = dict(named)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise OptionError(
            f"spectral: {kind} is {shortened(dict(named))}; needed is a mapping with the name and options of "
            f"a part. Use one of: {', '.join(part_names(kind))}."
        )
    registration = registry().find(NetworkPartSpec, name)
    if registration.spec.kind != kind:
        raise OptionError(
            f"spectral: {kind} is {name!r}, but that is a part of kind {registration.spec.kind}. Use one "
            f"of: {', '.join(part_names(kind))}."
        )
    what = f"{kind} {name!r}"
    check_options(what, registration, options, FACTORY_ARGUMENTS[kind])
    part = build_from_options(what, registration.make, {**given, **options})
    if missing := [attribute for attribute in REQUIRED_ATTRIBUTES[kind] if not hasattr(part, attribute)]:
        raise OptionError(
            f"{what} of {registration.origin} returned a {type(part).__name__} without "
            f"{' and '.join(missing)}; a part "
            f"of kind {kind} has {', '.join(REQUIRED_ATTRIBUTES[kind])}."
        )
    return part


def part_names(kind: str) -> list[str]:
    """Return the names of all parts of a kind."""
    return [
        name
        for name, registration in registry().all(NetworkPartSpec).items()
        if registration.spec.kind == kind
    ]
