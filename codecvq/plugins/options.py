"""Options of what plugins make: checked against the signature of the factory, in one place for all kinds."""

from __future__ import annotations

import functools
import inspect
import json
import math
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from codecvq.errors import CodecvqError, OptionError, nearest

MOST_SHOWN = 80  # characters of a value that an error repeats
MOST_WHOLE = 2**63  # whole numbers are below it, so that tensors can hold them
#: part of a codec -> options of it that are not the user's -> where they come from
TAKEN: dict[str, dict[str, str]] = {
    "network": {"sample_rate": "sample_rate of the codec", "channels": "channels of the codec"},
    "quantizer": {"dim": "dim of the network"},
}


def check_options(
    what: str, factory: Callable[..., object], options: Mapping[str, object], given: Collection[str] = ()
) -> None:
    """Raise OptionError for an option that the factory does not have, does not get and needs, or that has
    another type than its annotation says; and for numbers that are not finite or fit in no tensor.

    `given` are arguments that do not come from the options. `what` names the thing that is made.
    """
    parameters = inspect.signature(factory).parameters
    known = [key for key in parameters if key not in given]
    for key in options:
        if key not in known:
            raise OptionError(
                f"{what} has no option {key!r}; it has {', '.join(known)}.{nearest(str(key), known)}"
            )
    missing = [
        key for key in known if parameters[key].default is inspect.Parameter.empty and key not in options
    ]
    if missing:
        raise OptionError(
            f"{what} needs {' and '.join(missing)}; given are {', '.join(options) or 'no options'}."
        )
    types = _types(factory)
    for key, value in options.items():
        for number in _numbers(value):
            if not abs(number) < (math.inf if isinstance(number, float) else MOST_WHOLE):
                raise OptionError(f"{what}: {key} is {shortened(value)}; needed are numbers up to 2^63.")
        if key in types and value is not parameters[key].default:
            _check_type(f"{what}: {key}", value, types[key])


def made_of(what: str, factory: Callable[..., object], options: Mapping[str, object]) -> object:
    """What the factory makes of the options. What it raises is an OptionError that repeats it; documented
    errors pass.
    """
    try:
        return factory(**options)
    except CodecvqError:
        raise
    except Exception as error:  # a stranger's code, which may not check what it is given
        detail = shortened(str(error), quoted=False)
        raise OptionError(
            f"{what} cannot be made with {shortened(dict(options))}: {type(error).__name__}: {detail}"
        ) from error


def check_part(part: str, options: Mapping[str, object]) -> None:
    """Raise OptionError where the options of a codec's `part`, "network" or "quantizer", have a key that is
    no text, or one that is not the user's.
    """
    for key in options:
        if not isinstance(key, str):
            raise OptionError(f"{part} has the key {shortened(key)}; needed is text.")
        if key in TAKEN[part]:
            raise OptionError(f"{part}.{key} cannot be set, since it is the {TAKEN[part][key]}. Remove it.")


def shortened(value: object, quoted: bool = True) -> str:
    """A value as an error repeats it, in one line."""
    try:
        text = repr(value) if quoted else " ".join(str(value).split())
    except ValueError:  # a whole number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


def _check_type(what: str, value: object, adapter: TypeAdapter[Any]) -> None:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # a module, say; `Codec` takes what JSON can hold
        return
    try:
        adapter.validate_json(text, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        inner = "".join(f"[{part}]" for part in problem["loc"] if isinstance(part, int))
        message = problem["msg"].replace("Input should be", "needed is").replace("array", "list")
        raise OptionError(f"{what}{inner} is {shortened(problem['input'])}; {message}.") from None


@functools.lru_cache(maxsize=256)
def _types(factory: Callable[..., object]) -> dict[str, TypeAdapter[Any]]:
    """Parameter -> what its annotation takes; those without one that can be read are left out."""
    function = inspect.unwrap(factory)
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isclass(function):
        function = function.__init__
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # names that are imported for type checkers alone
        return {}
    adapters = {}
    for name, hint in hints.items():
        try:
            adapters[name] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        except (PydanticUserError, TypeError):
            continue
    return adapters


def _numbers(value: object) -> Iterator[int | float]:
    """All numbers in lists and mappings."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _numbers(item)
