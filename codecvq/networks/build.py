"""Builds registered networks and discriminators by name."""

from __future__ import annotations

from typing import Any

from codecvq.api.hookspecs import DiscriminatorSpec, NetworkSpec
from codecvq.errors import OptionError
from codecvq.networks.interface import Discriminator, Network
from codecvq.plugins import registry
from codecvq.plugins.options import build_from_options, check_options

CODEC_ARGUMENTS = ("sample_rate", "channels")  # set by the codec, not by the recipe's network section


def build_network(name: str, *, sample_rate: int, channels: int = 1, **options: Any) -> Network:
    """Build the network registered under `name`.

    Raises UnknownName, with similar names, and OptionError for unknown options or values of a wrong type. To
    build options from an untrusted source, do it in `codecvq.construction.construction_limits`.
    """
    network = _build(name, sample_rate, channels, options)
    if not isinstance(network, Network):
        raise OptionError(f"network {name!r} is not an encoder and decoder.{_others(NetworkSpec)}")
    return network


def build_discriminator(name: str, *, sample_rate: int, channels: int = 1, **options: Any) -> Discriminator:
    """Build the discriminator registered under `name`. Raises like `build_network`."""
    network = _build(name, sample_rate, channels, options)
    if not isinstance(network, Discriminator):
        raise OptionError(f"network {name!r} is not a discriminator.{_others(DiscriminatorSpec)}")
    return network


def _build(name: str, sample_rate: int, channels: int, options: dict[str, Any]) -> Any:
    """Call the factory of a registered network with checked options."""
    registration, what = registry().find(NetworkSpec, name), f"network {name!r}"
    check_options(what, registration, options, CODEC_ARGUMENTS)
    return build_from_options(
        what, registration.make, {"sample_rate": sample_rate, "channels": channels, **options}
    )


def _others(kind: type[NetworkSpec]) -> str:
    names = [
        name for name, registration in registry().all(NetworkSpec).items() if type(registration.spec) is kind
    ]
    return f" Use one of: {', '.join(names)}."
