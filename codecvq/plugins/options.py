"""Checks options of registrations against the signature of the factory or the options its spec declares."""

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

MAX_SHOWN = 80  # characters of a value in an error message
MAX_INTEGER = 2**63  # integers are below it, so that tensors can store them
#: part of a codec -> options that a user cannot set -> their source
RESERVED_OPTIONS: dict[str, dict[str, str]] = {
    "network": {"sample_rate": "sample_rate of the codec", "channels": "channels of the codec"},
    "quantizer": {"dim": "dim of the network"},
}


@dataclass(frozen=True)
class AcceptedOptions:
    """The options that a factory accepts."""

    parameters: dict[str, inspect.Parameter]
    types: dict[str, TypeAdapter[Any]]  # for parameters with a usable annotation
    any_name: bool  # whether it accepts undeclared names as `**options`


def accepted_options(factory: Registration[Any] | Callable[..., object]) -> AcceptedOptions:
    """Return the options of a function, class or registration.

    For a function or class they come from its signature. For a registration they come from its factory and,
    if the factory takes `**options`, from `Spec.options`. Raises PluginError if `Spec.options` cannot be
    loaded or refers to itself.
    """
    return _accepted_of_registration(factory, ()) if isinstance(factory, Registration) else _accepted(factory)


def option_defaults(factory: Registration[Any] | Callable[..., object]) -> dict[str, Any]:
    """Return option -> default; `inspect.Parameter.empty` for required options."""
    return {key: parameter.default for key, parameter in accepted_options(factory).parameters.items()}


def check_options(
    what: str,
    factory: Registration[Any] | Callable[..., object],
    options: Mapping[str, object],
    supplied: Collection[str] = (),
) -> None:
    """Raise OptionError for options that are unknown, missing, or do not match their type annotation.

    Numbers must also be finite and fit in 64 bits. `supplied` are arguments that codecvq passes in addition
    to the options. `what` names the object in errors.
    """
    accepted = accepted_options(factory)
    parameters = accepted.parameters
    known = [key for key in parameters if key not in supplied]
    for key in options:
        if key in supplied or (key not in known and not accepted.any_name):
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
            if not abs(number) < (math.inf if isinstance(number, float) else MAX_INTEGER):
                raise OptionError(
                    f"{what}: {key} is {shortened(value)}; needed are finite numbers, and "
                    "integers below 2^63."
                )
        if key in accepted.types and value is not parameters[key].default:
            _check_type(f"{what}: {key}", value, accepted.types[key])


def build_from_options(what: str, factory: Callable[..., object], options: Mapping[str, object]) -> object:
    """Call the factory with the options and return the result.

    A CodecvqError passes unchanged. Any other exception is raised as OptionError with its text.
    """
    try:
        return factory(**options)
    except CodecvqError:
        raise
    except Exception as error:  # third-party code may not validate its arguments
        detail = shortened(str(error), quoted=False)
        raise OptionError(
            f"{what} cannot be built with {shortened(dict(options))}: {type(error).__name__}: {detail}"
        ) from error


def check_part_options(part: str, options: Mapping[str, object]) -> None:
    """Raise OptionError if the options of a codec's `part` have a non-string key or a reserved key.

    `part` is "network" or "quantizer".
    """
    for key in options:
        if not isinstance(key, str):
            raise OptionError(f"{part} has the key {shortened(key)}; needed is a string.")
        if key in RESERVED_OPTIONS[part]:
            raise OptionError(
                f"{part}.{key} cannot be set, since it is the {RESERVED_OPTIONS[part][key]}. Remove it."
            )


def shortened(value: object, quoted: bool = True) -> str:
    """Return a value as a short single line for an error message."""
    try:
        text = repr(value) if quoted else " ".join(str(value).split())
    except ValueError:  # an integer with thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def _check_type(what: str, value: object, adapter: TypeAdapter[Any]) -> None:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # not JSON, for example a module; `Codec` checks this
        return
    try:
        adapter.validate_json(text, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        inner = "".join(f"[{part}]" for part in problem["loc"] if isinstance(part, int))
        message = problem["msg"].replace("Input should be", "needed is").replace("array", "list")
        raise OptionError(f"{what}{inner} is {shortened(problem['input'])}; {message}.") from None


def _accepted_of_registration(registration: Registration[Any], visited: tuple[str, ...]) -> AcceptedOptions:
    from_factory = _accepted(registration.load())
    if not from_factory.any_name or not registration.spec.options:
        return from_factory
    if registration.qualified_name in visited:
        raise PluginError(
            f"{registration.spec.name!r} of {registration.origin}: its options refer to "
            f"{' -> '.join([*visited[1:], visited[0]])}, which is a cycle. "
            "Name the registration that declares them."
        )
    declared = _declared_options(registration, (*visited, registration.qualified_name))
    return AcceptedOptions(
        {**declared.parameters, **from_factory.parameters},
        {**declared.types, **from_factory.types},
        declared.any_name,
    )


def _declared_options(registration: Registration[Any], visited: tuple[str, ...]) -> AcceptedOptions:
    """Return the options that `Spec.options` declares: of a callable, or of another registration."""
    declared = registration.spec.options
    if isinstance(declared, str) and ":" not in declared:
        return _accepted_of_registration(registry().find(type(registration.spec), declared), visited)
    return _accepted(registration.import_field(declared, "options"))


@functools.lru_cache(maxsize=256)
def _accepted(function: Callable[..., object]) -> AcceptedOptions:
    try:
        parameters = inspect.signature(function, eval_str=True).parameters
    except Exception:  # an annotation that is imported only for type checkers
        parameters = inspect.signature(function).parameters
    kinds = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    named = {key: parameter for key, parameter in parameters.items() if parameter.kind not in kinds}
    any_name = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return AcceptedOptions(named, _types(named), any_name)


def _types(parameters: Mapping[str, inspect.Parameter]) -> dict[str, TypeAdapter[Any]]:
    """Return parameter -> type adapter, for parameters with a usable annotation."""
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
    """Yield all numbers in a value, including those in lists and mappings."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _numbers(item)
