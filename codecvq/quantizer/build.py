"""Builds quantizers by their registered names and by short names of compositions.

Short names are `residual_X`, `multiscale_X` and `grouped_X`, where X is the name of a quantizer.
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
FORMS = ("residual_", "multiscale_", "grouped_")  # prefixes of short names


def build_quantizer(name: str, **options: Any) -> Quantizer:
    """Build the quantizer registered under `name`.

    `residual_X` is short for the composition `residual` with `of: {name: X, ...}`. It takes the options of
    the composition (see `codecvq.quantizer.compose`) and those of X. `multiscale_X` and `grouped_X` work
    alike. In `grouped_X`, `num_codebooks` is the number of groups unless `num_groups` is given, as in
    grouped_residual_vq. `dropout` makes the groups nested (see `Grouped`), unless X itself has an option
    of this name.

    Raises UnknownName, with similar names, and OptionError for unknown options or values of a wrong type. To
    build options from an untrusted source, do it in `codecvq.construction.construction_limits`.

    Args:
        name: Registered name or short name, optionally after its distribution: "distribution/name".
        options: `dim`, the number of latent channels, and the options of the quantizer.
    """
    for key in ("num_codebooks", "num_groups"):
        if options.get(key) is not None:
            _check_count(name, options[key], key)
    quantizer = _build(registry(), name, options)
    quantizer.config = {"name": name, **options}
    return quantizer


def quantizer_names() -> list[str]:
    """Return all names that `build_quantizer` accepts, sorted."""
    names = registry().all(QuantizerSpec)
    plain = [name for name in names if not name.startswith(FORMS) and name not in COMPOSITIONS]
    derived = [
        f"{form}{name}" for form in (*FORMS, "grouped_residual_", "grouped_multiscale_") for name in plain
    ]
    return sorted({*names, *derived})


def plain_registration(name: str) -> Registration[QuantizerSpec]:
    """Return the registration of `name`, or of X for a short name such as residual_X.

    If a plugin registers residual_X itself, returns the registration of residual_X.
    """
    loaded = registry()
    form = _derived_form(loaded, name)
    return plain_registration(_without_prefix(form, name)) if form else _lookup(loaded, name)


def quantizer_registrations(
    config: Mapping[str, Any], key: str = "quantizer"
) -> dict[str, Registration[QuantizerSpec]]:
    """Return the registrations of a quantizer `{name: …, options}` and of all quantizers inside it.

    Keys are their paths in the config: "quantizer", "quantizer.semantic", "quantizer.of.0".
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
    """Return option -> default of a quantizer; `inspect.Parameter.empty` marks options without a default."""
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
    """Return the canonical form of a quantizer's `{name: …, options}`: with a short name if there is one.

    Two spellings of the same quantizer thus give codecs the same identity.
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
    """Return name and options of the composition that a short name such as residual_X stands for."""
    form = _derived_form(registry(), name)
    inner, own = _without_prefix(form, name), dict(options)
    form_options = _form_options(form)
    if form == "grouped_":
        groups = own.pop("num_groups", None)
        groups = own.pop("num_codebooks", None) if groups is None else groups
        form_options = {
            key: value for key, value in form_options.items() if key not in quantizer_options(inner)
        }
        own["num_groups"] = _check_count(name, groups)
        form_options["num_groups"] = None
    elif form == "residual_" and own.get("stages") is None:
        _check_count(name, own.get("num_codebooks"))
    outer = {key: own.pop(key) for key in form_options if key in own}
    dim = {"dim": own.pop("dim")} if "dim" in own else {}
    return form[:-1], {**dim, "of": {"name": inner, **own}, **outer}


def _form_options(form: str) -> dict[str, Any]:
    """Return option -> default of a composition, except `dim` and `of`."""
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
    """Return the prefix of a short name, such as "residual_"; "" for other names and for registered ones."""
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
