"""Options of what plugins make: checked against the signature of the factory, or against what its spec
declares, in one place for all kinds.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from codecvq.errors import CodecvqError, OptionError, PluginError, nearest
from codecvq.plugins.host import registry
from codecvq.plugins.registration import Registration

MOST_SHOWN = 80  # characters of a value that an error repeats
MOST_WHOLE = 2**63  # whole numbers are below it, so that tensors can hold them
#: part of a codec -> options of it that are not the user's -> where they come from
RESERVED_OPTIONS: dict[str, dict[str, str]] = {
    "network": {"sample_rate": "sample_rate of the codec", "channels": "channels of the codec"},
    "quantizer": {"dim": "dim of the network"},
}


@dataclass(frozen=True)
class AcceptedOptions:
    """The options that something takes."""

    parameters: dict[str, inspect.Parameter]
    types: dict[str, TypeAdapter[Any]]  # of those whose annotation can be read
    any_name: bool  # whether it takes names that are declared nowhere, as `**options`


def accepted_options(taker: Registration[Any] | Callable[..., object]) -> AcceptedOptions:
    """What a function or class takes by its signature; of an offer what its factory takes, and, where that is
    `**options`, what `Spec.options` declares.

    Raises PluginError where `Spec.options` names nothing that can be loaded, or leads back to itself.
    """
    return _accepted_of_registration(taker, ()) if isinstance(taker, Registration) else _accepted(taker)


def option_defaults(taker: Registration[Any] | Callable[..., object]) -> dict[str, Any]:
    """Option -> default, `inspect.Parameter.empty` where there is none."""
    return {key: parameter.default for key, parameter in accepted_options(taker).parameters.items()}


def check_options(
    what: str,
    taker: Registration[Any] | Callable[..., object],
    options: Mapping[str, object],
    given: Collection[str] = (),
) -> None:
    """Raise OptionError for an option that the offer or function does not have, does not get and needs, or
    that has another type than its annotation says; and for numbers that are not finite or fit in no tensor.

    `given` are arguments that do not come from the options. `what` names the thing that is made.
    """
    accepted = accepted_options(taker)
    parameters = accepted.parameters
    known = [key for key in parameters if key not in given]
    for key in options:
        if key in given or (key not in known and not accepted.any_name):
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
    for key, value in options.items():
        for number in _numbers(value):
            if not abs(number) < (math.inf if isinstance(number, float) else MOST_WHOLE):
                raise OptionError(f"{what}: {key} is {shortened(value)}; needed are numbers up to 2^63.")
        if key in accepted.types and value is not parameters[key].default:
            _check_type(f"{what}: {key}", value, accepted.types[key])


def build_from_options(what: str, factory: Callable[..., object], options: Mapping[str, object]) -> object:
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


def check_part_options(part: str, options: Mapping[str, object]) -> None:
    """Raise OptionError where the options of a codec's `part`, "network" or "quantizer", have a key that is
    no text, or one that is not the user's.
    """
    for key in options:
        if not isinstance(key, str):
            raise OptionError(f"{part} has the key {shortened(key)}; needed is text.")
        if key in RESERVED_OPTIONS[part]:
            raise OptionError(
                f"{part}.{key} cannot be set, since it is the {RESERVED_OPTIONS[part][key]}. Remove it."
            )


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


def _accepted_of_registration(registration: Registration[Any], inside: tuple[str, ...]) -> AcceptedOptions:
    own = _accepted(registration.load())
    if not own.any_name or not registration.spec.options:
        return own
    if registration.qualified_name in inside:
        raise PluginError(
            f"{registration.spec.name!r} of {registration.origin}: its options are those of "
            f"{' of '.join([*inside[1:], inside[0]])} and so on in a circle. Name the offer that has them."
        )
    declared = _declared_options(registration, (*inside, registration.qualified_name))
    return AcceptedOptions(
        {**declared.parameters, **own.parameters}, {**declared.types, **own.types}, declared.any_name
    )


def _declared_options(registration: Registration[Any], inside: tuple[str, ...]) -> AcceptedOptions:
    """What `Spec.options` declares: a function's or class's own, or those of another offer of the kind."""
    declared = registration.spec.options
    if isinstance(declared, str) and ":" not in declared:
        return _accepted_of_registration(registry().find(type(registration.spec), declared), inside)
    return _accepted(registration.import_field(declared, "options"))


@functools.lru_cache(maxsize=256)
def _accepted(function: Callable[..., object]) -> AcceptedOptions:
    try:
        parameters = inspect.signature(function, eval_str=True).parameters
    except Exception:  # an annotation whose name is imported for type checkers alone
        parameters = inspect.signature(function).parameters
    kinds = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    named = {key: parameter for key, parameter in parameters.items() if parameter.kind not in kinds}
    any_name = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return AcceptedOptions(named, _types(named), any_name)


def _types(parameters: Mapping[str, inspect.Parameter]) -> dict[str, TypeAdapter[Any]]:
    """Parameter -> what its annotation takes; those without one that can be read are left out."""
    adapters = {}
    for name, parameter in parameters.items():
        hint = parameter.annotation
        if hint is inspect.Parameter.empty or isinstance(hint, str):
            continue
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
