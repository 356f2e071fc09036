"""What a plugin offers, where it came from, and why it could not be used."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from codecvq.api.hookspecs import Spec
from codecvq.errors import PluginError
from codecvq.plugins.third_party import contained

S = TypeVar("S", bound=Spec, covariant=True)

LONGEST_REASON = 200  # characters of an error in a warning or a list


@dataclass(frozen=True)
class Origin:
    """Where a plugin came from: an entry point of a distribution, or a file that the user named."""

    distribution: str  # "codecvq", "codecvq-ternary"; the stem for a file, the module's name for a module
    version: str  # of the distribution; empty for a file or module
    entry_point: str  # empty for a file or module
    file: Path | None = None
    sha256: str = ""  # of the file

    def __str__(self) -> str:
        if self.file:
            return f"file {self.file}"
        version = f" {self.version}" if self.version else ""
        return f"{self.distribution}{version}" + (
            f" (entry point {self.entry_point!r})" if self.entry_point else ""
        )


@dataclass(frozen=True)
class PluginFailure:
    """A plugin, or one offer of a plugin, that could not be used."""

    origin: Origin
    error: BaseException

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"

    @property
    def reason(self) -> str:
        """The error in one short line."""
        kind = "" if isinstance(self.error, PluginError) else f"{type(self.error).__name__}: "
        text = f"{kind}{' '.join(_text_of(self.error).split())}"
        return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"

    def details(self) -> str:
        """The traceback from the plugin's own code on, for `codecvq plugins doctor`."""
        error = self.error
        if isinstance(error, PluginError) and error.__cause__ is not None:  # of `contained`
            error = error.__cause__
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]
        lines = ["Traceback:\n", *traceback.format_list(own)] if own else []
        return "".join([*lines, *traceback.format_exception_only(error)]).rstrip()


@dataclass(frozen=True)
class Registration(Generic[S]):
    """One thing that one plugin offers: `Registration[QuantizerSpec]`, say."""

    spec: S
    origin: Origin
    module: ModuleType | object = field(repr=False)

    @property
    def qualified_name(self) -> str:
        """`distribution/name`, which no other plugin can take."""
        return f"{self.origin.distribution}/{self.spec.name}"

    @property
    def identity(self) -> dict[str, str]:
        """What a checkpoint records of the plugin: never its code."""
        record = {"name": self.spec.name, "plugin": self.origin.distribution, "version": self.origin.version}
        if self.origin.file:
            record |= {"file": str(self.origin.file), "sha256": self.origin.sha256}
        return record

    def load(self) -> Callable[..., Any]:
        """The factory, imported now if the spec names it by string."""
        return self.import_field(self.spec.factory, "factory")

    def import_field(self, named: str | Callable[..., Any], field: str) -> Callable[..., Any]:
        """What a `field` of the spec names, imported now if it is a string "module:attribute". A string
        ":attribute" is in the plugin's own module. Raises PluginError where it cannot be imported.
        """
        if not isinstance(named, str):
            return named
        module_name, _, attribute = named.partition(":")
        try:
            with contained():
                found: Any = importlib.import_module(module_name) if module_name else self.module
                for part in attribute.split("."):
                    found = getattr(found, part)
            return found
        except Exception as error:  # a stranger's module may raise anything when it is imported
            raise PluginError(
                f"{self.spec.name!r} of {self.origin} did not load: its {field} {named!r} gave "
                f"{type(error).__name__}: {error}. Reinstall or update that plugin."
            ) from error

    def make(self, **arguments: Any) -> Any:  # Any: what a factory takes and makes depends on the kind
        """What the factory makes. What it prints goes to stderr; raises PluginError if it ends the process,
        and whatever else a stranger's function raises.
        """
        factory = self.load()
        with contained():
            return factory(**arguments)

    def path(self) -> Path:
        """The file that a recipe's spec names, beside the plugin's module."""
        return self.bundled_path(str(self.spec.factory))

    def bundled_path(self, name: str) -> Path:
        """A file or folder that comes with the plugin, by its path from the plugin's module."""
        module = getattr(self.module, "__file__", None) or "."
        return Path(module).resolve().parent / name


def _is_ours(file: str) -> bool:
    """Whether a frame of a traceback is of codecvq, or of Python's import."""
    return file.startswith(
        (str(Path(__file__).parents[1]), str(Path(importlib.__file__).parent), "<frozen importlib")
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a stranger's exception
        return "(an error without a text)"
