"""Plugins that a recipe says it needs. They are compared with those that are loaded, and never loaded here: a
recipe may be a stranger's, and a plugin is code.

An entry is a module, or the path of a file, with `#sha256=…` behind it where the file is pinned. The recipe
in a run folder pins those that the training used.
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
_MOST_BYTES = 10 << 20  # of a plugin file that is hashed to show what it is


@dataclass(frozen=True)
class DeclaredPlugin:
    """One entry of a recipe's `plugins`."""

    source: str  # the path of a file, or a module
    sha256: str = ""  # of the file, where it is pinned

    @classmethod
    def parse(cls, text: str) -> DeclaredPlugin:
        """The entry as it stands in a recipe."""
        pinned = _PINNED.fullmatch(text)
        return cls(pinned[1], pinned[2]) if pinned else cls(text)

    def __str__(self) -> str:
        return f"{self.source}#sha256={self.sha256}" if self.sha256 else self.source

    @property
    def is_file(self) -> bool:
        """Whether it is a file rather than a module."""
        return self.source.endswith(".py") or "/" in self.source

    def resolved(self, folder: Path) -> DeclaredPlugin:
        """The entry with the absolute path of its file, which is relative to the recipe's `folder`."""
        if not self.is_file:
            return self
        try:
            path = (folder / Path(self.source).expanduser()).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links; ~nobody; a NUL
            raise PluginError(f"plugins: {self.source!r} is no path ({error}). Correct it.") from error
        return DeclaredPlugin(str(path), self.sha256)

    def loaded_origin(self) -> Origin | None:
        """The origin of the loaded plugin that is meant: a file is found by hash, path or name."""
        if not self.is_file:
            return registry().origin_of_module(self.source)
        files = [origin for origin in registry().origins.values() if origin.file]
        path = Path(self.source)
        for same in (
            [origin for origin in files if origin.sha256 == self.sha256],
            [origin for origin in files if origin.file == path],
            [origin for origin in files if origin.distribution == path.stem],
        ):
            if same:
                return same[0]
        return None

    def load_hint(self) -> str:
        """What is needed, for an error, and how to load it."""
        if not self.is_file:
            flag = f": --plugin {self.source}" if _MODULE.fullmatch(self.source) else " with --plugin"
            return f"the module {self.source!r}. If you trust it, name it{flag}"
        flag = f"--plugin {shlex.quote(self.source)}"
        try:
            content = read_bounded(Path(self.source), _MOST_BYTES, error=PluginError)
        except PluginError:
            pinned = f", sha256 {self.sha256[:12]}…" if self.sha256 else ""
            return (
                f"the file {self.source} (not found{pinned}). Name the place where you have it with --plugin"
            )
        digest = hashlib.sha256(content).hexdigest()
        return f"the file {self.source} (sha256 {digest[:12]}…). If you trust it, name it: {flag}"


def pinned_plugins(entries: Sequence[str], named: Sequence[Origin] = ()) -> list[str]:
    """The entries with the hashes of the files that are loaded, and those of `named` that are not among them.

    Raises PluginError for one that is not loaded, and for one whose file is not the one that is pinned.
    """
    found: dict[str, None] = {}
    for entry in map(DeclaredPlugin.parse, entries):
        origin = entry.loaded_origin()
        if origin is None:
            raise PluginError(
                "the recipe needs a plugin, which is code and is not loaded because a recipe says so: "
                f"{entry.load_hint()}"
            )
        if entry.sha256 and origin.sha256 != entry.sha256:
            raise PluginError(
                f"the recipe needs the plugin file {entry.source} with sha256 {entry.sha256[:12]}…; "
                f"{origin.file}, which is loaded, has {origin.sha256[:12]}…. Give the file that the recipe "
                "names, or remove its '#sha256=' from the recipe to use this one."
            )
        found[_entry_of(origin) if origin.file else str(entry)] = None
    return list(found | dict.fromkeys(map(_entry_of, named)))


def same_plugins(before: Sequence[str], after: Sequence[str]) -> bool:
    """Whether two recipes need the same plugins: files count as the same by their hash, or by their name
    where one has no hash.
    """
    old, new = (sorted(map(DeclaredPlugin.parse, entries), key=_key) for entries in (before, after))
    return len(old) == len(new) and all(map(_same, old, new))


@contextmanager
def explain_missing_plugins(entries: Sequence[str]) -> Iterator[None]:
    """Add to an UnknownName of the block which plugins the recipe declares that are not loaded."""
    try:
        yield
    except UnknownName as error:
        missing = missing_plugins(entries)
        if not missing:
            raise
        raise UnknownName(f"{error} The recipe needs a plugin: {missing[0]}") from error


def missing_plugins(entries: Sequence[str]) -> list[str]:
    """Which of the entries are not loaded, and how to load them."""
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
