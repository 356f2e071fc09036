"""The entry points of the group `codecvq`, of all distributions that are installed.

`pluggy.PluginManager.load_setuptools_entrypoints` lets one broken plugin stop the host and skips a second
entry point of the same name; so they are read here.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

from codecvq.api.hookspecs import PROJECT
from codecvq.plugins.registration import Origin

Found = tuple[Origin, importlib.metadata.EntryPoint]


def entry_points(fail: Callable[[Origin, Exception], None]) -> list[Found]:
    """The entry points of the group, sorted by distribution and name. `fail` is called for a distribution
    that cannot be read.
    """
    found = [(_origin_of(entry), entry) for entry in _readable(fail)]
    return sorted(found, key=lambda pair: (pair[0].distribution, pair[0].entry_point))


def library_origin() -> Origin:
    """The origin of what the library offers itself."""
    try:
        version = importlib.metadata.version(PROJECT)
    except Exception:  # no or damaged metadata: importlib.metadata has several errors for it
        version = ""
    return Origin(PROJECT, version, "library")


def _readable(fail: Callable[[Origin, Exception], None]) -> list[importlib.metadata.EntryPoint]:
    try:
        return list(importlib.metadata.entry_points(group=PROJECT))
    except Exception:  # metadata of a stranger: looked at one by one below
        pass
    found: dict[tuple[str, str], importlib.metadata.EntryPoint] = {}
    for distribution in importlib.metadata.distributions():
        try:
            for entry in distribution.entry_points:
                if entry.group == PROJECT:  # of two copies of a distribution the first is imported
                    found.setdefault((_origin_of(entry).distribution, entry.name), entry)
        except Exception as error:
            fail(Origin(_name_of(distribution), "", ""), error)
    return list(found.values())


def _origin_of(entry: importlib.metadata.EntryPoint) -> Origin:
    """Of an entry point; the metadata of its distribution may be damaged or gone."""
    try:
        version = str(entry.dist.version or "") if entry.dist else ""
    except Exception:  # no or damaged metadata: importlib.metadata has several errors for it
        version = ""
    return Origin(_name_of(entry.dist) if entry.dist else "?", version, entry.name)


def _name_of(distribution: importlib.metadata.Distribution) -> str:
    """The distribution's name; of one without metadata the name of its folder, or "?"."""
    try:
        name = distribution.metadata["Name"]
    except Exception:  # no or damaged metadata, as above
        name = None
    folder = getattr(distribution, "_path", None)  # private, and there is no other way to name it
    return str(name or getattr(folder, "name", "?"))
