"""Codecs that plugins offer under a name, ready for use: which there are, and which one a name means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from codecvq.api.hookspecs import CodecSpec
from codecvq.errors import CodecError
from codecvq.plugins import registry
from codecvq.plugins.offer import Offer


def codec_offer(name: str | Path) -> Offer | None:
    """The codec offered under `name` or `distribution/name`; None where a file or folder has that path, which
    goes before, or where the name is nobody's. Raises PluginError when two plugins offer it.
    """
    if os.path.exists(name) or str(name).rpartition("/")[2] not in registry().offers("codecs"):
        return None
    return registry().find("codecs", str(name))


def spec_of(offer: Offer) -> CodecSpec:
    """What the plugin says of its codec."""
    return cast(CodecSpec, offer.spec)


def unknown_codec(name: str | Path, foreign: bool = False) -> CodecError:
    """An error that lists the names; with `foreign` those of others' codecs too."""
    offers = registry().codecs()
    known = [name for name, offer in offers.items() if foreign or not spec_of(offer).foreign]
    why = registry().unknown("codecs", str(name), known)
    return CodecError(f"{name} is not a codec: there is no such folder, and {why}")
