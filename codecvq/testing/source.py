"""`PluginSource`: the source files of a plugin, so that a failure can name a line in them."""

from __future__ import annotations

import inspect
import linecache
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType

LIBRARY_PACKAGES = ("codecvq", "torch", "builtins")  # packages that are not plugin code
#: Suffixes of method names: plain, of a SequenceQuantizer, of a ConditionalQuantizer.
METHOD_SUFFIXES = ("", "_items", "_given")


class PluginSource:
    """The source files of the classes, functions or modules that a plugin provides."""

    def __init__(self, *objects: object) -> None:
        self._classes: list[type] = [each for each in objects if inspect.isclass(each)]
        self._functions: list[FunctionType] = [each for each in objects if inspect.isfunction(each)]
        classes = [each for plugin_class in self._classes for each in plugin_class.__mro__]
        modules = [getattr(each, "__module__", "") for each in (*classes, *self._functions)]
        self._files = frozenset(filter(None, map(_root_path, modules)))

    def frame(self, error: BaseException) -> str:
        """The innermost plugin line in the traceback of an error or of its causes; empty if there is none."""
        location = ""
        for each in _causes(error):
            plugin_frames = [
                frame for frame in traceback.extract_tb(each.__traceback__) if self._contains(frame.filename)
            ]
            if plugin_frames:
                location = _format_location(
                    plugin_frames[-1].filename, plugin_frames[-1].lineno or 1, plugin_frames[-1].name
                )
        return location

    def definition(self, names: Iterable[str]) -> str:
        """Location of the first of these methods that the plugin overrides, else of its class or function.

        Empty if there is no source.
        """
        for name in names:
            for variant in METHOD_SUFFIXES:
                for plugin_class in self._classes:
                    method = inspect.getattr_static(plugin_class, name + variant, None)
                    if isinstance(method, property):
                        method = method.fget
                    code = getattr(inspect.unwrap(method), "__code__", None) if callable(method) else None
                    if code is not None and self._contains(code.co_filename):
                        return _format_location(code.co_filename, _line_of_def(code), code.co_name)
        objects: list[type | FunctionType] = [*self._classes, *self._functions]
        for each in objects:
            try:
                file, line = inspect.getsourcefile(each) or "", inspect.getsourcelines(each)[1]
            except (OSError, TypeError):  # no source: defined in a notebook, or compiled
                continue
            if self._contains(file):
                return _format_location(file, line, each.__qualname__)
        return ""

    def _contains(self, file: str) -> bool:
        return any(file == path or file.startswith(path + os.sep) for path in self._files)


def _root_path(module_name: str) -> str:
    """The folder of a third-party package or its single file; for a bundled plugin, the file of the module.

    Empty for code that is not part of a plugin.
    """
    top = module_name.partition(".")[0]
    if not top or top in LIBRARY_PACKAGES[1:]:
        return ""
    module = sys.modules.get(module_name if top in LIBRARY_PACKAGES else top)
    file = getattr(module, "__file__", None) or ""
    if top in LIBRARY_PACKAGES:
        return "" if module_name.startswith(("codecvq.quantizer", "codecvq.testing")) else file
    return str(Path(file).parent) if file and hasattr(module, "__path__") else file


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its chain of causes."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _line_of_def(code: object) -> int:
    """The line with `def`. A code object starts at its decorators."""
    first, file = code.co_firstlineno, code.co_filename  # type: ignore[attr-defined]
    for line in range(first, first + 10):
        if linecache.getline(file, line).lstrip().startswith(("def ", "async def ", "lambda")):
            return line
    return int(first)


def _format_location(file: str, line: int, name: str) -> str:
    """Format a location for printing: file, line and function, then the source line."""
    path = Path(file)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    source = linecache.getline(file, line).strip()
    return f"{shown}:{line}, in {name}" + (f"\n    {source}" if source else "")
