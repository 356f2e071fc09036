"""Networks and discriminators by name."""

from __future__ import annotations

import inspect
from typing import Any

from codecvq.errors import OptionError, nearest
from codecvq.hookspecs import DiscriminatorSpec, NetworkSpec
from codecvq.networks.interface import Discriminator, Network
from codecvq.plugins import registry

GIVEN = ("sample_rate", "channels")  # by the codec, not by the recipe's network section


def build_network(name: str, *, sample_rate: int, channels: int = 1, **options: Any) -> Network:
    """The network registered under `name`. Raises UnknownName and OptionError, which name what is known."""
    made = _build(name, sample_rate, channels, options)
    if not isinstance(made, Network):
        raise OptionError(f"network {name!r} is no encoder and decoder.{_others(NetworkSpec)}")
    return made


def build_discriminator(name: str, *, sample_rate: int, channels: int = 1, **options: Any) -> Discriminator:
    """The discriminator registered under `name`. Raises as `build_network` does."""
    made = _build(name, sample_rate, channels, options)
    if not isinstance(made, Discriminator):
        raise OptionError(f"network {name!r} is no discriminator.{_others(DiscriminatorSpec)}")
    return made


def _build(name: str, sample_rate: int, channels: int, options: dict[str, Any]) -> Any:
    """Whatever the factory of a registered network makes."""
    offer = registry().find("networks", name)
    known = [key for key in inspect.signature(offer.load()).parameters if key not in GIVEN]
    for key in options:
        if key not in known:
            raise OptionError(
                f"network {name!r} has no option {key!r}; it has {', '.join(known)}.{nearest(key, known)}"
            )
    try:
        return offer.make(sample_rate=sample_rate, channels=channels, **options)
    except TypeError as error:  # of a wrong type: 'hop_length: many'
        raise OptionError(f"network {name!r} cannot be made with {options}: {error}") from error


def _others(kind: type[NetworkSpec]) -> str:
    names = [name for name, offer in registry().networks().items() if type(offer.spec) is kind]
    return f" Take one of: {', '.join(names)}."
