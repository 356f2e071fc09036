"""Looks up pretrained codecs that plugins register under a name."""

from __future__ import annotations

import os
from pathlib import Path

from codecvq.api.hookspecs import CodecSpec
from codecvq.errors import CodecError, PluginError
from codecvq.plugins import registry
from codecvq.plugins.registration import Registration


def codec_registration(name: str | Path) -> Registration[CodecSpec] | None:
    """Look up the codec registered as `name` or `distribution/name`.

    Returns None if no plugin registers the name, or if a file or folder of that path exists: paths take
    precedence. Raises PluginError if several plugins register the name.
    """
    if os.path.exists(name) or str(name).rpartition("/")[2] not in registry().registrations(CodecSpec):
        return None
    return registry().find(CodecSpec, str(name))


def codec_folder(registration: Registration[CodecSpec]) -> Path | None:
    """Return the folder of a registered codec; None if it has a factory instead.

    Raises PluginError if the folder does not exist.
    """
    if not registration.spec.folder:
        return None
    folder = registration.bundled_path(registration.spec.folder)
    if not folder.is_dir():
        raise PluginError(
            f"{registration.spec.name!r} of {registration.origin} did not load: its folder {folder} "
            "does not exist. Reinstall or update that plugin."
        )
    return folder


def unknown_codec(name: str | Path, external: bool = False) -> CodecError:
    """Return an error that lists the registered names; with `external`, also external codecs."""
    registrations = registry().all(CodecSpec)
    known = [
        name for name, registration in registrations.items() if external or not registration.spec.external
    ]
    why = registry().unknown_name_message(CodecSpec, str(name), known)
    advice = (
        " CODEC@N works in codecvq compare; encode and tokenize take --num-codebooks."
        if "@" in str(name)
        else ""
    )
    return CodecError(f"{name} is not a codec: there is no such folder, and {why}{advice}")
