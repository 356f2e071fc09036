"""The compositions `residual`, `multiscale`, `grouped` and `split`, as quantizers with a name.

Members are given as a name, as a mapping with `name` and options, or, if they differ in kind, as a list of
these. In a recipe:

    quantizer: {name: residual, of: {name: simvq, codebook_size: 1024}, num_codebooks: 8}
    quantizer: {name: split, semantic: {name: vq}, acoustic: {name: residual, of: vq, num_codebooks: 7}}

The short form of the first is `{name: residual_simvq, codebook_size: 1024, num_codebooks: 8}`; see
`build_quantizer`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn

from codecvq.arguments import as_integer
from codecvq.errors import OptionError
from codecvq.limits import MAX_CODEBOOKS
from codecvq.plugins.options import shortened
from codecvq.quantizer.author import Quantizer
from codecvq.quantizer.grouped import Grouped
from codecvq.quantizer.residual import Residual
from codecvq.quantizer.split import Split

#: A quantizer inside a composition: its name, or a mapping with `name` and options.
MemberConfig: TypeAlias = "str | Mapping[str, Any]"


def residual(
    dim: int,
    of: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    num_codebooks: int | None = None,
    *,
    stages: Sequence[Mapping[str, Any]] | None = None,
    shared: bool = False,
    dropout: float = 0.0,
    dropout_depths: Sequence[int] = (),
    beam: int = 1,
) -> Quantizer:
    """Build a residual stack: `num_codebooks` stages of one kind, or the stages listed in `of`.

    Args:
        dim: Number of latent channels D.
        of: The quantizer of all stages, or a list with one per stage.
        num_codebooks: Number of stages.
        stages: Options of single stages that override the common ones, for example
            `[{codebook_size: 1024}, {}, {}]`.
        shared: Whether all stages share one codebook.
        dropout: As in `Residual`.
        dropout_depths: As in `Residual`.
        beam: As in `Residual`.
    """
    return _stack("residual", dim, of, num_codebooks, stages, shared, dropout=dropout,
                  dropout_depths=dropout_depths, beam=beam)  # fmt: skip


def multiscale(
    dim: int,
    of: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    strides: Sequence[int],
    *,
    stages: Sequence[Mapping[str, Any]] | None = None,
    shared: bool = False,
    dropout: float = 0.0,
    dropout_depths: Sequence[int] = (),
) -> Quantizer:
    """Build a residual stack whose stage n has one code per `strides[n]` frames.

    SNAC (arXiv:2410.14411) has such a quantizer. The other arguments are the same as for `residual`.
    """
    if isinstance(strides, str) or not isinstance(strides, Sequence) or not strides:
        raise OptionError(
            f"multiscale: strides is {shortened(strides)}; needed is a list with the number of frames "
            "per code of each codebook, for example [4, 2, 1]"
        )
    return _stack("multiscale", dim, of, len(strides), stages, shared, strides=tuple(strides),
                  dropout=dropout, dropout_depths=dropout_depths)  # fmt: skip


def grouped(
    dim: int,
    of: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    num_groups: int | None = None,
    *,
    dims: Sequence[int] | None = None,
    dropout: float = 0.0,
    dropout_depths: Sequence[int] = (),
) -> Quantizer:
    """Build quantizers on slices of the channels: `num_groups` of one kind, or the groups listed in `of`.

    Args:
        dim: Number of latent channels D.
        of: The quantizer of all groups, or a list with one per group.
        num_groups: Number of groups.
        dims: Number of channels of each group; by default `dim` is divided equally.
        dropout: As in `Grouped`.
        dropout_depths: As in `Grouped`.
    """
    members = _members("grouped", of, "num_groups", num_groups if dims is None else len(dims))
    widths = [dim // len(members)] * len(members) if dims is None else list(dims)
    if any(as_integer(width) is None or width < 1 for width in widths) or sum(widths) != dim:
        advice = "" if dims is None else f" dims is {shortened(dims)}."
        raise OptionError(
            f"quantizer 'grouped': dim is {dim}, which {len(members)} groups do not divide.{advice} Change "
            "one of them."
        )
    if num_groups is not None and num_groups != len(members):
        raise OptionError(f"quantizer 'grouped': num_groups is {num_groups}, and dims has {len(members)}")
    first = build_member(members[0], widths[0])
    _check_count("grouped", len(members) * first.num_codebooks)
    rest = [
        build_member(copy_member(member), width)
        for member, width in zip(members[1:], widths[1:], strict=True)
    ]
    return Grouped([first, *rest], dropout=dropout, dropout_depths=dropout_depths)


def split(dim: int, semantic: str | Mapping[str, Any], acoustic: str | Mapping[str, Any]) -> Quantizer:
    """Build a semantic and an acoustic quantizer for the same latents, as in Mimi (arXiv:2410.00037)."""
    return Split(build_member(semantic, dim), build_member(acoustic, dim))


def build_member(part: MemberConfig, dim: int) -> Quantizer:
    """Build a member of a composition. Raises OptionError and UnknownName."""
    from codecvq.quantizer.build import build_quantizer  # circular: it builds compositions

    name, options = name_and_options(part)
    if "dim" in options:
        raise OptionError(f"quantizer {name!r}: dim is set by the enclosing composition. Remove it.")
    return build_quantizer(name, dim=dim, **options)


def name_and_options(part: object) -> tuple[str, dict[str, Any]]:
    """Return name and options of a member. Raises OptionError if it is not a `MemberConfig`."""
    if isinstance(part, str):
        return part, {}
    if not isinstance(part, Mapping) or not isinstance(part.get("name"), str):
        raise OptionError(
            f"{shortened(part)} is given as part of a quantizer; needed is a name, such as simvq, or a "
            "mapping with name and options, such as {name: simvq, codebook_size: 1024}"
        )
    options = dict(part)
    return options.pop("name"), options


def copy_member(part: MemberConfig) -> MemberConfig:
    """Copy a member config for one more stage or group, so that modules among its options are not shared."""
    if isinstance(part, str):
        return part
    return {
        key: copy.deepcopy(value) if isinstance(value, nn.Module) else value for key, value in part.items()
    }


def _stack(
    form: str,
    dim: int,
    of: object,
    count: int | None,
    stages: Sequence[Mapping[str, Any]] | None,
    shared: bool,
    **options: Any,  # of `Residual`
) -> Quantizer:
    count = count if stages is None or count is not None else len(stages)
    _check_overrides(form, stages)
    members = _members(form, of, "num_codebooks", count)
    overrides = [{}] * len(members) if stages is None else [dict(stage) for stage in stages]
    if len(overrides) != len(members):
        raise OptionError(
            f"quantizer {form!r}: num_codebooks is {len(members)}, and stages has {len(overrides)}"
        )
    _check_count(form, len(members))
    name, own = name_and_options(members[0])
    first = build_member({"name": name, **own, **overrides[0]}, dim)
    is_shared = shared or first.refines
    if is_shared and (any(overrides) or isinstance(of, (list, tuple))):
        raise OptionError(
            f"quantizer '{form}_{name}': stages is {shortened(stages or of)}, but all its stages share one "
            f"{'grid' if first.refines else 'codebook'}. Give the options once, outside `stages`."
        )
    if first.refines:  # all stages share one grid, and the stack has the projection
        first = build_member({"name": name, **own}, first.code_dim)
        return Residual(dim, [first], num_codebooks=len(members), **options)
    rest = [] if is_shared else [
        build_member(copy_member(_with_options(member, override)), dim)
        for member, override in zip(members[1:], overrides[1:], strict=True)
    ]  # fmt: skip
    return Residual(dim, [first, *rest], num_codebooks=len(members), **options)


def _with_options(member: MemberConfig, override: Mapping[str, Any]) -> MemberConfig:
    name, options = name_and_options(member)
    return {"name": name, **options, **override}


def _members(form: str, of: object, key: str, count: int | None) -> list[MemberConfig]:
    """Return the config of each stage or group."""
    if isinstance(of, (list, tuple)):
        if not of or count not in (None, len(of)):
            raise OptionError(
                f"quantizer {form!r}: of lists {len(of)} quantizers, but {key} is {count}. Remove {key}."
            )
        return list(of)
    name_and_options(of)
    number = as_integer(count)
    if number is None or not 1 <= number <= MAX_CODEBOOKS:
        raise OptionError(
            f"quantizer {form!r} needs {key}, a whole number from 1 to {MAX_CODEBOOKS}; given is "
            f"{shortened(count)}."
        )
    return [of] * number  # type: ignore[list-item]  # `name_and_options` has checked it


def _check_overrides(form: str, stages: object) -> None:
    """Raise OptionError unless `stages` is None or a list with options of each stage."""
    if stages is None:
        return
    if not isinstance(stages, (list, tuple)) or not all(isinstance(s, Mapping) for s in stages) or not stages:
        raise OptionError(
            f"quantizer {form!r}: stages is {shortened(stages)}; needed is a list with the options of each "
            "stage that differ, for example [{codebook_size: 1024}, {}, {}]"
        )
    if any("dim" in stage for stage in stages):
        raise OptionError(f"quantizer {form!r}: all stages have the same dim. Give it outside `stages`.")


def _check_count(form: str, count: int) -> None:
    if count > MAX_CODEBOOKS:
        raise OptionError(
            f"quantizer {form!r} would have {count} codebooks; at most {MAX_CODEBOOKS} are possible."
        )
