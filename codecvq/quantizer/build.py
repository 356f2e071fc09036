"""Quantizers by name: any registered one, and `residual_X` and `grouped_X` of any of them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from codecvq.api.hookspecs import QuantizerSpec
from codecvq.arguments import whole_number
from codecvq.errors import OptionError, UnknownName
from codecvq.limits import MAX_CODEBOOKS
from codecvq.plugins import Registry, registry
from codecvq.plugins.offer import Offer
from codecvq.plugins.options import check_options, made_of, option_defaults, shortened
from codecvq.quantizer.author import Quantizer
from codecvq.quantizer.grouped import Grouped
from codecvq.quantizer.residual import Residual

FORMS = ("residual_", "grouped_")
COMPOSITE_OPTIONS: dict[str, dict[str, Any]] = {
    "residual_": {
        "num_codebooks": inspect.Parameter.empty,
        "dropout": 0.0,
        "dropout_depths": (),
        "shared": False,
        "stages": None,
        "beam": 1,
    },
    "grouped_": {
        "num_codebooks": inspect.Parameter.empty,
        "num_groups": None,
        "dropout": 0.0,
        "dropout_depths": (),
    },
}


def build_quantizer(name: str, **options: Any) -> Quantizer:
    """The quantizer registered under `name`, made with `dim` and its options as keywords.

    `residual_X` takes `num_codebooks` (how many stages), `dropout` with `dropout_depths`, `beam` and `shared`
    (one codebook for all stages) beside X's own options. Stages that differ have `stages`, a list of each
    one's options over those of all: `stages=[{"codebook_size": 1024}, {}, {}]`; num_codebooks is then its
    length. `grouped_X` takes `num_codebooks` (groups), and where X itself has several codebooks, as in
    grouped_residual_vq, `num_groups`; its `dropout` makes the groups nested, unless X is residual, which then
    has it. Raises UnknownName and OptionError, which name what is known, and for options of a wrong type.
    Options of a stranger are built within `codecvq.construction.limited`.
    """
    for key in ("num_codebooks", "num_groups"):
        if options.get(key) is not None:
            _count(name, options[key], key)
    quantizer = _build(registry(), name, options)
    quantizer.config = {"name": name, **options}
    return quantizer


def quantizer_names() -> list[str]:
    """Every name that `build_quantizer` knows."""
    plain = list(registry().all(QuantizerSpec))
    derived = [f"{form}{name}" for form in FORMS for name in plain if not name.startswith(FORMS)]
    return sorted(
        {*plain, *derived, *(f"grouped_residual_{name}" for name in plain if not name.startswith(FORMS))}
    )


def plain_offer(name: str) -> Offer[QuantizerSpec]:
    """The plugin's offer behind `name`: that of X for residual_X, unless residual_X itself is registered."""
    loaded = registry()
    form = _form_to_derive(loaded, name)
    return plain_offer(_without(form, name)) if form else _find(loaded, name)


def quantizer_options(name: str) -> dict[str, Any]:
    """Option -> default (`inspect.Parameter.empty` where there is none) of a quantizer by name."""
    form = _form_to_derive(registry(), name)
    if not form:
        return option_defaults(plain_offer(name))
    return quantizer_options(_without(form, name)) | COMPOSITE_OPTIONS[form]


def _build(loaded: Registry, name: str, options: dict[str, Any]) -> Quantizer:
    form = _form_to_derive(loaded, name)
    if form == "residual_":
        return _build_residual(loaded, name, dict(options))
    if form == "grouped_":
        return _build_grouped(loaded, name, dict(options))
    offer, what = _find(loaded, name), f"quantizer {name!r}"
    check_options(what, offer, options)
    if options.get("num_codebooks") is not None:
        _count(name, options["num_codebooks"])
    quantizer = made_of(what, offer.make, options)
    if not isinstance(quantizer, Quantizer):
        raise OptionError(
            f"quantizer {name!r} of {offer.origin} is a {type(quantizer).__name__}, not a codecvq.Quantizer"
        )
    return quantizer


