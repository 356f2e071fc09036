"""Who offers what, what failed to load, and why.

pluggy keeps the hooks; finding the plugins is done here, because `PluginManager.load_setuptools_entrypoints`
lets one broken plugin stop the host and skips a second entry point of the same name without a word. Loaded
are the entry points of the group `codecvq`, the built-ins among them, and the files or modules that the user
names; nothing is loaded from the working folder by itself.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from codecvq import hookspecs
from codecvq.errors import PluginError, UnknownName, nearest
from codecvq.hookspecs import API_VERSION, PROJECT, Spec

logger = logging.getLogger(PROJECT)

#: kind of offer -> (its hook, the spec it must yield)
KINDS: dict[str, tuple[str, type[Spec]]] = {
    "quantizers": ("codecvq_quantizers", hookspecs.QuantizerSpec),
    "estimators": ("codecvq_estimators", hookspecs.EstimatorSpec),
    "networks": ("codecvq_networks", hookspecs.NetworkSpec),
    "metrics": ("codecvq_metrics", hookspecs.MetricSpec),
    "codecs": ("codecvq_codecs", hookspecs.CodecSpec),
    "corpora": ("codecvq_corpora", hookspecs.CorpusSpec),
    "recipes": ("codecvq_recipes", hookspecs.RecipeSpec),
}
NAME = re.compile(r"[a-z][a-z0-9_]*(-[a-z0-9_]+)*")


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
        return f"{self.origin}: {type(self.error).__name__}: {self.error}"

    def details(self) -> str:
        """The traceback, for `codecvq plugins doctor`."""
        return "".join(traceback.format_exception(self.error)).rstrip()


@dataclass(frozen=True)
class Offer:
    """One thing that one plugin offers."""

    spec: Spec
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
        """The factory, imported now if the spec names it by string; of a codec's folder one that loads it."""
        if isinstance(self.spec, hookspecs.CodecSpec) and self.spec.folder:
            return self._load_of_folder(self.beside(self.spec.folder))
        factory = self.spec.factory
        if not isinstance(factory, str):
            return factory
        module_name, _, attribute = factory.partition(":")
        try:
            found: Any = importlib.import_module(module_name) if module_name else self.module
            for part in attribute.split("."):
                found = getattr(found, part)
            return found
        except Exception as error:  # a stranger's module may raise anything when it is imported
            raise PluginError(
                f"{self.spec.name!r} of {self.origin} did not load: its factory {factory!r} gave "
                f"{type(error).__name__}: {error}. Reinstall or update that plugin."
            ) from error

    def path(self) -> Path:
        """The file that a recipe's spec names, beside the plugin's module."""
        return self.beside(str(self.spec.factory))

    def beside(self, name: str) -> Path:
        """A file or folder that comes with the plugin, by its path from the plugin's module."""
        module = getattr(self.module, "__file__", None) or "."
        return Path(module).resolve().parent / name

    def _load_of_folder(self, folder: Path) -> Callable[..., Any]:
        if not folder.is_dir():
            raise PluginError(
                f"{self.spec.name!r} of {self.origin} did not load: its folder {folder} does not exist. "
                "Reinstall or update that plugin."
            )
        from codecvq.codec import load_folder

        return functools.partial(load_folder, folder)


