"""Lookup of metrics by name, and measurement of a clip."""

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

#: The first columns of tables: the metrics without a neural network that correlate best with listening tests.
LEADING = ("pesq_wb", "pesq_nb", "estoi", "stoi")


class MetricUndefined(Exception):  # not a CodecvqError: evaluation catches it per clip
    """A metric has no value for a clip. The clip is listed and excluded from the mean of that metric."""


@dataclass(frozen=True)
class Metric:
    """A metric that is ready to use."""

    name: str
    spec: MetricSpec
    function: Callable[[np.ndarray, np.ndarray, int], Mapping[str, float]] = field(repr=False)
    packages: Mapping[str, str]  # distribution -> version, of the plugin and its required packages

    def measure(self, reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> dict[str, float]:
        """Return the finite value of each column of the spec. Shapes: both `[S]`.

        Raises MetricUndefined for a clip without a value, PluginError if the metric does not return the
        columns of its spec, and any exception of a third-party metric.
        """
        with contained():
            values = dict(self.function(reference, decoded, sample_rate))
        if set(values) != set(self.spec.columns):
            raise PluginError(
                f"metric {self.name!r} returned the columns {sorted(values)}, "
                f"but its spec declares {sorted(self.spec.columns)}. Update that plugin."
            )
        for column, value in values.items():
            if not math.isfinite(value):
                raise MetricUndefined(f"{column} is {value}")
        return {column: float(values[column]) for column in self.spec.columns}


@dataclass(frozen=True)
class Unavailable:
    """A registered metric that is not available, and what to do."""

    name: str
    reason: str
    error: CodecvqError = field(repr=False, compare=False)


@dataclass(frozen=True)
class MetricSet:
    """The metrics of an evaluation in table order, and the default metrics that are not available."""

    ready: tuple[Metric, ...]
    unavailable: tuple[Unavailable, ...] = ()


def prepare(names: Iterable[str] | None = None, registry: Registry | None = None) -> MetricSet:
    """Load the metrics with these names, or all available default metrics.

    Without names, a default metric whose packages are missing is listed in `unavailable`. With names, raises
    UnknownName if no plugin registers the name, MissingExtra if an extra of codecvq installs the missing
    package, and PluginError for any other missing package.
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
    """Return the registered metrics whose packages are not installed, without importing any metric."""
    from codecvq.plugins import registry as the_registry

    unavailable_metrics = []
    for name, registration in _leading_first((registry or the_registry()).all(MetricSpec)):
        spec = registration.spec
        if missing := missing_packages(spec):
            error = _missing(name, spec, missing)
            unavailable_metrics.append(Unavailable(name, str(error), error))
    return unavailable_metrics


def missing_packages(spec: MetricSpec) -> list[str]:
    """Return the import names of the spec that are not installed, without importing them."""
    return [package for package in spec.requires if not _is_installed(package)]


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package.partition(".")[0]) is not None
    except ValueError:  # an empty name, or a module without a spec
        return False


def _leading_first(
    registrations: Mapping[str, Registration[MetricSpec]],
) -> list[tuple[str, Registration[MetricSpec]]]:
    """Sort the registrations: LEADING first, the others in their given order."""
    rank = {name: place for place, name in enumerate(LEADING)}
    return sorted(registrations.items(), key=lambda item: rank.get(item[0], len(rank)))


def _ready(registration: Registration[MetricSpec], name: str) -> Metric:
    spec = registration.spec
    if missing := missing_packages(spec):
        raise _missing(name, spec, missing)
    registration.load()
    try:
        function = registration.make()
    except Exception as error:  # third-party factory, or a package that fails to import
        raise PluginError(
            f"metric {name!r} of {registration.origin} could not be created: {type(error).__name__}: "
            f"{error}. Reinstall {', '.join(spec.requires) or registration.origin.distribution}, or exclude "
            "the metric."
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
    """Return distribution -> version for import names."""
    distributions = importlib.metadata.packages_distributions() if modules else {}
    names = {name for module in modules for name in distributions.get(module.partition(".")[0], [])}
    return {name: importlib.metadata.version(name) for name in sorted(names)}
