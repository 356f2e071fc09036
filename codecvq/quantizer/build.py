"""Quantizers by name: any registered one, and the short spellings `residual_X`, `multiscale_X` and
`grouped_X` of the compositions in `compose`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from codecvq.api.hookspecs import QuantizerSpec
from codecvq.arguments import as_integer
from codecvq.errors import OptionError, UnknownName
from codecvq.limits import MAX_CODEBOOKS
from codecvq.plugins import Registry, registry
from codecvq.plugins.options import build_from_options, check_options, option_defaults, shortened
from codecvq.plugins.registration import Registration
from codecvq.quantizer.author import Quantizer
from codecvq.quantizer.compose import name_and_options

COMPOSITIONS = ("residual", "multiscale", "grouped", "split")
FORMS = ("residual_", "multiscale_", "grouped_")  # short spellings


def build_quantizer(name: str, **options: Any) -> Quantizer:
    """The quantizer registered under `name`, made with `dim` and its options as keywords.

    `residual_X` is short for the composition `residual` with `of: {name: X, ...}`: it takes the options of
    the composition (see `codecvq.quantizer.compose`) beside X's own. `multiscale_X` and `grouped_X` are the
    same for theirs. In `grouped_X`, `num_codebooks` counts groups unless `num_groups` is given, as in
    grouped_residual_vq, and `dropout` makes the groups nested, unless X has such an option itself. Raises
    UnknownName and OptionError, which name what is known, and for options of a wrong type. Options of a
    stranger are built within `codecvq.construction.limited`.
    """
    for key in ("num_codebooks", "num_groups"):
        if options.get(key) is not None:
            _check_count(name, options[key], key)
    quantizer = _build(registry(), name, options)
    quantizer.config = {"name": name, **options}
    return quantizer


def quantizer_names() -> list[str]:
    """Every name that `build_quantizer` knows."""
    names = registry().all(QuantizerSpec)
    plain = [name for name in names if not name.startswith(FORMS) and name not in COMPOSITIONS]
    derived = [
        f"{form}{name}" for form in (*FORMS, "grouped_residual_", "grouped_multiscale_") for name in plain
    ]
    return sorted({*names, *derived})


def plain_registration(name: str) -> Registration[QuantizerSpec]:
    """The plugin's offer behind `name`: that of X for residual_X, unless residual_X itself is registered."""
    loaded = registry()
    form = _derived_form(loaded, name)
    return plain_registration(_without_prefix(form, name)) if form else _lookup(loaded, name)


def quantizer_registrations(
    config: Mapping[str, Any], key: str = "quantizer"
) -> dict[str, Registration[QuantizerSpec]]:
    """The offers behind a quantizer `{name: …, options}` and behind every quantizer inside it, by where they
    stand: "quantizer", "quantizer.semantic", "quantizer.of.0".
    """
    name, options = name_and_options(config)
    registrations = {key: plain_registration(name)}
    if plain_registration(name).spec.name in COMPOSITIONS:
        for part in ("of", "semantic", "acoustic"):
            inner = options.get(part, ())
            listed = enumerate(inner) if isinstance(inner, (list, tuple)) else [(None, inner)]
            for n, each in listed:
                registrations |= quantizer_registrations(
                    each, f"{key}.{part}" + ("" if n is None else f".{n}")
                )
    return registrations


def quantizer_options(name: str) -> dict[str, Any]:
    """Option -> default (`inspect.Parameter.empty` where there is none) of a quantizer by name."""
    form = _derived_form(registry(), name)
    if not form:
        return option_defaults(plain_registration(name))
    own = quantizer_options(_without_prefix(form, name)) | _form_options(form)
    if form == "residual_":
        own["num_codebooks"] = inspect.Parameter.empty
    return (
        own if form != "grouped_" else {**own, "num_codebooks": inspect.Parameter.empty, "num_groups": None}
    )


