"""Plugins that a recipe declares.

They are compared with the loaded plugins and never loaded from here: a recipe may be untrusted, and a plugin
is code.

An entry is the name of a module, or the path of a file. `#sha256=…` after the path pins the file. The recipe
in a run folder pins the files that the training used.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from codecvq.errors import PluginError, UnknownName
from codecvq.json_file import read_bounded
from codecvq.plugins import registry
from codecvq.plugins.registration import Origin

_PINNED = re.compile(r"(.+)#sha256=([0-9a-f]{64})", re.DOTALL)
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_MAX_BYTES = 10 << 20  # of a plugin file that is hashed for an error message


@dataclass(frozen=True)
class DeclaredPlugin:
    """One entry of a recipe's `plugins`."""

    source: str  # path of a file, or name of a module
    sha256: str = ""  # of a pinned file

    @classmethod
    def parse(cls, text: str) -> DeclaredPlugin:
        """Parse an entry of a recipe."""
        pinned = _PINNED.fullmatch(text)
        return cls(pinned[1], pinned[2]) if pinned else cls(text)

    def __str__(self) -> str:
        return f"{self.source}#sha256={self.sha256}" if self.sha256 else self.source

    @property
    def is_file(self) -> bool:
        """Whether the entry is a file; otherwise it is a module."""
        return self.source.endswith(".py") or "/" in self.source

    def resolved(self, folder: Path) -> DeclaredPlugin:
        """Return the entry with an absolute path; relative paths start at `folder`, the recipe's folder.

        Raises PluginError for an invalid path.
        """
        if not self.is_file:
            return self
        try:
            path = (folder / Path(self.source).expanduser()).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links; an unknown ~user; a NUL
            raise PluginError(
                f"plugins: {self.source!r} is not a valid path ({error}). Correct it."
            ) from error
        return DeclaredPlugin(str(path), self.sha256)

    def loaded_origin(self) -> Origin | None:
        """Return the origin of the matching loaded plugin, or None. Files match by hash, path or name."""
        if not self.is_file:
            return registry().origin_of_module(self.source)
        files = [origin for origin in registry().origins.values() if origin.file]
        path = Path(self.source)
        for matches in (
            [origin for origin in files if origin.sha256 == self.sha256],
            [origin for origin in files if origin.file == path],
            [origin for origin in files if origin.distribution == path.stem],
        ):
            if matches:
                return matches[0]
        return None

    def load_hint(self) -> str:
        """Return the needed plugin and how to load it, for an error message."""
        if not self.is_file:
            flag = f": --plugin {self.source}" if _MODULE.fullmatch(self.source) else " with --plugin"
            return f"the module {self.source!r}. If you trust it, name it{flag}"
        flag = f"--plugin {shlex.quote(self.source)}"
        try:
            content = read_bounded(Path(self.source), _MAX_BYTES, error=PluginError)
        except PluginError:
            pinned = f", sha256 {self.sha256[:12]}…" if self.sha256 else ""
            return f"the file {self.source} (not found{pinned}). Give its path with --plugin"
        digest = hashlib.sha256(content).hexdigest()
        return f"the file {self.source} (sha256 {digest[:12]}…). If you trust it, name it: {flag}"


def pinned_plugins(entries: Sequence[str], named: Sequence[Origin] = ()) -> list[str]:
    """Return the entries with the hashes of the loaded files, followed by the other plugins of `named`.

    Raises PluginError if a plugin is not loaded, or if the loaded file is not the pinned one.
    """
    pinned: dict[str, None] = {}
    for entry in map(DeclaredPlugin.parse, entries):
        origin = entry.loaded_origin()
        if origin is None:
            raise PluginError(
                "the recipe needs a plugin; plugins are code, so a recipe does not load them by itself: "
                f"{entry.load_hint()}"
            )
        if entry.sha256 and origin.sha256 != entry.sha256:
            raise PluginError(
                f"the recipe needs the plugin file {entry.source} with sha256 {entry.sha256[:12]}…; "
                f"{origin.file}, which is loaded, has {origin.sha256[:12]}…. Give the file that the recipe "
                "names, or remove its '#sha256=' from the recipe to use this one."
            )
        pinned[_entry_of(origin) if origin.file else str(entry)] = None
    return list(pinned | dict.fromkeys(map(_entry_of, named)))


def same_plugins(before: Sequence[str], after: Sequence[str]) -> bool:
    """Whether two recipes need the same plugins.

    Files are compared by hash, or by name if one of them has no hash.
    """
    old, new = (sorted(map(DeclaredPlugin.parse, entries), key=_key) for entries in (before, after))
    return len(old) == len(new) and all(map(_same, old, new))


@contextmanager
def explain_missing_plugins(entries: Sequence[str]) -> Iterator[None]:
    """Context manager: adds the first declared plugin that is not loaded to the text of an UnknownName."""
    try:
        yield
    except UnknownName as error:
        missing = missing_plugins(entries)
        if not missing:
            raise
        raise UnknownName(f"{error} The recipe needs a plugin: {missing[0]}") from error


def missing_plugins(entries: Sequence[str]) -> list[str]:
    """Return the load hints of the entries that are not loaded."""
    return [
        entry.load_hint() for entry in map(DeclaredPlugin.parse, entries) if entry.loaded_origin() is None
    ]


def _entry_of(origin: Origin) -> str:
    return str(DeclaredPlugin(str(origin.file), origin.sha256)) if origin.file else origin.distribution


def _key(entry: DeclaredPlugin) -> str:
    return Path(entry.source).name


def _same(one: DeclaredPlugin, other: DeclaredPlugin) -> bool:
    if one.sha256 and other.sha256:
        return one.sha256 == other.sha256
    return _key(one) == _key(other)
