"""Named sizes of networks: `preset` in a recipe's network section.

Saved codecs name their preset, so the numbers behind a name never change: another size is another name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

from codecvq.errors import OptionError, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Size = TypeVar("Size", bound=DataclassInstance)


def sized(network: str, presets: Mapping[str, Size], preset: str, **given: int | None) -> Size:
    """The size that a preset names, with the options that were `given` (not None) in place of its own.

    Raises OptionError for an unknown preset and for sizes below 1 (0 where the preset may have 0).
    """
    if preset not in presets:
        raise OptionError(
            f"{network}: preset is {preset!r}; it is {', '.join(presets)}.{nearest(str(preset), presets)}"
        )
    size = replace(presets[preset], **{name: value for name, value in given.items() if value is not None})
    for field in fields(size):
        value = getattr(size, field.name)
        least = min(1, *(getattr(other, field.name) for other in presets.values()))
        if type(value) is not int or value < least:
            raise OptionError(f"{network}: {field.name} is {value!r}; needed is a whole number from {least}.")
    return size
