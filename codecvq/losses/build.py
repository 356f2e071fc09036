"""Building losses by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from codecvq.api.hookspecs import LossSpec
from codecvq.errors import OptionError
from codecvq.plugins import registry
from codecvq.plugins.options import build_from_options, check_options

PROVIDED = ("sample_rate",)  # arguments from the training, not from the losses section of the recipe


def build_loss(name: str, *, sample_rate: int, **options: Any) -> nn.Module:
    """Build the loss registered as `name`. It is called with `LossInputs`.

    Raises UnknownName for an unknown loss and OptionError for unknown options or wrong types. Build untrusted
    options within `codecvq.construction.construction_limits`.
    """
    registration, label = registry().find(LossSpec, name), f"loss {name!r}"
    check_options(label, registration, options, PROVIDED)
    loss = build_from_options(label, registration.make, {"sample_rate": sample_rate, **options})
    if not isinstance(loss, nn.Module):
        raise OptionError(
            f"{label} of {registration.origin} is a {type(loss).__name__}, not a codecvq.losses.Loss "
            "or other module"
        )
    return loss
