"""Named sizes of networks: option `preset` of a recipe's network section.

Saved codecs store the name of their preset. The numbers behind a name therefore never change; another size
needs another name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

from codecvq.errors import OptionError, nearest
from codecvq.plugins.options import shortened

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Size = TypeVar("Size", bound=DataclassInstance)


MAX_DEPTH, MAX_WIDTH = 256, 2**16  # blocks or layers; channels


def resolve_size(network: str, presets: Mapping[str, Size], preset: str, **given: int | None) -> Size:
    """Return the size of a preset; options in `given` that are not None replace its numbers.

    Raises OptionError for an unknown preset, for sizes below 1 (or 0, if a preset has 0), and for sizes above
    `MAX_DEPTH` or `MAX_WIDTH`.
    """
    if preset not in presets:
        raise OptionError(
            f"{network}: preset is {preset!r}; needed is one of "
            f"{', '.join(presets)}.{nearest(str(preset), presets)}"
        )
    size = replace(presets[preset], **{name: value for name, value in given.items() if value is not None})
    for field in fields(size):
        value = getattr(size, field.name)
        lowest = min(1, *(getattr(other, field.name) for other in presets.values()))
        highest = MAX_DEPTH if field.name.endswith(("_blocks", "_layers")) else MAX_WIDTH
        if type(value) is not int or not lowest <= value <= highest:
            raise OptionError(
                f"{network}: {field.name} is {shortened(value)}; needed is a whole number from "
                f"{lowest} to {highest}."
            )
    return size
