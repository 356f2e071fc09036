"""The options of the spectral network as recipes and saved codecs write them, side by side; and its sizes.

They name the built-in parts in short: `parts_of` turns them into parts with their own options. Saved codecs
keep what their recipe said, so names and defaults never change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from codecvq.errors import OptionError
from codecvq.networks.presets import resolve_size

DEFAULT_ITERATIONS = 16  # of retrieving phases, where nothing is said
#: Options that change the decoder only. With pitch channels the encoder depends on `synthesis_hop_length`
#: too, and `phase` is "source".
DECODER_OPTIONS = (
    "phase",
    "phase_iterations",
    "training_phase",
    "synthesis_window_length",
    "refiner_width",
    "refiner_blocks",
    "decoder_width",
    "decoder_blocks",
    "decoder_backbone",
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Channels inside, and blocks."""

    encoder_width: int
    encoder_blocks: int
    decoder_width: int
    decoder_blocks: int


PRESETS = {
    "tiny": Size(encoder_width=128, encoder_blocks=3, decoder_width=192, decoder_blocks=4),
    "small": Size(encoder_width=256, encoder_blocks=4, decoder_width=384, decoder_blocks=6),
    "base": Size(encoder_width=384, encoder_blocks=8, decoder_width=512, decoder_blocks=8),
    "large": Size(encoder_width=512, encoder_blocks=8, decoder_width=768, decoder_blocks=12),
}


@dataclass(frozen=True, kw_only=True)
class SpectralOptions:
    """Options of `spectral`; lengths are in samples."""

    hop_length: int = 320
    causal: bool = False
    lookahead_frames: int = 0  # hops that the encoder of a causal network waits for
    dim: int = 64  # D of the latents

    # what the encoder is given: "log_mel" and "stft" with the options below, or a part with its own
    features: str | Mapping[str, Any] = "log_mel"
    window_length: int = 1280
    num_mels: int = 100
    detail_window_length: int = 0  # of a second, shorter window for onsets; 0: none

    # the sizes of the built-in backbones; those that are given take the place of the preset's
    preset: str = "small"
    encoder_width: int | None = None
    encoder_blocks: int | None = None
    decoder_width: int | None = None
    decoder_blocks: int | None = None
    encoder_backbone: Mapping[str, Any] | None = None  # another part, with its options
    decoder_backbone: Mapping[str, Any] | None = None

    # the built-in heads, by where phases come from
    phase: Literal["predicted", "retrieved", "source"] = "predicted"
    phase_iterations: int = DEFAULT_ITERATIONS  # of "retrieved": what it may cost
    # of "retrieved": phases in training are the recording's, so that only magnitudes are learned; or
    # retrieved, which is slower by a third
    training_phase: Literal["recorded", "retrieved"] = "recorded"
    # of "retrieved" and "source": how often the decoder works, by default every hop, and on what windows, by
    # default four of these
    synthesis_hop_length: int | None = None
    synthesis_window_length: int | None = None
    # of "source": three channels of the latents in which the pitch is written, for a quantizer that rounds
    # each to five levels (`codecvq.networks.voice.pitch_code`); without, the pitch is learned
    pitch_channels: Sequence[int] | None = None
    # of "source": size of a `Refiner`, which begins as identity; 0 blocks: none
    refiner_width: int = 192
    refiner_blocks: int = 0
    head: Mapping[str, Any] | None = None  # another part, with its options, in place of `phase`


@dataclass(frozen=True)
class Parts:
    """Each part of a network as a mapping: its `name`, and its options."""

    features: Mapping[str, Any]
    encoder_backbone: Mapping[str, Any]
    decoder_backbone: Mapping[str, Any]
    head: Mapping[str, Any]


