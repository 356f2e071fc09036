"""Who offers what, what failed to load, and why.

pluggy keeps the hooks; finding the plugins is done here, because `PluginManager.load_setuptools_entrypoints`
lets one broken plugin stop the host and skips a second entry point of the same name without a word. Loaded
are the entry points of the group `codecvq`, the built-ins among them, and the files or modules that the user
names on the command line or in a call of `load`. Nothing is loaded because a recipe, a codec or a dataset
names it, and nothing from the working folder by itself.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import itertools
import logging
import os
import re
import reprlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from codecvq.api import hookspecs
from codecvq.api.hookspecs import API_VERSION, PROJECT, Spec
from codecvq.errors import PluginError, UnknownName, nearest
from codecvq.plugins.offer import Offer, Origin, PluginFailure
from codecvq.plugins.strangers import contained

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
MOST_BYTES = 10 << 20  # of a plugin file
LONGEST_FAILURE = 200  # characters of a failure in the error about a name
MOST_OFFERS = 1000  # that one hook of one plugin may yield
#: types that fields of specs are annotated with; those that are not here are not checked
FIELD_TYPES: dict[str, type] = {"str": str, "int": int, "bool": bool, "tuple[str, ...]": tuple}


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
        found = [(_origin_of(entry), entry) for entry in self._entry_points()]
        for origin, entry in sorted(found, key=lambda pair: (pair[0].distribution, pair[0].entry_point)):
            if entry.name in disabled or origin.distribution in disabled:
                continue
            try:
                with contained():
                    plugin = entry.load()
                    self._register(plugin, origin)
            except Exception as error:  # a stranger's import may raise anything
                self._fail(origin, error)

    def _entry_points(self) -> list[importlib.metadata.EntryPoint]:
        """The entry points of the group. Where one distribution cannot be read, those of all the others."""
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
                self._fail(Origin(_name_of(distribution), "", ""), error)
        return list(found.values())

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
        del self.origins[str(origin)]
        self.failures = [failure for failure in self.failures if failure.origin != origin]
        self._offers.clear()

    def _register(self, plugin: ModuleType | object, origin: Origin) -> None:
        hooks = self._check_hooks(plugin)
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
        if not hooks:
            logger.warning(
                "plugin %s offers nothing: no function in it is marked with @codecvq.hookimpl", origin
            )

    def _check_hooks(self, plugin: ModuleType | object) -> list[str]:
        """The hooks that a plugin implements. Raises PluginError for one that is misspelt, of a newer
        codecvq, or lacks `@hookimpl`: pluggy would ignore it.
        """
        found = []
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
            found += [name] if marked else []
        return found

    def _fail(self, origin: Origin, error: BaseException) -> None:
        failure = PluginFailure(origin, error)
        if str(failure) in map(str, self.failures):  # hooks are called again after a plugin was added
            return
        self.failures.append(failure)
        logger.warning("plugin %s failed (%s). Details: codecvq plugins doctor", origin, failure.reason)

    # asking

    def offers(self, kind: str) -> dict[str, list[Offer]]:
        """Name -> all who offer it, sorted by name; more than one means that the bare name cannot be used."""
        if kind not in self._offers:
            found: dict[str, list[Offer]] = {}
            hook, spec_type = KINDS[kind]
            for plugin_name, plugin, implementation in self._implementations(hook):
                origin = self.origins[plugin_name]
                specs, error = _specs_of(implementation, hook, spec_type)
                for spec in specs:
                    found.setdefault(spec.name, []).append(Offer(spec, origin, plugin))
                if error is not None:
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
        for failure in self.failures[:3]:
            text += f" Not loaded: {str(failure)[:LONGEST_FAILURE]}."
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
                with contained():
                    self.manager.subset_hook_caller(hook, others)(**arguments)
            except Exception as error:  # a stranger's function; losing a training to it would be worse
                logger.warning(
                    "%s of plugin %s failed: %s: %s", hook, plugin_name, type(error).__name__, error
                )

    def _implementations(self, hook: str) -> Iterator[tuple[str, object, Callable[..., Any]]]:
        implementations = getattr(self.manager.hook, hook).get_hookimpls()
        for implementation in sorted(implementations, key=lambda i: i.plugin_name):
            yield implementation.plugin_name, implementation.plugin, implementation.function


def _specs_of(
    hook: Callable[[], Iterable[Spec]], name: str, spec_type: type[Spec]
) -> tuple[list[Spec], Exception | None]:
    """What a plugin's hook offers, as far as it can be used; and the first thing that is wrong with it."""
    offered: list[Spec] = []
    specs: dict[str, Spec] = {}
    wrong: Exception | None = None
    try:
        with contained():
            given = hook()
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise PluginError(f"its hook {name} returned {reprlib.repr(given)}; it has to yield specs")
            offered.extend(itertools.islice(given, MOST_OFFERS))
            if len(offered) == MOST_OFFERS:
                raise PluginError(f"its hook {name} yields {MOST_OFFERS} specs or more; the rest is left out")
    except Exception as error:  # a stranger's function
        wrong = error
    for spec in offered:
        try:
            _check_spec(spec, spec_type)
            if spec.name in specs:
                raise PluginError(f"its hook {name} yields the name {spec.name!r} twice")
            specs[spec.name] = spec
        except Exception as error:  # a stranger's object, which has a stranger's attributes
            wrong = wrong or error
    return list(specs.values()), wrong


def _check_spec(spec: object, spec_type: type[Spec]) -> None:
    if not isinstance(spec, spec_type):
        raise PluginError(f"it yields {reprlib.repr(spec)}; this hook takes {spec_type.__name__} objects")
    for field in dataclasses.fields(spec):
        value, needed = getattr(spec, field.name), FIELD_TYPES.get(str(field.type))
        if needed and not isinstance(value, needed):
            raise PluginError(
                f"{spec.name!r}: {field.name} is {reprlib.repr(value)}; it has to be of type {field.type}"
            )
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
