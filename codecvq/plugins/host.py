"""Who offers what, what failed to load, and why.

pluggy keeps the hooks and calls them, in its own order and with its wrappers; each implementation is guarded
(`codecvq.plugins.guard`). Loaded are what the library offers itself (`codecvq.plugins.library`), the entry
points of the group `codecvq`, the built-ins among them, and the files or modules that the user names on the
command line or in a call of `load`. Nothing is loaded because a recipe, a codec or a dataset names it, and
nothing from the working folder by itself.
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

#: kind of offer -> the spec that its hook codecvq_KIND yields
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
MOST_BYTES = 10 << 20  # of a plugin file
LONGEST_FAILURE = 200  # characters of a failure in the error about a name

S = TypeVar("S", bound=Spec)


class Registry:
    """Everything that is loaded, everything that failed, and who offered what.

    A kind of offer is its spec class, as `QuantizerSpec`, or its name in `KINDS`, as "quantizers".
    """

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.origins: dict[str, Origin] = {}  # pluggy's name of a plugin -> origin
        self.failures: list[PluginFailure] = []
        self._plugins: dict[str, ModuleType | object] = {}  # pluggy's name of a plugin -> the plugin
        self._known_hooks = {name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_")}
        # kind -> name -> its registrations
        self._registrations: dict[str, dict[str, list[Registration[Any]]]] = {}
        self._given: dict[int, Registration[Any]] = {}  # id of a spec -> registration, during a hook call
        self._lock = threading.RLock()

    # loading

    def load_installed(self, disabled: Collection[str] = ()) -> None:
        """Register what the library offers itself, and every entry point of the group but those that are
        disabled; a failure is kept and logged in one line, and the rest goes on.
        """
        self._register(library, library_origin())
        for origin, entry in entry_points(self._fail):
            if entry.name in disabled or origin.distribution in disabled:
                continue
            try:
                with contained():
                    plugin = entry.load()
                    self._register(plugin, origin)
            except Exception as error:  # a stranger's import may raise anything
                self._fail(origin, error)

    def load(self, source: str | Path) -> Origin:
        """The origin of the file or module that the user named, registered now (once). Raises PluginError
        when it cannot be.
        """
        text = str(source)
        if text.endswith(".py") or os.sep in text:
            return self._load_file(_absolute(text))
        origin = Origin(text, "", "")
        if str(origin) not in self.origins:
            try:
                with contained():
                    self._register(importlib.import_module(text), origin)
            except Exception as error:
                raise PluginError(
                    f"plugin {text!r} did not load: {type(error).__name__}: {error}. "
                    f"Give a module that can be imported, or a file as ./my_plugin.py."
                ) from error
        return origin

    def _load_file(self, path: Path) -> Origin:
        from codecvq.json_file import read_bounded  # brings pydantic, which a list of plugins does without

        content = read_bounded(path, MOST_BYTES, error=PluginError, advice="Check the path.")
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
        # so that classes in it can be pickled and its dataclasses resolve their annotations
        sys.modules[name] = module
        try:
            with contained():
                # what was hashed is what runs: Python's own loader would prefer a .pyc file beside it
                exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)
                self._register(module, origin)
        except BaseException as error:
            del sys.modules[name]
            if not isinstance(error, Exception):  # the user's interrupt
                raise
            raise PluginError(f"plugin file {path} did not load: {type(error).__name__}: {error}") from error
        return origin

    def register(self, plugin: ModuleType | object, name: str) -> Origin:
        """The origin of a plugin object, for notebooks and tests: a module, or any object with hook
        implementations.
        """
        origin = Origin(name, "", "")
        self._register(plugin, origin)
        return origin

    def unregister(self, origin: Origin) -> None:
        """Take a registered plugin back, with everything that it offers and its failures."""
        self.manager.unregister(name=str(origin))
        del self.origins[str(origin)], self._plugins[str(origin)]
        self.failures = [failure for failure in self.failures if failure.origin != origin]
        self._registrations.clear()

    def plugins_of(self, source: str) -> list[ModuleType | object]:
        """The loaded plugins of a distribution, of the file with that stem, or of a module that was named."""
        return [plugin for key, plugin in self._plugins.items() if self.origins[key].distribution == source]

    def origin_of_module(self, name: str) -> Origin | None:
        """The origin of the plugin that is the module of that name; None where it is not loaded."""
        of_module = [key for key, plugin in self._plugins.items() if getattr(plugin, "__name__", "") == name]
        return self.origins[of_module[0]] if of_module else None

    def _register(self, plugin: ModuleType | object, origin: Origin) -> None:
        key = str(origin)
        if key in self.origins or any(plugin is other for other in self._plugins.values()):
            raise PluginError(f"{origin} is registered already under another entry point or name")
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
                "plugin %s offers nothing: no function in it is marked with @codecvq.hookimpl", origin
            )

    def _hooks_of(self, plugin: ModuleType | object) -> dict[str, str]:
        """Function of a plugin -> its hook. Raises PluginError for a hook that is misspelt, of a newer
        codecvq, or not marked.
        """
        found: dict[str, str] = {}
        for name in dir(plugin):
            options = self.manager.parse_hookimpl_opts(plugin, name)
            if options is None:
                if name in self._known_hooks and inspect.isroutine(getattr(plugin, name)):
                    raise PluginError(f"its function {name!r} is not marked. Put @codecvq.hookimpl above it.")
                continue
            found[name] = hook = options["specname"] or name
            if hook not in self._known_hooks and not options["optionalhook"]:
                raise PluginError(
                    f"it implements the hook {hook!r}, which this codecvq does not "
                    f"know.{nearest(hook, self._known_hooks)} "
                    f"Known: {', '.join(sorted(self._known_hooks))}. Correct the name, or update codecvq."
                )
        return found

    def _guarded(self, plugin: ModuleType | object, origin: Origin, hooks: Mapping[str, str]) -> Guards:
        guards = Guards()
        for name, hook in hooks.items():
            options = self.manager.parse_hookimpl_opts(plugin, name)
            assert options is not None, "_hooks_of gives functions that are marked"
            function, kind = getattr(plugin, name), hook.removeprefix(f"{PROJECT}_")
            if kind in KINDS:
                take = functools.partial(self._take, kind, origin, plugin)
                guards.add(name, function, options, functools.partial(self._fail, origin), take)
            else:
                report = functools.partial(_log, hook, origin)
                guards.add(name, function, options, report, call_contained)
        return guards

    def _take(
        self, kind: str, origin: Origin, plugin: ModuleType | object, give: Callable[[], Iterable[Spec]]
    ) -> list[Spec]:
        """The usable specs that a plugin gives. Each is noted as its offer, unless another plugin gave it
        before; what is wrong is a failure of the plugin.
        """
        specs, error = collect_specs(give, f"{PROJECT}_{kind}", KINDS[kind])
        for spec in specs:
            self._given.setdefault(id(spec), Registration(spec, origin, plugin))
        if error is not None:
            self._fail(origin, error)
        return specs

    def _fail(self, origin: Origin, error: Exception) -> None:
        failure = PluginFailure(origin, error)
        if str(failure) in map(str, self.failures):  # hooks are called again after a plugin was added
            return
        self.failures.append(failure)
        logger.warning("plugin %s failed (%s). Details: codecvq plugins doctor", origin, failure.reason)

    # asking

    @overload
    def registrations(self, kind: type[S]) -> dict[str, list[Registration[S]]]: ...
    @overload
    def registrations(self, kind: str) -> dict[str, list[Registration[Spec]]]: ...
    def registrations(self, kind: type[Spec] | str) -> Mapping[str, list[Registration[Any]]]:
        """Name -> all who offer it, sorted by name; more than one means that the bare name cannot be used."""
        name = _name_of(kind)
        with self._lock:
            if name not in self._registrations:
                self._registrations[name] = self._collected(name)
            return self._registrations[name]

    def _collected(self, kind: str) -> dict[str, list[Registration[Any]]]:
        before, self._given = self._given, {}  # a hook may ask for the offers of another kind
        try:
            found: dict[str, list[Registration[Any]]] = {}
            for specs in getattr(self.manager.hook, f"{PROJECT}_{kind}")():
                for spec in specs:
                    found.setdefault(spec.name, []).append(self._given[id(spec)])
            return dict(sorted(found.items()))
        finally:
            self._given = before

    @overload
    def all(self, kind: type[S]) -> dict[str, Registration[S]]: ...
    @overload
    def all(self, kind: str) -> dict[str, Registration[Spec]]: ...
    def all(self, kind: type[Spec] | str) -> Mapping[str, Registration[Any]]:
        """Name -> offer, under qualified names where two plugins offer one name."""
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
        """The one offer under `name` or `distribution/name`.

        Raises UnknownName, which lists the known names, the nearest one and every plugin that failed; and
        PluginError when two plugins offer the name.
        """
        registrations = self.registrations(_name_of(kind))
        distribution, slash, bare = name.rpartition("/")
        candidates = [
            o for o in registrations.get(bare, []) if not slash or o.origin.distribution == distribution
        ]
        if len(candidates) == 1:
            return candidates[0]
        if not candidates:
            raise UnknownName(self.unknown_name_message(kind, name, registrations))
        candidates.sort(key=lambda registration: str(registration.origin))
        both = " and by ".join(str(registration.origin) for registration in candidates)
        raise PluginError(
            f"{_singular(kind)} {name!r} is offered by {both}. Say which one you mean: "
            f"{' or '.join(registration.qualified_name for registration in candidates)}; or disable one: "
            "CODECVQ_DISABLE_PLUGINS=NAME."
        )

    def unknown_name_message(self, kind: type[Spec] | str, name: str, known: Collection[str]) -> str:
        """The text of an error about a name that no plugin offers."""
        names = ", ".join(known) or "none"
        text = f"no {_singular(kind)} named {name!r}; known: {names}.{nearest(name, known)}"
        for failure in self.failures[:3]:
            text += f" Not loaded: {str(failure)[:LONGEST_FAILURE]}."
        return text + (" Details: codecvq plugins doctor." if self.failures else "")

    def call(self, hook: str, **arguments: object) -> None:
        """Call a hook of every plugin, in pluggy's order and with its wrappers. What one raises is logged in
        one line, and the others are called all the same.
        """
        getattr(self.manager.hook, hook)(**arguments)


def _log(hook: str, origin: Origin, error: Exception) -> None:
    logger.warning("%s of plugin %s failed: %s: %s", hook, origin, type(error).__name__, error)


def _name_of(kind: type[Spec] | str) -> str:
    """The kind's name in `KINDS`; of a subclass of a spec that of its base."""
    if isinstance(kind, str):
        return kind
    return next(name for name, spec_type in KINDS.items() if issubclass(kind, spec_type))


def _singular(kind: type[Spec] | str) -> str:
    name = _name_of(kind) if not isinstance(kind, str) else kind
    return {"corpora": "corpus", "losses": "loss"}.get(name, name.removesuffix("s").replace("_", " "))


def _absolute(text: str) -> Path:
    """The absolute path of a plugin file, without links. Raises PluginError for what cannot be a path."""
    try:
        return Path(text).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links; ~nobody; a NUL
        raise PluginError(f"plugin file {text!r} cannot be read ({error}). Check the path.") from error


@functools.cache
def registry() -> Registry:
    """The one registry of this process, with every installed plugin but those in CODECVQ_DISABLE_PLUGINS
    (names, commas between).
    """
    loaded = Registry()
    loaded.load_installed(
        disabled=[name for name in os.environ.get("CODECVQ_DISABLE_PLUGINS", "").split(",") if name]
    )
    return loaded


def load(source: str | Path) -> Origin:
    """The origin of a plugin file (`./my_vq.py`) or module, loaded into this process."""
    return registry().load(source)
