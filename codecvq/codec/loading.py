"""`load`: loads a codec from a folder, a run folder, or a registered name."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import torch

from codecvq.api.codec import AudioCodec
from codecvq.codec.codec import Codec
from codecvq.codec.config import CONFIG, check_matches_config, check_plugin_files, missing_plugin, read_config
from codecvq.codec.pretrained import codec_folder, codec_registration, unknown_codec
from codecvq.codec.saving import WEIGHTS
from codecvq.codec.tables_file import TABLES, read_tables
from codecvq.construction import construction_limits
from codecvq.errors import CodecError, OptionError, PluginError, UnknownName
from codecvq.numerics import trainable_float32
from codecvq.transfer import usable_device
from codecvq.weights import open_weights

MEMBERS = tuple(name for name in vars(AudioCodec) if not name.startswith("_"))


def load(source: str | Path, device: str | torch.device = "cpu") -> AudioCodec:
    """Load a codec in eval mode.

    `source` is a folder that `Codec.save` wrote, a run folder, or the name of a codec that a plugin registers
    ("speech-16k"). An existing folder takes precedence over a name. The result is a `Codec`, or the
    `AudioCodec` that a plugin's factory returns.

    Raises CodecError if the folder or name does not exist, if the folder is incomplete or damaged, or if a
    plugin is missing; the message names the plugin. Raises PluginError if a factory does not return an
    `AudioCodec`, OptionError for an unusable device.
    """
    device = usable_device(device)
    registration = codec_registration(source)
    if registration is None:
        if os.path.exists(source):
            return load_folder(source, device)
        raise unknown_codec(source)
    if registration.spec.external:
        raise CodecError(
            f"{source} is an external codec, for compare only: it has no codes. Measure it with: codecvq "
            f"compare {source}"
        )
    if folder := codec_folder(registration):
        return load_folder(folder, device)
    codec: AudioCodec = registration.make(device=device)
    if missing := missing_members(codec):
        raise PluginError(
            f"codec {registration.qualified_name} is a {type(codec).__name__} without "
            f"{', '.join(missing)}. Its factory must return an AudioCodec: subclass codecvq.WrappedCodec."
        )
    return codec


def load_folder(source: str | Path, device: str | torch.device = "cpu") -> Codec:
    """Load a codec in eval mode from a folder that `Codec.save` wrote or from a run folder; see `load`."""
    folder, device = Path(source), usable_device(device)
    if (folder / "codec" / CONFIG).is_file():
        folder = folder / "codec"
    config = read_config(folder)
    check_plugin_files(config)
    with open_weights(folder / WEIGHTS) as weights, trainable_float32():
        try:
            with construction_limits(weights.limits, f"the codec in {folder}"):
                codec = Codec(**config.arguments)
        except UnknownName as error:
            raise CodecError(f"{folder}: {missing_plugin(config) or error}") from error
        weights.load_into(codec)
        check_matches_config(config, codec, folder)
        try:
            codec.set_code_tables(read_tables(folder, codec.codebooks_sha256))
        except OptionError as error:
            raise CodecError(f"{folder / TABLES}: {error}") from error
        return codec.to(device).eval()


def missing_members(codec: Any) -> list[str]:  # Any: the result of a third-party factory
    """Return the missing members of `AudioCodec`. Does not evaluate properties: hashes take seconds."""
    nothing = object()
    return [
        name
        for name in MEMBERS
        if inspect.getattr_static(codec, name, nothing) is nothing and not hasattr(codec, name)
    ]
