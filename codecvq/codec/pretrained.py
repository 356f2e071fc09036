"""Codecs that plugins offer under a name, ready for use: which there are, and which one a name means."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codecvq.api.hookspecs import CodecSpec
from codecvq.errors import CodecError, PluginError
from codecvq.plugins import registry
from codecvq.plugins.offer import Offer


def codec_offer(name: str | Path) -> Offer[CodecSpec] | None:
    """The codec offered under `name` or `distribution/name`; None where a file or folder has that path, which
    goes before, or where the name is nobody's. Raises PluginError when two plugins offer it.
    """
    if os.path.exists(name) or str(name).rpartition("/")[2] not in registry().offers(CodecSpec):
        return None
    return registry().find(CodecSpec, str(name))


def codec_factory(offer: Offer[CodecSpec]) -> Callable[..., Any]:
    """What makes the offered codec, called with `device`: the plugin's factory, or one that loads its folder.

    Raises PluginError where it cannot be imported, or the folder does not exist.
    """
    if not offer.spec.folder:
        return offer.load()
    folder = offer.beside(offer.spec.folder)
    if not folder.is_dir():
        raise PluginError(
            f"{offer.spec.name!r} of {offer.origin} did not load: its folder {folder} does not exist. "
            "Reinstall or update that plugin."
        )
    from codecvq.codec.loading import load_folder

    return functools.partial(load_folder, folder)


def unknown_codec(name: str | Path, foreign: bool = False) -> CodecError:
    """An error that lists the names; with `foreign` those of others' codecs too."""
    offers = registry().all(CodecSpec)
    known = [name for name, offer in offers.items() if foreign or not offer.spec.foreign]
    why = registry().unknown(CodecSpec, str(name), known)
    return CodecError(f"{name} is not a codec: there is no such folder, and {why}")
