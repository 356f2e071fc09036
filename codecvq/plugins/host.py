"""`Registry`: loads plugins, and records their registrations and failures.

pluggy stores and calls the hooks in its order and with its wrappers; each implementation is guarded
(`codecvq.plugins.guard`). The registry loads the built-in registrations (`codecvq.plugins.library`), the
entry points of the group `codecvq`, which include bundled plugins, and the files or modules that the user
names on the command line or passes to `load`. It never loads a plugin because a recipe, a codec or a dataset
names it, and it does not search the working folder.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, overload

import pluggy

from codecvq.api import hookspecs
from codecvq.api.hookspecs import PROJECT, Spec
from codecvq.errors import PluginError, UnknownName, nearest
from codecvq.plugins import library
from codecvq.plugins.guard import Guards, call_contained
from codecvq.plugins.installed import entry_points, library_origin
from codecvq.plugins.registration import Origin, PluginFailure, Registration
from codecvq.plugins.specs import collect_specs
from codecvq.plugins.third_party import contained

logger = logging.getLogger(PROJECT)

#: kind of registration -> the spec type that its hook codecvq_KIND yields
KINDS: dict[str, type[Spec]] = {
    "quantizers": hookspecs.QuantizerSpec,
    "estimators": hookspecs.EstimatorSpec,
    "networks": hookspecs.NetworkSpec,
    "network_parts": hookspecs.NetworkPartSpec,
    "losses": hookspecs.LossSpec,
    "teachers": hookspecs.TeacherSpec,
    "metrics": hookspecs.MetricSpec,
    "codecs": hookspecs.CodecSpec,
    "corpora": hookspecs.CorpusSpec,
    "readers": hookspecs.ReaderSpec,
    "recipes": hookspecs.RecipeSpec,
}
MAX_BYTES = 10 << 20  # of a plugin file
MAX_FAILURE_LENGTH = 200  # characters of a failure in an UnknownName error

S = TypeVar("S", bound=Spec)


class Registry:
    """Loaded plugins, their registrations, and failures.

    Methods take a kind of registration as a spec class (`QuantizerSpec`) or as its name in `KINDS`
    ("quantizers").
    """

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.origins: dict[str, Origin] = {}  # plugin name in pluggy -> origin
        self.failures: list[PluginFailure] = []
        self._plugins: dict[str, ModuleType | object] = {}  # plugin name in pluggy -> plugin
        self._known_hooks = {name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_")}
        # kind -> name -> its registrations
        self._registrations: dict[str, dict[str, list[Registration[Any]]]] = {}
        self._by_spec: dict[int, Registration[Any]] = {}  # id of a spec -> registration, during a hook call
        self._lock = threading.RLock()

    # loading

    def load_installed(self, disabled: Collection[str] = ()) -> None:
        """Register the built-in registrations and all entry points of the group.

        `disabled` has names of entry points or distributions to skip.

        A failure is logged and stored in `failures`; the other plugins are still loaded.
        """
        self._register(library, library_origin())
        for origin, entry in entry_points(self._fail):
            if entry.name in disabled or origin.distribution in disabled:
                continue
            try:
                with contained():
                    plugin = entry.load()
                    self._register(plugin, origin)
            except Exception as error:  # importing third-party code may raise anything
                self._fail(origin, error)

    def load(self, source: str | Path) -> Origin:
        """Load and register a plugin file or module, once, and return its origin.

        Raises PluginError if it cannot be loaded or registered.
        """
        text = str(source)
        if text.endswith(".py") or os.sep in text:
            return self._load_file(_absolute(text))
        if os.path.isfile(text):
            raise PluginError(
                f"plugin {text!r} is a file without the ending .py. Give a Python file or a module."
            )
        origin = Origin(text, "", "")
        if str(origin) not in self.origins:
            try:
                with contained():
                    self._register(importlib.import_module(text), origin)
            except Exception as error:
                raise PluginError(
                    f"plugin {text!r} did not load: {type(error).__name__}: {error}. "
                    f"Give an importable module, or a file such as ./my_plugin.py."
                ) from error
        return origin

    def _load_file(self, path: Path) -> Origin:
        from codecvq.json_file import read_bounded  # imports pydantic, which listing plugins does not need

        content = read_bounded(path, MAX_BYTES, error=PluginError, advice="Check the path.")
        origin = Origin(path.stem, "", "", path, hashlib.sha256(content).hexdigest())
        if self.origins.get(str(origin)) == origin:
            return origin
        if str(origin) in self.origins:
            raise PluginError(
                f"plugin file {path} changed after it was loaded. Start a new process to use the new one."
            )
        name = f"{PROJECT}_file_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{origin.sha256[:8]}"
        module = ModuleType(name)
        module.__file__ = str(path)
        # needed to pickle classes of the module and to resolve annotations of its dataclasses
        sys.modules[name] = module
        try:
            with contained():
                # run exactly the hashed text: Python's loader could use a .pyc file instead
                exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)
                self._register(module, origin)
        except BaseException as error:
            del sys.modules[name]
            if not isinstance(error, Exception):  # an interrupt by the user
                raise
            raise PluginError(f"plugin file {path} did not load: {type(error).__name__}: {error}") from error
        return origin

    def register(self, plugin: ModuleType | object, name: str) -> Origin:
        """Register a module or any object with hook implementations, and return its origin.

        For notebooks and tests. Raises PluginError if the plugin or the name is already registered, or if a
        hook is invalid.
        """
        origin = Origin(name, "", "")
        self._register(plugin, origin)
        return origin

    def unregister(self, origin: Origin) -> None:
        """Unregister a plugin, and remove its registrations and failures."""
        self.manager.unregister(name=str(origin))
        del self.origins[str(origin)], self._plugins[str(origin)]
        self.failures = [failure for failure in self.failures if failure.origin != origin]
        self._registrations.clear()

    def plugins_of(self, source: str) -> list[ModuleType | object]:
        """Return the loaded plugins of a distribution, of a file with that stem, or of a named module."""
        return [plugin for key, plugin in self._plugins.items() if self.origins[key].distribution == source]

    def origin_of_module(self, name: str) -> Origin | None:
        """Return the origin of the plugin module of that name; None if it is not loaded."""
        keys = [key for key, plugin in self._plugins.items() if getattr(plugin, "__name__", "") == name]
        return self.origins[keys[0]] if keys else None

    def _register(self, plugin: ModuleType | object, origin: Origin) -> None:
        key = str(origin)
        if key in self.origins or any(plugin is other for other in self._plugins.values()):
            raise PluginError(f"{origin} is already registered under another entry point or name")
        hooks = self._hooks_of(plugin)
        try:
            self.manager.register(self._guarded(plugin, origin, hooks), key)
        except Exception:
            if self.manager.has_plugin(key):
                self.manager.unregister(name=key)
            raise
        self.origins[key], self._plugins[key] = origin, plugin
        self._registrations.clear()
        if not hooks:
            logger.warning(
                "plugin %s registers nothing: none of its functions is marked with @codecvq.hookimpl", origin
            )

    def _hooks_of(self, plugin: ModuleType | object) -> dict[str, str]:
        """Return function name -> hook name of a plugin.

        Raises PluginError for an unknown hook, and for a function that is named like a hook but not marked.
        """
        hooks: dict[str, str] = {}
        for name in dir(plugin):
            options = self.manager.parse_hookimpl_opts(plugin, name)
            if options is None:
                if name in self._known_hooks and inspect.isroutine(getattr(plugin, name)):
                    raise PluginError(f"its function {name!r} is not marked. Put @codecvq.hookimpl above it.")
                continue
            hooks[name] = hook = options["specname"] or name
            if hook not in self._known_hooks and not options["optionalhook"]:
                raise PluginError(
                    f"it implements the hook {hook!r}, which this codecvq does not "
                    f"have.{nearest(hook, self._known_hooks)} "
                    f"Known: {', '.join(sorted(self._known_hooks))}. Correct the name, or update codecvq."
                )
        return hooks

    def _guarded(self, plugin: ModuleType | object, origin: Origin, hooks: Mapping[str, str]) -> Guards:
        guards = Guards()
        for name, hook in hooks.items():
            options = self.manager.parse_hookimpl_opts(plugin, name)
            assert options is not None, "_hooks_of returns marked functions only"
            function, kind = getattr(plugin, name), hook.removeprefix(f"{PROJECT}_")
            if kind in KINDS:
                collect = functools.partial(self._collect_specs, kind, origin, plugin)
                guards.add(name, function, options, functools.partial(self._fail, origin), collect)
            else:
                report = functools.partial(_log, hook, origin)
                guards.add(name, function, options, report, call_contained)
        return guards

    def _collect_specs(
        self, kind: str, origin: Origin, plugin: ModuleType | object, hook: Callable[[], Iterable[Spec]]
    ) -> list[Spec]:
        """Call a hook of a plugin and return its valid specs.

        Each spec is registered for the plugin, unless another plugin yielded the same object before. An
        error is recorded as a failure of the plugin.
        """
        specs, error = collect_specs(hook, f"{PROJECT}_{kind}", KINDS[kind])
        for spec in specs:
            self._by_spec.setdefault(id(spec), Registration(spec, origin, plugin))
        if error is not None:
            self._fail(origin, error)
        return specs

    def _fail(self, origin: Origin, error: Exception) -> None:
        failure = PluginFailure(origin, error)
        if str(failure) in map(str, self.failures):  # hooks are called again after a plugin is added
            return
        self.failures.append(failure)
        logger.warning("plugin %s failed (%s). Details: codecvq plugins doctor", origin, failure.reason)

    # lookup

    @overload
    def registrations(self, kind: type[S]) -> dict[str, list[Registration[S]]]: ...
    @overload
    def registrations(self, kind: str) -> dict[str, list[Registration[Spec]]]: ...
    def registrations(self, kind: type[Spec] | str) -> Mapping[str, list[Registration[Any]]]:
        """Return name -> all registrations of that name, sorted by name.

        If there is more than one, the name is ambiguous and needs its qualified form.
        """
        name = _name_of(kind)
        with self._lock:
            if name not in self._registrations:
                self._registrations[name] = self._call_hooks(name)
            return self._registrations[name]

    def _call_hooks(self, kind: str) -> dict[str, list[Registration[Any]]]:
        before, self._by_spec = self._by_spec, {}  # a hook may look up registrations of another kind
        try:
            collected: dict[str, list[Registration[Any]]] = {}
            for specs in getattr(self.manager.hook, f"{PROJECT}_{kind}")():
                for spec in specs:
                    collected.setdefault(spec.name, []).append(self._by_spec[id(spec)])
            return dict(sorted(collected.items()))
        finally:
            self._by_spec = before

    @overload
    def all(self, kind: type[S]) -> dict[str, Registration[S]]: ...
    @overload
    def all(self, kind: str) -> dict[str, Registration[Spec]]: ...
    def all(self, kind: type[Spec] | str) -> Mapping[str, Registration[Any]]:
        """Return name -> registration, with qualified names for ambiguous ones."""
        return {
            (registration.spec.name if len(registrations) == 1 else registration.qualified_name): registration
            for registrations in self.registrations(_name_of(kind)).values()
            for registration in registrations
        }

    @overload
    def find(self, kind: type[S], name: str) -> Registration[S]: ...
    @overload
    def find(self, kind: str, name: str) -> Registration[Spec]: ...
    def find(self, kind: type[Spec] | str, name: str) -> Registration[Any]:
        """Look up the registration `name` or `distribution/name`.

        Raises UnknownName if no plugin registers the name; the message lists known names, the nearest one and
        plugins that failed to load. Raises PluginError if several plugins register the name.
        """
        registrations = self.registrations(_name_of(kind))
        distribution, slash, bare = name.rpartition("/")
        candidates = [
            each
            for each in registrations.get(bare, [])
            if not slash or each.origin.distribution == distribution
        ]
        if len(candidates) == 1:
            return candidates[0]
        if not candidates:
            raise UnknownName(self.unknown_name_message(kind, name, registrations))
        candidates.sort(key=lambda registration: str(registration.origin))
        both = " and by ".join(str(registration.origin) for registration in candidates)
        raise PluginError(
            f"{_singular(kind)} {name!r} is registered by {both}. Use a qualified name: "
            f"{' or '.join(registration.qualified_name for registration in candidates)}; or disable one: "
            "CODECVQ_DISABLE_PLUGINS=NAME."
        )

    def unknown_name_message(self, kind: type[Spec] | str, name: str, known: Collection[str]) -> str:
        """Return the text of an UnknownName error: known names, the nearest one, and failed plugins."""
        names = ", ".join(known) or "none"
        text = f"no {_singular(kind)} named {name!r}; known: {names}.{nearest(name, known)}"
        for failure in self.failures[:3]:
            text += f" Not loaded: {str(failure)[:MAX_FAILURE_LENGTH]}."
        return text + (" Details: codecvq plugins doctor." if self.failures else "")

    def call(self, hook: str, **arguments: object) -> None:
        """Call a hook of all plugins, in pluggy's order and with its wrappers.

        An exception in one plugin is logged as a warning; the other plugins are still called.
        """
        getattr(self.manager.hook, hook)(**arguments)


def _log(hook: str, origin: Origin, error: Exception) -> None:
    logger.warning("%s of plugin %s failed: %s: %s", hook, origin, type(error).__name__, error)


def _name_of(kind: type[Spec] | str) -> str:
    """Return the name of a kind in `KINDS`; a subclass of a spec has the kind of its base."""
    if isinstance(kind, str):
        return kind
    return next(name for name, spec_type in KINDS.items() if issubclass(kind, spec_type))


def _singular(kind: type[Spec] | str) -> str:
    name = _name_of(kind) if not isinstance(kind, str) else kind
    return {"corpora": "corpus", "losses": "loss"}.get(name, name.removesuffix("s").replace("_", " "))


def _absolute(text: str) -> Path:
    """Return the absolute path of a plugin file, links resolved. Raises PluginError for an invalid path."""
    try:
        return Path(text).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links; an unknown ~user; a NUL
        raise PluginError(f"plugin file {text!r} cannot be read ({error}). Check the path.") from error


@functools.cache
def registry() -> Registry:
    """Return the registry of this process, with all installed plugins.

    The environment variable CODECVQ_DISABLE_PLUGINS is a comma-separated list of entry points or
    distributions to skip.
    """
    loaded = Registry()
    loaded.load_installed(
        disabled=[name for name in os.environ.get("CODECVQ_DISABLE_PLUGINS", "").split(",") if name]
    )
    return loaded


def load(source: str | Path) -> Origin:
    """Load a plugin file (`./my_vq.py`) or module into this process, and return its origin.

    Raises PluginError if it cannot be loaded or registered.
    """
    return registry().load(source)
