"""The parts of a spectral network: what their factories are called with, and what they make.

A network is features, backbones and a head, as in Vocos (arXiv:2306.00814). A part is offered by a plugin
(`codecvq_network_parts`) and named in a recipe, with its options, as a mapping. Letters: F features of a
frame, X channels inside, H the hop.
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

#: kind of part -> arguments that its factory gets beside its options
FACTORY_ARGUMENTS: dict[str, Collection[str]] = {
    "features": ("sample_rate", "hop_length", "causal", "lookahead_frames"),
    "backbone": ("features", "causal"),
    "head": ("sample_rate", "hop_length", "causal", "dim", "backbone"),
}
#: kind of part -> attributes of what it makes
REQUIRED_ATTRIBUTES: dict[str, Collection[str]] = {
    "features": ("num_features", "before", "after"),
    "backbone": ("width", "reach"),
    "head": ("decoder", "writer", "check"),
}


class FrontEnd(nn.Module):
    """Features of frames: `[B, 1, T * H]` -> `[B, T, F]`. What a part of kind "features" makes."""

    num_features: int  # F
    before: int  # samples in front of its hop on which a frame depends
    after: int  # samples behind its hop


class FrameNetwork(nn.Module):
    """Features to channels: `(features [B, T, F], mask [B, T] or None)` -> `[B, T, X]`. What a part of kind
    "backbone" makes. Padded frames change nothing at real ones.
    """

    width: int  # X
    reach: Reach  # in frames


@dataclass(frozen=True)
class Head:
    """What a part of kind "head" makes: latents to audio, by a backbone that it places where it needs it."""

    #: makes the decoder, latents `[B, D, T]` and mask `[B, T]` -> audio `[B, 1, T * H]`; see `Network`
    decoder: Callable[[], nn.Module]
    #: what the encoder ends with, `(latents [B, T, D], wav [B, 1, S], mask)` -> latents: writes in channels
    #: what the decoder reads there. Its `channels` are saved with the encoder
    writer: nn.Module | None = None
    #: raises OptionError for a quantizer that does not keep what the decoder reads
    check: Callable[[Quantizer], None] | None = None


class Decoder(nn.Module):
    """A decoder whose head sees no more than its backbone's channels: what most heads need.

    Args: `head` takes `(hidden [B, T, X], mask)` and gives audio `[B, 1, T * H]`; `head_reach` is how many
    frames on either side it adds to a frame's audio.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, head_reach: Reach) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        reach = getattr(backbone, "reach", None)
        if reach is not None and reach.past is not None and head_reach.past is not None:
            self.reach = Reach(reach.past + head_reach.past, reach.future + head_reach.future)

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, D, T]`, mask `[B, T]` -> `[B, 1, T * H]`."""
        hidden: Tensor = self.backbone(latents.transpose(1, 2), mask)
        audio: Tensor = self.head(hidden, mask)
        return audio


def build_part(kind: str, named: Mapping[str, Any], **given: Any) -> Any:
    """What the part named by `named`, its `name` and its options, makes of these and of what is `given`.

    Raises UnknownName and OptionError, which name what is known, and for a part of another kind.
    """
    options = dict(named)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise OptionError(
            f"spectral: {kind} is {shortened(dict(named))}; needed is a mapping with a name and the options "
            f"of that part. Take one of: {', '.join(part_names(kind))}."
        )
    registration = registry().find(NetworkPartSpec, name)
    if registration.spec.kind != kind:
        raise OptionError(
            f"spectral: {kind} is {name!r}, which is a part of kind {registration.spec.kind}. Take one of: "
            f"{', '.join(part_names(kind))}."
        )
    what = f"{kind} {name!r}"
    check_options(what, registration, options, FACTORY_ARGUMENTS[kind])
    made = build_from_options(what, registration.make, {**given, **options})
    if lacking := [attribute for attribute in REQUIRED_ATTRIBUTES[kind] if not hasattr(made, attribute)]:
        raise OptionError(
            f"{what} of {registration.origin} made a {type(made).__name__} without "
            f"{' and '.join(lacking)}; a part "
            f"of kind {kind} has {', '.join(REQUIRED_ATTRIBUTES[kind])}."
        )
    return made


def part_names(kind: str) -> list[str]:
    """The names of all parts of a kind."""
    return [
        name
        for name, registration in registry().all(NetworkPartSpec).items()
        if registration.spec.kind == kind
    ]
