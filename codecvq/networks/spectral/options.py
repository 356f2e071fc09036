"""Options of the spectral network in recipes and saved codecs, and its preset sizes.

Options describe the built-in parts in short form; `parts_of` converts them to parts with their own options.
Saved codecs store the options of their recipe, so names and defaults must never change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from codecvq.errors import OptionError
from codecvq.networks.presets import resolve_size

DEFAULT_ITERATIONS = 16  # of phase retrieval
#: Options that affect only the decoder. `synthesis_hop_length` is missing, since with pitch channels the
#: encoder depends on it, too.
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
    """Numbers of channels and blocks."""

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
    lookahead_frames: int = 0  # future hops that the encoder of a causal network uses
    dim: int = 64  # number of latent channels D

    # input features: "log_mel" or "stft" with the options below, or a part with its own options
    features: str | Mapping[str, Any] = "log_mel"
    window_length: int = 1280
    num_mels: int = 100
    detail_window_length: int = 0  # length of a second, shorter window for onsets; 0: none

    # sizes of the built-in backbones; numbers that are given override those of the preset
    preset: str = "small"
    encoder_width: int | None = None
    encoder_blocks: int | None = None
    decoder_width: int | None = None
    decoder_blocks: int | None = None
    encoder_backbone: Mapping[str, Any] | None = None  # another part, with its options
    decoder_backbone: Mapping[str, Any] | None = None

    # built-in head, by the origin of phases
    phase: Literal["predicted", "retrieved", "source"] = "predicted"
    phase_iterations: int = DEFAULT_ITERATIONS  # for "retrieved"
    # for "retrieved", in training: phases of the recording, so that only magnitudes are learned; or retrieved
    # phases, which makes training slower by a third
    training_phase: Literal["recorded", "retrieved"] = "recorded"
    # for "retrieved" and "source": hop (by default hop_length) and window (by default four such hops, three
    # in causal networks) of the decoder
    synthesis_hop_length: int | None = None
    synthesis_window_length: int | None = None
    # for "source": three latent channels that contain the pitch, for a quantizer that rounds each to five
    # levels (`codecvq.networks.voice.pitch_code`); without them, the pitch is learned
    pitch_channels: Sequence[int] | None = None
    # for "source": size of a `Refiner`, which is initially the identity; 0 blocks: none
    refiner_width: int = 192
    refiner_blocks: int = 0
    head: Mapping[str, Any] | None = None  # another part, with its options, instead of `phase`


@dataclass(frozen=True)
class Parts:
    """Parts of a network, each as a mapping with its `name` and options."""

    features: Mapping[str, Any]
    encoder_backbone: Mapping[str, Any]
    decoder_backbone: Mapping[str, Any]
    head: Mapping[str, Any]


def parts_of(options: SpectralOptions) -> Parts:
    """Convert options to parts. Raises OptionError for options of a part that is not used."""
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
            f"spectral: features is {options.features!r}; needed is log_mel, stft, or a mapping with the "
            "name of another part and its options"
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
    return {"name": "source", **synthesis, **own, "lookahead_frames": options.lookahead_frames}


def _reject_flat_options(options: SpectralOptions, given: str, flat: Sequence[str]) -> None:
    """Raise OptionError if options of a built-in part are given together with another part."""
    defaults = {field.name: field.default for field in fields(options)}
    if conflicting := [name for name in flat if getattr(options, name) != defaults[name]]:
        raise OptionError(
            f"spectral: {given} is a part with its own options, but {', '.join(conflicting)} is given, too. "
            f"Give the options inside {given}, under the names that the part uses."
        )


def _check_phase(options: SpectralOptions) -> None:
    phase = options.phase
    if phase not in ("predicted", "retrieved", "source"):
        raise OptionError(f"spectral: phase is {phase!r}; needed is predicted, retrieved or source")
    retrieval_options = (options.phase_iterations, options.training_phase)
    if phase != "retrieved" and retrieval_options != (DEFAULT_ITERATIONS, "recorded"):
        raise OptionError(
            f"spectral: phase_iterations and training_phase are for phase: retrieved, but phase is {phase}. "
            "Remove them."
        )
    if phase == "predicted" and (options.synthesis_hop_length or options.synthesis_window_length):
        raise OptionError(
            "spectral: synthesis_hop_length and synthesis_window_length are for phase: retrieved and "
            "phase: source. Set one of these phases, or remove the lengths."
        )
    if phase != "source" and options.pitch_channels is not None:
        raise OptionError(
            f"spectral: pitch_channels are {options.pitch_channels}, but phase is {phase}, which has no "
            "pitch. Set phase: source, or remove pitch_channels."
        )
    if phase != "source" and options.refiner_blocks:
        raise OptionError(
            f"spectral: refiner_blocks is {options.refiner_blocks}, but phase is {phase}. Set phase: source, "
            "or remove refiner_blocks."
        )
