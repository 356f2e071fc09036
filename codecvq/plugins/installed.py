"""Reads the entry points of the group `codecvq` of all installed distributions.

`pluggy.PluginManager.load_setuptools_entrypoints` is not used: it stops at the first broken plugin and skips
a second entry point of the same name.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

from codecvq.api.hookspecs import PROJECT
from codecvq.plugins.registration import Origin

InstalledPlugin = tuple[Origin, importlib.metadata.EntryPoint]


def entry_points(fail: Callable[[Origin, Exception], None]) -> list[InstalledPlugin]:
    """Return the entry points of the group, sorted by distribution and name.

    `fail` is called for each distribution that cannot be read.
    """
    entries = [(_origin_of(entry), entry) for entry in _readable(fail)]
    return sorted(entries, key=lambda pair: (pair[0].distribution, pair[0].entry_point))


def library_origin() -> Origin:
    """Return the origin of the built-in registrations in `codecvq.plugins.library`."""
    try:
        version = importlib.metadata.version(PROJECT)
    except Exception:  # missing or damaged metadata raises various errors
        version = ""
    return Origin(PROJECT, version, "library")


def _readable(fail: Callable[[Origin, Exception], None]) -> list[importlib.metadata.EntryPoint]:
    try:
        return list(importlib.metadata.entry_points(group=PROJECT))
    except Exception:  # damaged third-party metadata: read each distribution below
        pass
    entries: dict[tuple[str, str], importlib.metadata.EntryPoint] = {}
    for distribution in importlib.metadata.distributions():
        try:
            for entry in distribution.entry_points:
                if entry.group == PROJECT:  # Python imports the first of two copies
                    entries.setdefault((_origin_of(entry).distribution, entry.name), entry)
        except Exception as error:
            fail(Origin(_name_of(distribution), "", ""), error)
    return list(entries.values())


def _origin_of(entry: importlib.metadata.EntryPoint) -> Origin:
    """Return the origin of an entry point. The metadata of its distribution may be damaged or missing."""
    try:
        version = str(entry.dist.version or "") if entry.dist else ""
    except Exception:  # missing or damaged metadata raises various errors
        version = ""
    return Origin(_name_of(entry.dist) if entry.dist else "?", version, entry.name)


def _name_of(distribution: importlib.metadata.Distribution) -> str:
    """Return the distribution's name; without metadata the name of its folder, or "?"."""
    try:
        name = distribution.metadata["Name"]
    except Exception:  # missing or damaged metadata
        name = None
    folder = getattr(distribution, "_path", None)  # private attribute; there is no public one
    return str(name or getattr(folder, "name", "?"))
