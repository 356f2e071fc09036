"""Codecs that plugins offer under a name, ready for use: which there are, and which one a name means."""

from __future__ import annotations

import os
from pathlib import Path

from codecvq.api.hookspecs import CodecSpec
from codecvq.errors import CodecError, PluginError
from codecvq.plugins import registry
from codecvq.plugins.registration import Registration


def codec_registration(name: str | Path) -> Registration[CodecSpec] | None:
    """The codec offered under `name` or `distribution/name`; None where a file or folder has that path, which
    goes before, or if no plugin offers the name. Raises PluginError when two plugins offer it.
    """
    if os.path.exists(name) or str(name).rpartition("/")[2] not in registry().registrations(CodecSpec):
        return None
    return registry().find(CodecSpec, str(name))


def codec_folder(registration: Registration[CodecSpec]) -> Path | None:
    """The folder of the offered codec; None where a factory makes it. Raises PluginError where the folder
    does not exist.
    """
    if not registration.spec.folder:
        return None
    folder = registration.bundled_path(registration.spec.folder)
    if not folder.is_dir():
        raise PluginError(
            f"{registration.spec.name!r} of {registration.origin} did not load: its folder {folder} "
            "does not exist. "
            "Reinstall or update that plugin."
        )
    return folder


def unknown_codec(name: str | Path, foreign: bool = False) -> CodecError:
    """An error that lists the names; with `foreign` those of others' codecs too."""
    registrations = registry().all(CodecSpec)
    known = [name for name, registration in registrations.items() if foreign or not registration.spec.foreign]
    why = registry().unknown_name_message(CodecSpec, str(name), known)
    return CodecError(f"{name} is not a codec: there is no such folder, and {why}")
