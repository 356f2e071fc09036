"""Metrics by name: which are there, which cannot be used and why, and the call that measures a clip."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from codecvq.api.hookspecs import MetricSpec
from codecvq.errors import CodecvqError, MissingExtra, PluginError, install_advice
from codecvq.plugins.third_party import contained

if TYPE_CHECKING:
    import numpy as np

    from codecvq.plugins import Registry
    from codecvq.plugins.registration import Registration

#: What a table begins with, where it is there: the measures that listeners agree with best (of those without
#: a network).
LEADING = ("pesq_wb", "pesq_nb", "estoi", "stoi")


class MetricUndefined(Exception):  # a state of one clip, which evaluation lists, not a user's error
    """A metric has no value for a clip, and why: the clip is listed and left out of that mean."""


@dataclass(frozen=True)
class Metric:
    """A metric that is ready to measure."""

    name: str
    spec: MetricSpec
    function: Callable[[np.ndarray, np.ndarray, int], Mapping[str, float]] = field(repr=False)
    packages: Mapping[str, str]  # distribution -> version, of what the spec requires, and of the plugin

    def measure(self, reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> dict[str, float]:
        """The finite value of each of the spec's columns. Shapes: both `[S]`.

        Raises MetricUndefined for a clip without a value, PluginError when the metric does not keep to its
        spec, and whatever a stranger's function raises.
        """
        with contained():
            values = dict(self.function(reference, decoded, sample_rate))
        if set(values) != set(self.spec.columns):
            raise PluginError(
                f"metric {self.name!r} gave the columns {sorted(values)}, "
                f"its spec promises {sorted(self.spec.columns)}. Update that plugin."
            )
        for column, value in values.items():
            if not math.isfinite(value):
                raise MetricUndefined(f"{column} came out as {value}")
        return {column: float(values[column]) for column in self.spec.columns}


@dataclass(frozen=True)
class Unavailable:
    """A registered metric that cannot be used here, and what to do."""

    name: str
    reason: str
    error: CodecvqError = field(repr=False, compare=False)


@dataclass(frozen=True)
class MetricSet:
    """The metrics of an evaluation, in the order of its tables, and the default ones that cannot be used."""

    ready: tuple[Metric, ...]
    unavailable: tuple[Unavailable, ...] = ()


def prepare(names: Iterable[str] | None = None, registry: Registry | None = None) -> MetricSet:
    """The metrics named, or every default one that can be used here, ready to measure.

    Without names, a default metric whose packages are missing is listed in `unavailable`. One that was asked
    for by name is an error: MissingExtra where an extra of codecvq brings it, UnknownName where nobody offers
    it.
    """
    from codecvq.plugins import registry as the_registry

    registry = registry or the_registry()
    if names is not None:
        return MetricSet(
            tuple(_ready(registry.find(MetricSpec, name), name) for name in dict.fromkeys(names))
        )
    ready, unavailable = [], []
    for name, registration in _leading_first(registry.all(MetricSpec)):
        if not registration.spec.default:
            continue
        try:
            ready.append(_ready(registration, name))
        except CodecvqError as error:
            unavailable.append(Unavailable(name, str(error), error))
    return MetricSet(tuple(ready), tuple(unavailable))


def unavailable(registry: Registry | None = None) -> list[Unavailable]:
    """The registered metrics whose packages are not installed, for a list; imports no metric."""
    from codecvq.plugins import registry as the_registry

    found = []
    for name, registration in _leading_first((registry or the_registry()).all(MetricSpec)):
        spec = registration.spec
        if missing := missing_packages(spec):
            error = _missing(name, spec, missing)
            found.append(Unavailable(name, str(error), error))
    return found


def missing_packages(spec: MetricSpec) -> list[str]:
    """Those of the spec's import names that cannot be found; nothing is imported."""
    return [package for package in spec.requires if not _is_installed(package)]


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package.partition(".")[0]) is not None
    except ValueError:  # an empty name, or a module that a plugin has made by hand
        return False


def _leading_first(
    registrations: Mapping[str, Registration[MetricSpec]],
) -> list[tuple[str, Registration[MetricSpec]]]:
    """The offers with the leading metrics first; the others stay as they are."""
    rank = {name: place for place, name in enumerate(LEADING)}
    return sorted(registrations.items(), key=lambda item: rank.get(item[0], len(rank)))


def _ready(registration: Registration[MetricSpec], name: str) -> Metric:
    spec = registration.spec
    if missing := missing_packages(spec):
        raise _missing(name, spec, missing)
    registration.load()
    try:
        function = registration.make()
    except Exception as error:  # a stranger's factory, or a package that is there and does not load
        raise PluginError(
            f"metric {name!r} of {registration.origin} could not be made: {type(error).__name__}: {error}. "
            f"Reinstall {', '.join(spec.requires) or registration.origin.distribution}, or leave the "
            "metric out."
        ) from error
    packages = _versions(spec.requires)
    if registration.origin.version:
        packages[registration.origin.distribution] = registration.origin.version
    return Metric(name, spec, function, packages)


def _missing(name: str, spec: MetricSpec, missing: list[str]) -> CodecvqError:
    if spec.extra:
        return MissingExtra(f"metric {name!r}", missing[0], spec.extra)
    return PluginError(
        f"metric {name!r} needs {missing[0]!r}, which is not installed. {install_advice(missing[0])}"
    )


def _versions(modules: Iterable[str]) -> dict[str, str]:
    """Distribution -> version for import names."""
    distributions = importlib.metadata.packages_distributions() if modules else {}
    names = {name for module in modules for name in distributions.get(module.partition(".")[0], [])}
    return {name: importlib.metadata.version(name) for name in sorted(names)}
