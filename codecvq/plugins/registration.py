"""Registrations of plugins, their origin, and failures of plugins."""

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

MAX_REASON_LENGTH = 200  # characters of an error in a warning or listing


@dataclass(frozen=True)
class Origin:
    """Where a plugin comes from: an entry point of a distribution, or a file or module named by the user."""

    distribution: str  # "codecvq", "codecvq-ternary"; the stem of a file; the name of a module
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
    """An error of a plugin or of one of its registrations."""

    origin: Origin
    error: BaseException

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"

    @property
    def reason(self) -> str:
        """The error as one short line."""
        kind = "" if isinstance(self.error, PluginError) else f"{type(self.error).__name__}: "
        text = f"{kind}{' '.join(_text_of(self.error).split())}"
        return text if len(text) <= MAX_REASON_LENGTH else f"{text[:MAX_REASON_LENGTH]}…"

    def details(self) -> str:
        """Return the traceback without frames of codecvq and the import system.

        `codecvq plugins doctor` shows it.
        """
        error = self.error
        if isinstance(error, PluginError) and error.__cause__ is not None:  # from `contained`
            error = error.__cause__
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if not _is_internal(frame.filename)
        ]
        lines = ["Traceback:\n", *traceback.format_list(frames)] if frames else []
        return "".join([*lines, *traceback.format_exception_only(error)]).rstrip()


@dataclass(frozen=True)
class Registration(Generic[S]):
    """One spec that a plugin registers, with its origin, for example `Registration[QuantizerSpec]`."""

    spec: S
    origin: Origin
    module: ModuleType | object = field(repr=False)  # the plugin: a module, or an object with hooks

    @property
    def qualified_name(self) -> str:
        """`distribution/name`, unique to this plugin."""
        return f"{self.origin.distribution}/{self.spec.name}"

    @property
    def identity(self) -> dict[str, str]:
        """Metadata of the plugin for checkpoints: name, distribution, version, and file with hash."""
        record = {"name": self.spec.name, "plugin": self.origin.distribution, "version": self.origin.version}
        if self.origin.file:
            record |= {"file": str(self.origin.file), "sha256": self.origin.sha256}
        return record

    def load(self) -> Callable[..., Any]:
        """Return the factory; imports it if the spec names it by a string."""
        return self.import_field(self.spec.factory, "factory")

    def import_field(self, named: str | Callable[..., Any], field: str) -> Callable[..., Any]:
        """Return the object that a `field` of the spec names; imports it if it is a string.

        The string is "module:attribute", or ":attribute" in the plugin's own module. Raises PluginError if
        the import fails.
        """
        if not isinstance(named, str):
            return named
        module_name, _, attribute = named.partition(":")
        try:
            with contained():
                target: Any = importlib.import_module(module_name) if module_name else self.module
                for part in attribute.split("."):
                    target = getattr(target, part)
            return target
        except Exception as error:  # importing third-party code may raise anything
            raise PluginError(
                f"{self.spec.name!r} of {self.origin} did not load: its {field} {named!r} raised "
                f"{type(error).__name__}: {error}. Reinstall or update that plugin."
            ) from error

    def make(self, **arguments: Any) -> Any:  # Any: depends on the kind
        """Call the factory and return its result. Its stdout is redirected to stderr.

        Raises PluginError if the factory tries to end the process; any other exception passes unchanged.
        """
        factory = self.load()
        with contained():
            return factory(**arguments)

    def path(self) -> Path:
        """Return the path of a recipe's file, relative to the plugin's module."""
        return self.bundled_path(str(self.spec.factory))

    def bundled_path(self, name: str) -> Path:
        """Return the path of a bundled file or folder, given relative to the plugin's module."""
        module = getattr(self.module, "__file__", None) or "."
        return Path(module).resolve().parent / name


def _is_internal(file: str) -> bool:
    """Whether a file in a traceback belongs to codecvq or to Python's import system."""
    return file.startswith(
        (str(Path(__file__).parents[1]), str(Path(importlib.__file__).parent), "<frozen importlib")
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # `__str__` of a third-party exception may raise
        return "(an error without a text)"
