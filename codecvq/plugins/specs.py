"""Validates the specs that plugin hooks yield: their type, fields and names."""

from __future__ import annotations

import dataclasses
import itertools
import re
import reprlib
from collections.abc import Callable, Iterable

from codecvq.api.hookspecs import API_VERSION, Spec
from codecvq.errors import PluginError
from codecvq.plugins.third_party import contained

NAME = re.compile(r"[a-z][a-z0-9_]*(-[a-z0-9_]+)*")
MAX_SPECS_PER_HOOK = 1000  # of one plugin; further specs are discarded
#: annotation of a spec field -> type to check; fields with other annotations are not checked
FIELD_TYPES: dict[str, type] = {"str": str, "int": int, "bool": bool, "tuple[str, ...]": tuple}


def collect_specs(
    hook: Callable[[], Iterable[Spec]], name: str, spec_type: type[Spec]
) -> tuple[list[Spec], Exception | None]:
    """Call the hook `name` of a plugin. Returns its valid specs, and the first error or None."""
    yielded: list[Spec] = []
    specs: dict[str, Spec] = {}
    first_error: Exception | None = None
    try:
        with contained():
            result = hook()
            if isinstance(result, str) or not isinstance(result, Iterable):
                raise PluginError(f"its hook {name} returned {reprlib.repr(result)}; it must yield specs")
            yielded.extend(itertools.islice(result, MAX_SPECS_PER_HOOK))
            if len(yielded) == MAX_SPECS_PER_HOOK:
                raise PluginError(
                    f"its hook {name} yields {MAX_SPECS_PER_HOOK} specs or more; the rest is discarded"
                )
    except Exception as error:  # third-party code
        first_error = error
    for spec in yielded:
        try:
            check_spec(spec, spec_type)
            if spec.name in specs:
                raise PluginError(f"its hook {name} yields the name {spec.name!r} twice")
            specs[spec.name] = spec
        except Exception as error:  # a third-party object: its attributes may raise
            first_error = first_error or error
    return list(specs.values()), first_error


def check_spec(spec: object, spec_type: type[Spec]) -> None:
    """Raise PluginError if `spec` is not of `spec_type`, or has invalid fields."""
    if not isinstance(spec, spec_type):
        raise PluginError(
            f"it yields {reprlib.repr(spec)}; this hook must yield {spec_type.__name__} objects"
        )
    for field in dataclasses.fields(spec):
        value, needed = getattr(spec, field.name), FIELD_TYPES.get(str(field.type))
        if needed and not isinstance(value, needed):
            raise PluginError(
                f"{spec.name!r}: {field.name} is {reprlib.repr(value)}; it must be of type {field.type}"
            )
    if not NAME.fullmatch(spec.name):
        raise PluginError(
            f"it registers the name {spec.name!r}; names consist of lowercase letters, digits and "
            "underscores, as in 'my_vq', with hyphens between them, as in 'speech-16k'"
        )
    if spec.api > API_VERSION:
        raise PluginError(
            f"{spec.name!r} was written for plugin API {spec.api}, this codecvq has {API_VERSION}: update "
            "codecvq"
        )