def parts_of(options: SpectralOptions) -> Parts:
    """The parts that the options name. Raises OptionError for options of a part that is not taken."""
    size = resolve_size(
        "spectral",
        PRESETS,
        options.preset,
        encoder_width=options.encoder_width,
        encoder_blocks=options.encoder_blocks,
        decoder_width=options.decoder_width,
        decoder_blocks=options.decoder_blocks,
    )
    encoder = {"name": "convnext", "width": size.encoder_width, "blocks": size.encoder_blocks}
    decoder = {"name": "convnext", "width": size.decoder_width, "blocks": size.decoder_blocks}
    for given, flat in (
        ("encoder_backbone", ("encoder_width", "encoder_blocks")),
        ("decoder_backbone", ("decoder_width", "decoder_blocks")),
    ):
        if getattr(options, given) is not None:
            _reject_flat_options(options, given, flat)
    return Parts(
        _features(options),
        encoder if options.encoder_backbone is None else options.encoder_backbone,
        decoder if options.decoder_backbone is None else options.decoder_backbone,
        _head(options),
    )


def _features(options: SpectralOptions) -> Mapping[str, Any]:
    if not isinstance(options.features, str):
        _reject_flat_options(options, "features", ("window_length", "num_mels", "detail_window_length"))
        return options.features
    window = {"window_length": options.window_length}
    if options.features == "stft":
        return {"name": "stft", **window}
    if options.features != "log_mel":
        raise OptionError(
            f"spectral: features is {options.features!r}; it is log_mel or stft, or a mapping with the name "
            "of another part and its options"
        )
    mel = {"num_mels": options.num_mels, "detail_window_length": options.detail_window_length}
    return {"name": "log_mel", **window, **mel}


def _head(options: SpectralOptions) -> Mapping[str, Any]:
    if options.head is not None:
        flat = (
            "phase", "phase_iterations", "training_phase", "synthesis_hop_length", "synthesis_window_length",
            "pitch_channels", "refiner_width", "refiner_blocks",
        )  # fmt: skip
        _reject_flat_options(options, "head", flat)
        return options.head
    _check_phase(options)
    synthesis = {
        "synthesis_hop_length": options.synthesis_hop_length,
        "synthesis_window_length": options.synthesis_window_length,
    }
    if options.phase == "predicted":
        return {"name": "predicted", "window_length": options.window_length}
    if options.phase == "retrieved":
        own = {"iterations": options.phase_iterations, "training_phase": options.training_phase}
        return {"name": "retrieved", **synthesis, **own}
    own = {name: getattr(options, name) for name in ("pitch_channels", "refiner_width", "refiner_blocks")}
    return {"name": "source", **synthesis, **own}


def _reject_flat_options(options: SpectralOptions, given: str, flat: Sequence[str]) -> None:
    """Raise OptionError where an option of a built-in part is given beside another part in its place."""
    defaults = {field.name: field.default for field in fields(options)}
    if conflicting := [name for name in flat if getattr(options, name) != defaults[name]]:
        raise OptionError(
            f"spectral: {given} is a part with its own options, and {', '.join(conflicting)} is given beside "
            f"it. Give the options inside {given}, as that part names them."
        )


def _check_phase(options: SpectralOptions) -> None:
    phase = options.phase
    if phase not in ("predicted", "retrieved", "source"):
        raise OptionError(f"spectral: phase is {phase!r}; it is predicted, retrieved or source")
    retrieval_options = (options.phase_iterations, options.training_phase)
    if phase != "retrieved" and retrieval_options != (DEFAULT_ITERATIONS, "recorded"):
        raise OptionError(
            f"spectral: phase_iterations and training_phase are for phase: retrieved, and phase is {phase}. "
            "Leave them out."
        )
    if phase == "predicted" and (options.synthesis_hop_length or options.synthesis_window_length):
        raise OptionError(
            "spectral: synthesis_hop_length and synthesis_window_length are for phase: retrieved and "
            "phase: source. Set one of them, or leave the lengths out."
        )
    if phase != "source" and options.pitch_channels is not None:
        raise OptionError(
            f"spectral: pitch_channels are {options.pitch_channels}, but phase is {phase}, which has no "
            "pitch. Set phase: source, or leave pitch_channels out."
        )
    if phase != "source" and options.refiner_blocks:
        raise OptionError(
            f"spectral: refiner_blocks is {options.refiner_blocks}, but phase is {phase}. Set phase: source, "
            "or leave refiner_blocks out."
        )
