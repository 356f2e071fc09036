"""`config.json` of a saved codec: read, and held against the plugins that are loaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codecvq.errors import CodecError
from codecvq.plugins import PROJECT, registry

FORMAT = "codecvq.codec/1"
CONFIG = "config.json"

logger = logging.getLogger(PROJECT)


def read_config(folder: Path) -> dict[str, Any]:  # Any: JSON
    """What a codec's folder says of it; raises CodecError where it says nothing, or in another format."""
    path = folder / CONFIG
    if not path.is_file():
        hint = (
            "its training has not saved a codec yet"
            if (folder / "recipe.yaml").is_file()
            else f"there is no {CONFIG} in it"
        )
        raise CodecError(
            f"{folder} is not a codec: {hint}. Give a folder written by codecvq train or Codec.save."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CodecError(f"{path} is damaged ({error}). Copy it again.") from error
    if config.get("format") != FORMAT:
        raise CodecError(
            f"{path} has format {config.get('format')!r}; this codecvq reads {FORMAT!r}. Update codecvq."
        )
    return config


def check_plugin_files(config: Mapping[str, Any]) -> None:
    """Warn when a one-file plugin that is loaded is not the one the codec was trained with."""
    loaded = {origin.file.stem: origin for origin in registry().origins.values() if origin.file}
    for part, identity in config["plugins"].items():
        origin = loaded.get(identity["plugin"])
        if origin and identity.get("sha256") not in (None, origin.sha256):
            logger.warning(
                "%s of this codec was trained with another version of plugin file %s", part, origin.file
            )


def missing_plugin(config: Mapping[str, Any]) -> str:
    """Which plugin to bring, as a sentence."""
    for part, kind in (("quantizer", "quantizers"), ("estimator", "estimators"), ("network", "networks")):
        identity = config["plugins"].get(part, {})
        if not identity or identity["name"] in registry().offers(kind):
            continue
        needs = f"its {part} {identity['name']!r} comes from the plugin"
        if "file" in identity:
            file = f"file {identity['file']} (sha256 {identity['sha256'][:12]}…)"
            return f"{needs} {file}, which is not loaded. Pass it with --plugin."
        name, version = identity["plugin"], identity["version"]
        return f"{needs} {name} {version}, which is not installed. Install it with: pip install {name}."
    return "a plugin that it needs is missing."