def _build_residual(loaded: Registry, name: str, options: dict[str, Any]) -> Quantizer:
    inner = _without("residual_", name)
    overrides = _overrides(name, options.pop("num_codebooks", None), options.pop("stages", None))
    shared = options.pop("shared", False)
    if not isinstance(shared, bool):
        raise OptionError(f"quantizer {name!r}: shared is {shortened(shared)}; it is true or false")
    stack: dict[str, Any] = {
        key: options.pop(key) for key in ("dropout", "dropout_depths", "beam") if key in options
    }
    check_options(f"quantizer {name!r}", Residual, stack, given=("dim", "stages", "num_codebooks"))
    first = _build(loaded, inner, options | overrides[0])
    if (shared or first.refines) and any(overrides):
        raise OptionError(
            f"quantizer {name!r}: stages is {overrides}, but all its stages share one "
            f"{'grid' if first.refines else 'codebook'}. Give the options beside `stages`, once."
        )
    if first.refines:  # one grid serves all stages; its projection is the stack's
        dim, options = first.dim, options | {"dim": first.code_dim}
        first = _build(loaded, inner, options)
        return Residual(dim, [first], num_codebooks=len(overrides), **stack)
    rest = [] if shared else [_build(loaded, inner, _own(options | override)) for override in overrides[1:]]
    return Residual(first.dim, [first, *rest], num_codebooks=len(overrides), **stack)


def _overrides(name: str, count: object, stages: object) -> list[dict[str, Any]]:
    """The options of each stage that differ from those of all."""
    if stages is None:
        return [{}] * _count(name, count)
    if not isinstance(stages, (list, tuple)) or not all(isinstance(s, Mapping) for s in stages) or not stages:
        raise OptionError(
            f"quantizer {name!r}: stages is {stages!r}; needed is a list with the options of each stage that "
            "differ, as [{codebook_size: 1024}, {}, {}]"
        )
    if count is not None and count != len(stages):
        raise OptionError(f"quantizer {name!r}: num_codebooks is {count}, and stages has {len(stages)}")
    if any("dim" in stage for stage in stages):
        raise OptionError(f"quantizer {name!r}: all stages have the same dim. Give it beside `stages`.")
    return [dict(stage) for stage in stages]


def _build_grouped(loaded: Registry, name: str, options: dict[str, Any]) -> Quantizer:
    inner = _without("grouped_", name)
    groups = options.pop("num_groups", None)
    groups = _count(name, options.pop("num_codebooks", None) if groups is None else groups)
    dim = options.get("dim")
    if type(dim) is not int or dim % groups:
        raise OptionError(
            f"quantizer {name!r}: dim is {shortened(dim)}, which {groups} groups do not divide. Change one "
            "of the two."
        )
    own = quantizer_options(inner)
    nested: dict[str, Any] = {
        key: options.pop(key) for key in ("dropout", "dropout_depths") if key in options and key not in own
    }
    check_options(f"quantizer {name!r}", Grouped, nested, given=("groups",))
    first = _build(loaded, inner, options | {"dim": dim // groups})
    rest = [_build(loaded, inner, _own(options | {"dim": dim // groups})) for _ in range(groups - 1)]
    return Grouped([first, *rest], **nested)


def _own(options: dict[str, Any]) -> dict[str, Any]:
    """Options of one more stage or group: a module among them is copied, so that none learns for two."""
    return {
        key: copy.deepcopy(value) if isinstance(value, nn.Module) else value for key, value in options.items()
    }


def _form_to_derive(loaded: Registry, name: str) -> str:
    """ "residual_" or "grouped_" where the name is such a form and nobody registered it as it is."""
    bare = name.rpartition("/")[2]
    form = next((form for form in FORMS if bare.startswith(form)), "")
    return "" if form and bare in loaded.offers(QuantizerSpec) else form


def _without(form: str, name: str) -> str:
    distribution, slash, bare = name.rpartition("/")
    return f"{distribution}{slash}{bare.removeprefix(form)}"


def _find(loaded: Registry, name: str) -> Offer[QuantizerSpec]:
    try:
        return loaded.find(QuantizerSpec, name)
    except UnknownName:
        raise UnknownName(loaded.unknown(QuantizerSpec, name, quantizer_names())) from None


def _count(name: str, value: object, key: str = "num_codebooks") -> int:
    count = whole_number(value)
    if count is None or not 1 <= count <= MAX_CODEBOOKS:
        raise OptionError(
            f"quantizer {name!r} needs {key}, a whole number from 1 to {MAX_CODEBOOKS}; given is "
            f"{shortened(value)}."
        )
    return count
