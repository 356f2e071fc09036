"""The `losses` section of a recipe.

It has one key for each registered loss, with a weight or a mapping of weight and options, and the keys of
adversarial training and of the gradient balancer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from codecvq.api.hookspecs import LossSpec
from codecvq.errors import CodecvqError, OptionError, RecipeError, nearest
from codecvq.plugins import registry
from codecvq.plugins.options import check_options, option_defaults, shortened

WEIGHT = "weight"
MEL_WEIGHT = 15.0  # default weight of mel: every recipe has a reconstruction loss unless it sets mel to 0
#: Key in version 0.1.0 -> the losses that have it as an option now, and the name of this option.
RENAMED_KEYS = {
    "mel_windows": (("mel",), "windows"),
    "mel_bands": (("mel",), "bands"),
    "mel_floor": (("mel",), "floor"),
    "stft_windows": (("stft", "complex_stft"), "windows"),
}


class LossesSection(BaseModel):
    """Weights of the loss terms of a training. A term of weight 0 is not computed.

    Registered losses are additional keys: `{weight: W, …}` with the options of the loss, or only the weight.
    With `balance`, the weights are shares of the gradient at the decoded audio (see `balancer`), and
    `balance_norm` is the total norm of this gradient.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, dict[str, Any]]  # Any: options of a plugin

    adversarial: float = 0.0  # these two need the recipe's `discriminator`
    feature_matching: float = 0.0
    balance: bool = False
    balance_norm: float = 1.0

    @model_validator(mode="before")
    @classmethod
    def _normalize_entries(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        if old := [key for key in given if key in RENAMED_KEYS]:
            losses, option = RENAMED_KEYS[old[0]]
            example = f"{losses[0]}: {{weight: 15.0, {option}: …}}"
            raise RecipeError(
                f"losses.{old[0]} is now the option {option} of {' and '.join(losses)}. Write losses: "
                f"{{{example}}}, or use the override losses.{losses[0]}.{option}=…"
            )
        known = cls.model_fields
        entries = {key: value if key in known else parse_entry(key, value) for key, value in given.items()}
        entries.setdefault("mel", {WEIGHT: MEL_WEIGHT})
        # keep mel even if its weight is 0: a missing key means the default weight
        return {key: value for key, value in entries.items() if key in known or value[WEIGHT] or key == "mel"}

    @model_validator(mode="after")
    def _check_weights(self) -> LossesSection:
        for name, weight in self._all_weights().items():
            if not 0 <= weight < math.inf:
                raise OptionError(f"losses.{name} is {weight}; a weight must be 0 (disabled) or more.")
        if not 0 < self.balance_norm < math.inf:
            raise OptionError(f"losses.balance_norm is {self.balance_norm}; it must be above 0.")
        return self

    def weights(self) -> dict[str, float]:
        """Nonzero weights by term: mel, the other registered losses by name, adversarial losses."""
        return {name: weight for name, weight in self._all_weights().items() if weight}

    def options(self) -> dict[str, dict[str, Any]]:
        """Options of each registered loss with nonzero weight, in the order of `weights`."""
        entries = self.__pydantic_extra__
        return {
            name: {key: value for key, value in entries[name].items() if key != WEIGHT}
            for name in self.weights()
            if name in entries
        }

    def resolved(self) -> LossesSection:
        """Return the section with all defaults of the options of loaded losses filled in."""
        entries = {
            name: {WEIGHT: options[WEIGHT], **_defaults(name), **options}
            for name, options in self.__pydantic_extra__.items()
        }
        return type(self).model_validate({**self.model_dump(), **entries})

    def check(self) -> None:
        """Raise RecipeError for an unregistered loss, OptionError for unknown or wrongly typed options."""
        for name, options in self.options().items():
            registrations = registry().registrations(LossSpec)
            if name.rpartition("/")[2] not in registrations:
                keys = [*registrations, *type(self).model_fields]
                raise RecipeError(
                    f"losses.{name} is not a key of a recipe.{nearest(name, keys)} Keys of 'losses:': "
                    f"{', '.join(keys)}."
                )
            check_options(f"losses.{name}", registry().find(LossSpec, name), options, ("sample_rate",))

    def _all_weights(self) -> dict[str, float]:
        names = sorted(self.__pydantic_extra__, key=lambda name: (name != "mel", name))
        weights = {name: self.__pydantic_extra__[name][WEIGHT] for name in names}
        return weights | {"adversarial": self.adversarial, "feature_matching": self.feature_matching}


def parse_entry(name: object, value: object) -> dict[str, Any]:
    """Convert the value of a loss's key to a mapping with `weight`.

    Raises OptionError for a value that is neither a number nor such a mapping.
    """
    given = {WEIGHT: value} if _is_number(value) else value
    if name == "mel" and isinstance(given, Mapping):
        given = {WEIGHT: MEL_WEIGHT, **given}
    if not isinstance(given, Mapping) or not _is_number(given.get(WEIGHT)):
        raise OptionError(
            f"losses.{name} is {shortened(value)}; it must be a weight, such as {name}: 1.0, or a mapping "
            f"with a weight and options, such as {name}: {{weight: 1.0}}."
        )
    return {**{str(key): option for key, option in given.items()}, WEIGHT: float(given[WEIGHT])}


def expand_weights(losses: Mapping[str, Any]) -> dict[str, Any]:
    """Replace each weight W of a section by `{weight: W}`, so that overrides can set options."""
    entries = {key: merge_weight(key, None, value) for key, value in losses.items()}
    return {"mel": {WEIGHT: MEL_WEIGHT}, **entries}


def merge_weight(key: object, before: object, value: object) -> object:
    """New value of a key of the section. A number replaces only the weight of a loss."""
    if not _is_number(value) or key in (*LossesSection.model_fields, *RENAMED_KEYS):
        return value
    return {**(before if isinstance(before, Mapping) else {}), WEIGHT: value}


def migrate_0_1_0(losses: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the section of a run of version 0.1.0: move `RENAMED_KEYS` to the options of their losses."""
    entries = {key: value for key, value in losses.items() if key not in RENAMED_KEYS}
    for key in RENAMED_KEYS.keys() & losses.keys():
        names, option = RENAMED_KEYS[key]
        for name in names:
            if entries.get(name):
                entries[name] = {**parse_entry(name, entries[name]), option: losses[key]}
    return entries


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _defaults(name: str) -> dict[str, Any]:
    """Defaults of the options of a loss; empty if the loss is not loaded."""
    try:
        defaults = option_defaults(registry().find(LossSpec, name))
    except (CodecvqError, ValueError, TypeError):  # raised again when the loss is built
        return {}
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    plain = (type(None), bool, int, float, str, list, dict)  # types that a recipe can contain
    names = options.keys() - {"sample_rate", WEIGHT}  # these two are not options in a recipe
    return {key: value for key, value in options.items() if key in names and isinstance(value, plain)}