def shorten_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The one way in which a quantizer's `{name: …, options}` is written down: short where there is a short
    spelling. So two spellings of a codec have one identity.
    """
    name, options = name_and_options(config)
    form = f"{name}_"
    if form not in FORMS or not isinstance(options.get("of"), (str, Mapping)):
        return dict(config)
    rest = {key: value for key, value in options.items() if key != "of"}
    inner = shorten_config(_as_mapping(options["of"]))
    if form == "grouped_" and "num_codebooks" not in inner:
        rest = {("num_codebooks" if key == "num_groups" else key): value for key, value in rest.items()}
    distribution, slash, bare = inner["name"].rpartition("/")
    short = {**inner, "name": f"{distribution}{slash}{form}{bare}", **rest}
    if bare in COMPOSITIONS or inner.keys() & rest.keys() or not _derived_form(registry(), short["name"]):
        return dict(config)
    same = expand_name(short["name"], {k: v for k, v in short.items() if k != "name"})
    wanted = (name, {**options, "of": inner})
    return short if same == wanted else dict(config)


def expand_name(name: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and options of the composition that a name such as residual_X is short for."""
    form = _derived_form(registry(), name)
    inner, own = _without_prefix(form, name), dict(options)
    theirs = _form_options(form)
    if form == "grouped_":
        groups = own.pop("num_groups", None)
        groups = own.pop("num_codebooks", None) if groups is None else groups
        theirs = {key: value for key, value in theirs.items() if key not in quantizer_options(inner)}
        own["num_groups"] = _check_count(name, groups)
        theirs["num_groups"] = None
    elif form == "residual_" and own.get("stages") is None:
        _check_count(name, own.get("num_codebooks"))
    outer = {key: own.pop(key) for key in theirs if key in own}
    dim = {"dim": own.pop("dim")} if "dim" in own else {}
    return form[:-1], {**dim, "of": {"name": inner, **own}, **outer}


def _form_options(form: str) -> dict[str, Any]:
    """Option -> default of a composition, but for what it is made of."""
    options = option_defaults(_lookup(registry(), form[:-1]))
    return {key: default for key, default in options.items() if key not in ("dim", "of")}


def _as_mapping(part: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return {"name": part} if isinstance(part, str) else part


def _build(loaded: Registry, name: str, options: Mapping[str, Any]) -> Quantizer:
    if _derived_form(loaded, name):
        return _build(loaded, *expand_name(name, options))
    registration, what = _lookup(loaded, name), f"quantizer {name!r}"
    check_options(what, registration, options)
    if options.get("num_codebooks") is not None:
        _check_count(name, options["num_codebooks"])
    quantizer = build_from_options(what, registration.make, options)
    if not isinstance(quantizer, Quantizer):
        raise OptionError(
            f"quantizer {name!r} of {registration.origin} is a {type(quantizer).__name__}, not a "
            "codecvq.Quantizer"
        )
    return quantizer


def _derived_form(loaded: Registry, name: str) -> str:
    """The short form that the name begins with, as "residual_"; "" if it has none or is registered itself."""
    bare = name.rpartition("/")[2]
    form = next((form for form in FORMS if bare.startswith(form)), "")
    return "" if form and bare in loaded.registrations(QuantizerSpec) else form


def _without_prefix(form: str, name: str) -> str:
    distribution, slash, bare = name.rpartition("/")
    return f"{distribution}{slash}{bare.removeprefix(form)}"


def _lookup(loaded: Registry, name: str) -> Registration[QuantizerSpec]:
    try:
        return loaded.find(QuantizerSpec, name)
    except UnknownName:
        form = next((form for form in FORMS if name.startswith(form)), "")
        known = [each for each in quantizer_names() if not each.removeprefix(form).startswith(FORMS)]
        alike = [each for each in known if each.startswith(form)]
        raise UnknownName(loaded.unknown_name_message(QuantizerSpec, name, alike)) from None


def _check_count(name: str, value: object, key: str = "num_codebooks") -> int:
    count = as_integer(value)
    if count is None or not 1 <= count <= MAX_CODEBOOKS:
        raise OptionError(
            f"quantizer {name!r} needs {key}, a whole number from 1 to {MAX_CODEBOOKS}; given is "
            f"{shortened(value)}."
        )
    return count
