"""Reads `config.json` of a saved codec, and compares it with loaded plugins and the codec built from it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from codecvq.errors import CodecError, OptionError, install_advice
from codecvq.json_file import read_json, validated
from codecvq.limits import MAX_CODEBOOKS
from codecvq.plugins import PROJECT, registry
from codecvq.plugins.options import check_part_options, shortened

if TYPE_CHECKING:
    from codecvq.codec import Codec

FORMAT = "codecvq.codec/2"
EARLIER_FORMAT = "codecvq.codec/1"  # its hashes do not cover network options and sample rate
CONFIG = "config.json"
ADVICE = "Copy the folder again."

logger = logging.getLogger(PROJECT)

_SHA256 = r"^[0-9a-f]{64}$"


class PluginIdentity(BaseModel):
    """The plugin that provides a part of the codec."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(max_length=200)  # registered name of the part
    plugin: str = Field(max_length=200)  # distribution, or stem of the file
    version: str = Field(max_length=200)
    file: str | None = Field(None, max_length=4000)  # path of a plugin file
    sha256: str | None = Field(None, pattern=_SHA256)  # of the plugin file


class CodecConfig(BaseModel):
    """Content of config.json."""

    model_config = ConfigDict(frozen=True)

    format: str
    name: str = Field(min_length=1, max_length=200)
    codecvq: str = Field(max_length=200)  # version that saved the codec
    sample_rate: int = Field(gt=0, lt=2**31)  # Hz
    channels: int = Field(gt=0, le=64)
    network: dict[str, Any]  # `name` and options
    quantizer: dict[str, Any]
    plugins: dict[str, PluginIdentity]  # by part, such as "network"
    hop_length: int = Field(gt=0, lt=2**31)  # samples per frame
    frame_rate: tuple[int, int]  # numerator, denominator
    codebook_sizes: list[int] = Field(min_length=1, max_length=MAX_CODEBOOKS)
    weights_sha256: str = Field(pattern=_SHA256)
    codebooks_sha256: str = Field(pattern=_SHA256)

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments of `Codec`."""
        return self.model_dump(include={"sample_rate", "channels", "network", "quantizer", "name"})

    @field_validator("network", "quantizer")
    @classmethod
    def _has_a_name(cls, options: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(options.get("name"), str):
            raise ValueError("it has no name")
        return options


def read_config(folder: Path) -> CodecConfig:
    """Read config.json of a codec. Raises CodecError if it is missing, damaged or of another format."""
    path = folder / CONFIG
    if not path.exists():
        hint = (
            "its training has not saved a codec yet"
            if (folder / "recipe.yaml").is_file()
            else f"it contains no {CONFIG}"
        )
        raise CodecError(
            f"{folder} is not a codec: {hint}. Give a folder written by codecvq train or Codec.save."
        )
    fields = read_json(path, error=CodecError, advice=ADVICE)
    if fields.get("format") not in (FORMAT, EARLIER_FORMAT):
        raise CodecError(
            f"{path} has format {str(fields.get('format'))[:60]!r}; this codecvq reads {FORMAT!r}. Update "
            "codecvq."
        )
    return validated(CodecConfig, fields, str(path), error=CodecError, advice=ADVICE)


def check_matches_config(config: CodecConfig, codec: Codec, folder: Path) -> None:
    """Raise CodecError if the loaded codec does not match its config.json."""
    rate = codec.frame_rate
    earlier = config.format == EARLIER_FORMAT
    weights = codec.earlier_weights_sha256 if earlier else codec.weights_sha256
    codebooks = codec.earlier_codebooks_sha256 if earlier else codec.codebooks_sha256
    for key, recorded, built in (
        ("hop_length", config.hop_length, codec.hop_length),
        ("frame_rate", config.frame_rate, (rate.numerator, rate.denominator)),
        ("codebook_sizes", tuple(config.codebook_sizes), tuple(codec.codebook_sizes)),
    ):
        if recorded != built:
            raise CodecError(
                f"{folder / CONFIG}: {key} is {_short(recorded)}, but a codec with its options has "
                f"{_short(built)}. The file was changed: copy it again."
            )
    if (config.weights_sha256, config.codebooks_sha256) != (weights, codebooks):
        raise CodecError(
            f"the weights and options in {folder} do not match the hashes in {CONFIG}. A "
            "file was changed: copy the folder again."
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def check_plugin_files(config: CodecConfig) -> None:
    """Log a warning if a loaded plugin file differs from the one that the codec was trained with."""
    loaded = {origin.file.stem: origin for origin in registry().origins.values() if origin.file}
    for part, identity in config.plugins.items():
        origin = loaded.get(identity.plugin)
        if origin and identity.sha256 not in (None, origin.sha256):
            logger.warning(
                "%s of this codec was trained with another version of plugin file %s", part, origin.file
            )


def _network_last(item: tuple[str, PluginIdentity]) -> bool:
    return item[0] == "network"


def missing_plugin(config: CodecConfig) -> str:
    """Return the text of an error that names the first missing plugin; "" if none is missing."""
    kinds = {"quantizer": "quantizers", "estimator": "estimators", "network": "networks"}
    for part, identity in sorted(config.plugins.items(), key=_network_last):
        kind = kinds.get(part.partition(".")[0])
        if kind is None or identity.name in registry().registrations(kind):
            continue
        needs = f"its {part} {identity.name!r} comes from the plugin"
        if identity.file is not None:
            file = f"file {identity.file} (sha256 {(identity.sha256 or '?')[:12]}…)"
            return f"{needs} {file}, which is not loaded. Pass it with --plugin."
        name, version = identity.plugin, identity.version
        return f"{needs} {name!r} {version!r}, which is not installed. {install_advice(name)}."
    return ""


def named_options(part: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a network or quantizer as a dict.

    Raises OptionError if they have no name, or contain a value that JSON cannot represent.
    """
    if not isinstance(options.get("name"), str):
        raise OptionError(
            f"{part} has no name; given is {shortened(dict(options))}. Set {part}.name, for "
            "example to 'fsq' or 'spectral'."
        )
    check_part_options(part, options)
    for key, value in options.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise OptionError(
                f"{part}.{key} of a codec is a {type(value).__name__}, which config.json cannot store "
                f"({error}). Give a JSON value; for a class, its name 'plugin:Name'."
            ) from error
    return dict(options)
