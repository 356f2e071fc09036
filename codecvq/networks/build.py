"""Networks by name."""

from __future__ import annotations

import inspect
from typing import Any

from codecvq.errors import OptionError, nearest
from codecvq.networks.interface import Network
from codecvq.plugins import registry

GIVEN = ("sample_rate", "channels")  # by the codec, not by the recipe's network section


def build_network(name: str, *, sample_rate: int, channels: int = 1, **options: Any) -> Network:
    """The network registered under `name`. Raises UnknownName and OptionError, which name what is known."""
    offer = registry().find("networks", name)
    factory = offer.load()
    known = [key for key in inspect.signature(factory).parameters if key not in GIVEN]
    for key in options:
        if key not in known:
            raise OptionError(
                f"network {name!r} has no option {key!r}; it has {', '.join(known)}.{nearest(key, known)}"
            )
    try:
        return factory(sample_rate=sample_rate, channels=channels, **options)
    except TypeError as error:  # of a wrong type: 'hop_length: many'
        raise OptionError(f"network {name!r} cannot be made with {options}: {error}") from error
