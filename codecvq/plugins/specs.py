"""What hooks of plugins give, checked: specs of the right kind with usable fields and names."""

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
MAX_SPECS_PER_HOOK = 1000  # that one hook of one plugin may yield
#: types that fields of specs are annotated with; those that are not here are not checked
FIELD_TYPES: dict[str, type] = {"str": str, "int": int, "bool": bool, "tuple[str, ...]": tuple}


def collect_specs(
    hook: Callable[[], Iterable[Spec]], name: str, spec_type: type[Spec]
) -> tuple[list[Spec], Exception | None]:
    """What the hook `name` of a plugin offers, as far as it can be used; and the first thing that is wrong
    with it.
    """
    offered: list[Spec] = []
    specs: dict[str, Spec] = {}
    wrong: Exception | None = None
    try:
        with contained():
            given = hook()
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise PluginError(f"its hook {name} returned {reprlib.repr(given)}; it has to yield specs")
            offered.extend(itertools.islice(given, MAX_SPECS_PER_HOOK))
            if len(offered) == MAX_SPECS_PER_HOOK:
                raise PluginError(
                    f"its hook {name} yields {MAX_SPECS_PER_HOOK} specs or more; the rest is left out"
                )
    except Exception as error:  # a stranger's function
        wrong = error
    for spec in offered:
        try:
            check_spec(spec, spec_type)
            if spec.name in specs:
                raise PluginError(f"its hook {name} yields the name {spec.name!r} twice")
            specs[spec.name] = spec
        except Exception as error:  # a stranger's object, which has a stranger's attributes
            wrong = wrong or error
    return list(specs.values()), wrong


def check_spec(spec: object, spec_type: type[Spec]) -> None:
    """Raise PluginError for what is no spec of the type, or one with unusable fields."""
    if not isinstance(spec, spec_type):
        raise PluginError(f"it yields {reprlib.repr(spec)}; this hook takes {spec_type.__name__} objects")
    for field in dataclasses.fields(spec):
        value, needed = getattr(spec, field.name), FIELD_TYPES.get(str(field.type))
        if needed and not isinstance(value, needed):
            raise PluginError(
                f"{spec.name!r}: {field.name} is {reprlib.repr(value)}; it has to be of type {field.type}"
            )
    if not NAME.fullmatch(spec.name):
        raise PluginError(
            f"it offers the name {spec.name!r}; names are lower case letters, digits and underscores, as in "
            "'my_vq', and hyphens between them, as in 'speech-16k'"
        )
    if spec.api > API_VERSION:
        raise PluginError(
            f"{spec.name!r} was written for plugin API {spec.api}, this codecvq has {API_VERSION}: update "
            "codecvq"
        )