class Registry:
    """Everything that is loaded, everything that failed, and who offered what."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.origins: dict[str, Origin] = {}  # pluggy's name of a plugin -> origin
        self.failures: list[PluginFailure] = []
        self._known_hooks = {name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_")}
        self._offers: dict[str, dict[str, list[Offer]]] = {}  # kind -> name -> who offers it

    # loading

    def load_installed(self, disabled: Collection[str] = ()) -> None:
        """Register every entry point of the group; a failure is kept and told in one line, and the rest goes
        on.
        """
        entries = importlib.metadata.entry_points(group=PROJECT)
        for entry in sorted(entries, key=lambda entry: (entry.dist.name if entry.dist else "", entry.name)):
            origin = Origin(
                entry.dist.name if entry.dist else "?", entry.dist.version if entry.dist else "", entry.name
            )
            if entry.name in disabled or origin.distribution in disabled:
                continue
            try:
                self._register(entry.load(), origin)
            except Exception as error:  # a stranger's import may raise anything
                self._fail(origin, error)

    def load(self, source: str | Path, relative_to: Path | None = None) -> Origin:
        """The origin of the file or module that the user named, registered now (once). Raises PluginError
        when it cannot be.
        """
        text = str(source)
        if text.endswith(".py") or os.sep in text:
            return self._load_file(((relative_to or Path.cwd()) / Path(text).expanduser()).resolve())
        origin = Origin(text, "", "")
        if str(origin) not in self.origins:
            try:
                self._register(importlib.import_module(text), origin)
            except Exception as error:
                raise PluginError(
                    f"plugin {text!r} did not load: {type(error).__name__}: {error}. "
                    f"Give a module that can be imported, or a file as ./my_plugin.py."
                ) from error
        return origin

    def _load_file(self, path: Path) -> Origin:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PluginError(
                f"plugin file {path} cannot be read ({error.strerror}). Check the path."
            ) from error
        origin = Origin(path.stem, "", "", path, hashlib.sha256(content).hexdigest())
        if self.origins.get(str(origin)) == origin:
            return origin
        if str(origin) in self.origins:
            raise PluginError(
                f"plugin file {path} changed after it was loaded. Start a new process to use the new one."
            )
        name = f"{PROJECT}_file_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{origin.sha256[:8]}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise PluginError(f"plugin file {path} is not Python source. Give a file that ends in .py.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = (
            module  # so that classes in it can be pickled and its dataclasses resolve their annotations
        )
        try:
            spec.loader.exec_module(module)
            self._register(module, origin)
        except Exception as error:
            del sys.modules[name]
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
        """Take a registered plugin back, with everything that it offers."""
        self.manager.unregister(name=str(origin))
        del self.origins[str(origin)]
        self._offers.clear()

    def _register(self, plugin: ModuleType | object, origin: Origin) -> None:
        self._check_hooks(plugin)
        try:
            self.manager.register(plugin, str(origin))
        except ValueError:
            raise PluginError(f"{origin} is registered already under another entry point or name") from None
        except Exception:
            if self.manager.has_plugin(str(origin)):
                self.manager.unregister(name=str(origin))
            raise
        self.origins[str(origin)] = origin
        self._offers.clear()

    def _check_hooks(self, plugin: ModuleType | object) -> None:
        """Raise PluginError for a hook that is misspelt, of a newer codecvq, or lacks `@hookimpl`: pluggy
        would ignore it.
        """
        for name in dir(plugin):
            marked = self.manager.parse_hookimpl_opts(plugin, name) is not None
            if marked and name not in self._known_hooks:
                raise PluginError(
                    f"it implements the hook {name!r}, which this codecvq does not "
                    f"know.{nearest(name, self._known_hooks)} "
                    f"Known: {', '.join(sorted(self._known_hooks))}. Correct the name, or update codecvq."
                )
            if name in self._known_hooks and not marked and inspect.isroutine(getattr(plugin, name)):
                raise PluginError(f"its function {name!r} is not marked. Put @codecvq.hookimpl above it.")

    def _fail(self, origin: Origin, error: BaseException) -> None:
        failure = PluginFailure(origin, error)
        self.failures.append(failure)
        logger.warning(
            "plugin %s did not load (%s). Details: codecvq plugins doctor", origin, type(error).__name__
        )

    # asking

    def offers(self, kind: str) -> dict[str, list[Offer]]:
        """Name -> all who offer it, sorted by name; more than one means that the bare name cannot be used."""
        if kind not in self._offers:
            found: dict[str, list[Offer]] = {}
            hook, spec_type = KINDS[kind]
            for plugin_name, plugin, implementation in self._implementations(hook):
                origin = self.origins[plugin_name]
                try:
                    for spec in implementation():
                        _check_spec(spec, spec_type)
                        found.setdefault(spec.name, []).append(Offer(spec, origin, plugin))
                except Exception as error:  # a stranger's function
                    self._fail(origin, error)
            self._offers[kind] = dict(sorted(found.items()))
        return self._offers[kind]

    def find(self, kind: str, name: str) -> Offer:
        """The one offer under `name` or `distribution/name`.

        Raises UnknownName, which lists the known names, the nearest one and every plugin that failed; and
        PluginError when two plugins offer the name.
        """
        offers = self.offers(kind)
        distribution, slash, bare = name.rpartition("/")
        candidates = [o for o in offers.get(bare, []) if not slash or o.origin.distribution == distribution]
        if len(candidates) == 1:
            return candidates[0]
        if not candidates:
            raise UnknownName(self.unknown(kind, name, offers))
        both = " and by ".join(str(offer.origin) for offer in candidates)
        raise PluginError(
            f"{kind[:-1]} {name!r} is offered by {both}. Say which one you mean: "
            f"{' or '.join(offer.qualified_name for offer in candidates)}; or disable one: "
            "CODECVQ_DISABLE_PLUGINS=NAME."
        )

    def unknown(self, kind: str, name: str, known: Collection[str]) -> str:
        """The text of an error about a name that nobody offers."""
        singular = {"corpora": "corpus", "metrics": "metric"}.get(kind, kind[:-1])
        text = f"no {singular} named {name!r}; known: {', '.join(known) or 'none'}.{nearest(name, known)}"
        for failure in self.failures:
            text += f" Not loaded: {failure}."
        return text + (" Details: codecvq plugins doctor." if self.failures else "")

    def __getattr__(self, kind: str) -> Callable[[], dict[str, Offer]]:
        """`registry.metrics()`, `registry.quantizers()` …: name -> offer, under qualified names where two
        plugins clash.
        """
        if kind not in KINDS:
            raise AttributeError(kind)
        return lambda: {
            (offer.spec.name if len(offers) == 1 else offer.qualified_name): offer
            for offers in self.offers(kind).values()
            for offer in offers
        }

    def call(self, hook: str, **arguments: object) -> None:
        """Call a hook of every plugin; one that raises is told in one line, and the others are called all the
        same.
        """
        for plugin_name, plugin, _ in self._implementations(hook):
            others = [other for other in self.manager.get_plugins() if other is not plugin]
            try:
                self.manager.subset_hook_caller(hook, others)(**arguments)
            except Exception as error:  # a stranger's function; losing a training to it would be worse
                logger.warning(
                    "%s of plugin %s failed: %s: %s", hook, plugin_name, type(error).__name__, error
                )

    def _implementations(self, hook: str) -> Iterator[tuple[str, object, Callable[..., Any]]]:
        implementations = getattr(self.manager.hook, hook).get_hookimpls()
        for implementation in sorted(implementations, key=lambda i: i.plugin_name):
            yield implementation.plugin_name, implementation.plugin, implementation.function


def _check_spec(spec: object, spec_type: type[Spec]) -> None:
    if not isinstance(spec, spec_type):
        raise PluginError(f"it yields {spec!r}; this hook takes {spec_type.__name__} objects")
    if not NAME.fullmatch(spec.name):
        raise PluginError(
            f"it offers the name {spec.name!r}; names are lower case letters, digits and underscores, as in "
            "'my_vq', and hyphens between them, as in 'speech-16k'"
        )
    if spec.api > API_VERSION:
        raise PluginError(
            f"{spec.name!r} was written for plugin API {spec.api}, this codecvq has {API_VERSION}: update "
            "codecvq"
        )


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
