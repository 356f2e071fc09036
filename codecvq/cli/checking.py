"""`codecvq plugins check`: run the conformance checks of a quantizer, network, codec or reader."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecvq.cli.console import Json, Plugins, print_json, print_table, print_text
from codecvq.errors import OptionError, UnknownName, nearest
from codecvq.plugins import KINDS, registry

if TYPE_CHECKING:
    from codecvq.testing import Check, Outcome

CHECKED = {
    "quantizer": "quantizers",
    "network": "networks",
    "codec": "codecs",
    "reader": "readers",
}  # --kind -> kind of registrations
STATES = {"ok": "ok", "broken": "BROKEN", "expected": "expected", "skipped": "–", "refused": "refused"}


def check(
    name: Annotated[
        str,
        typer.Argument(help="A registered quantizer, network, codec or reader, or a codec folder."),
    ],
    options: Annotated[list[str] | None, typer.Argument(help="Options of NAME: dim=8 levels=[5,5] …")] = None,
    kind: Annotated[
        str | None, typer.Option(help=f"Kind of NAME, if it is ambiguous: {', '.join(CHECKED)}.")
    ] = None,
    forms: Annotated[
        str | None,
        typer.Option(help="Check only these forms of a quantizer: plain,residual,multiscale,grouped."),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            help="CHECK=REASON: this check is expected to fail. It counts as broken if it passes. Repeatable."
        ),
    ] = None,
    stop: Annotated[bool, typer.Option("-x", help="Stop at the first broken check.")] = False,
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Run the conformance checks of a plugin.

    Quantizers are checked in their plain, residual, multiscale and grouped forms.

    For each broken check, prints the contract, the result and the line of your code.

    Exit code 1 if a check is broken.

    Example: [bold]codecvq plugins check my_vq --plugin ./my_vq.py codebook_size=16[/]

    Example: [bold]codecvq plugins check my_vq --plugin ./my_vq.py -x --forms plain,residual[/]

    Example: [bold]codecvq plugins check spectral sample_rate=16000[/]

    Example: [bold]codecvq plugins check metadata source=LJSpeech-1.1[/]
    """
    from codecvq.testing import run_checks

    what = _kind_of(name, kind)
    checks = _checks(what, name, forms, _options(options or []))
    with _one_thread():
        outcomes = list(run_checks(checks, stop_at_first=stop, expected=_expected(expect or [])))
    broken = [outcome for outcome in outcomes if outcome.is_broken]
    if as_json:
        print_json({what: name, "checks": [_row(outcome) for outcome in outcomes], "broken": len(broken)})
    else:
        _print_table(outcomes)
        _print_broken(broken)
        _print_notes(outcomes)
        print_text(f"\n{_summary(outcomes)}")
    if broken:
        raise typer.Exit(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Context in which torch uses one thread: for such small tensors several threads are slower."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _kind_of(name: str, kind: str | None) -> str:
    """Kind of a name: quantizer, network, codec or reader.

    Raises UnknownName for an unknown name, and OptionError for an ambiguous name if `kind` is None.
    """
    if kind is not None:
        if kind not in CHECKED:
            raise OptionError(f"--kind is {kind!r}; it must be one of {', '.join(CHECKED)}.")
        return kind
    from codecvq.quantizer.build import quantizer_names

    known = {each: {*registry().registrations(registrations)} for each, registrations in CHECKED.items()}
    known["quantizer"].update(quantizer_names())
    matches = [each for each, names in known.items() if name.rpartition("/")[2] in names]
    if not matches and os.path.exists(name):
        matches = ["codec"]
    if not matches:
        everything = sorted(set().union(*known.values()))
        other = next((each for each in KINDS if name in registry().registrations(each)), None)
        if other:
            raise OptionError(
                f"{name!r} is registered under {other}, which have no checks. Kinds with checks: "
                f"{', '.join(CHECKED)}."
            )
        raise UnknownName(
            f"no quantizer, network, codec or reader is named {name!r}.{nearest(name, everything)}"
        )
    if len(matches) > 1:
        raise OptionError(
            f"{name!r} is a {' and a '.join(matches)}. Choose one, for example with --kind {matches[0]}."
        )
    return matches[0]


def _checks(what: str, name: str, forms: str | None, options: Mapping[str, Any]) -> Iterable[Check]:
    """Checks of a name. Raises OptionError for options that its kind does not have."""
    from codecvq.testing import codec_checks, network_checks, quantizer_checks, reader_checks

    if what == "quantizer":
        return quantizer_checks(name, forms=None if forms is None else forms.split(","), **options)
    if forms is not None:
        raise OptionError(f"--forms applies only to quantizers, but {name!r} is a {what}. Omit it.")
    if what == "reader":
        if not isinstance(options.get("source"), str):
            raise OptionError(f"{name!r} is a reader; its checks need a source. Add the option source=PATH.")
        return reader_checks(name, **options)
    if what == "network":
        return network_checks(name, **options)
    if options:
        raise OptionError(f"{name!r} is a codec, which has no options; got {', '.join(options)}.")
    return codec_checks(name)


def _options(texts: list[str]) -> dict[str, Any]:
    """Parse `key=value` arguments. Values are YAML."""
    from codecvq.yaml_file import parse_assignment

    return dict(parse_assignment(text, "option", error=OptionError) for text in texts)


def _expected(texts: list[str]) -> dict[str, str]:
    """Parse `--expect` arguments: check -> reason for its failure."""
    expected = {}
    for text in texts:
        name, _, reason = text.partition("=")
        if not name or not reason.strip():
            raise OptionError(
                f"--expect {text!r} is not CHECK=REASON, such as --expect 'prefix=stages are one block'"
            )
        expected[name] = reason.strip()
    return expected


def _row(outcome: Outcome) -> dict[str, Any]:  # Any: JSON
    return {
        "name": outcome.check.name,
        "ok": not outcome.is_broken,
        "state": outcome.state,
        "why": outcome.check.why,
        "found": outcome.found,
        "place": outcome.place,
        "note": outcome.note,
        "seconds": round(outcome.seconds, 4),
    }


def _print_table(outcomes: list[Outcome]) -> None:
    """Print a row per check and a column per form, without checks that are skipped in all forms."""
    states = {outcome.check.name: STATES[outcome.state] for outcome in outcomes}
    forms = list(dict.fromkeys(outcome.check.form for outcome in outcomes))
    checks = dict.fromkeys(o.check.short_name for o in outcomes if o.state != "skipped")
    print_table(["check", *forms], [[c, *(states.get(f"{form}/{c}", "") for form in forms)] for c in checks])


def _print_broken(broken: list[Outcome]) -> None:
    """Print each broken check once, with its result in each form; equal results of many checks are merged."""
    for result, same in _grouped(broken, lambda outcome: outcome.found):
        if len({outcome.check.short_name for outcome in same}) > 1:
            print_text(f"\n{', '.join(outcome.check.name for outcome in same)}\n  found: {result}")
            _print_places(same)
            broken = [outcome for outcome in broken if outcome not in same]
    for (name, why), same in _grouped(broken, lambda o: (o.check.short_name, o.check.why)):
        print_text(f"\n{name}\n  contract: {why}")
        for result, forms in _grouped(same, lambda outcome: outcome.found):
            print_text(f"  found in {', '.join(outcome.check.form for outcome in forms)}: {result}")
        _print_places(same)


def _print_places(outcomes: list[Outcome]) -> None:
    for place in dict.fromkeys(outcome.place for outcome in outcomes if outcome.place):
        print_text("  at " + place.replace("\n", "\n  "))


def _print_notes(outcomes: list[Outcome]) -> None:
    """Print notes of checks, refused forms, and checks that were skipped or expected to fail."""
    for name, same in _grouped(
        [o for o in outcomes if o.state == "ok" and o.note], lambda o: o.check.short_name
    ):
        print_text(f"\n{name}: {same[0].check.why}")
        for outcome in same:
            print_text(f"  {outcome.check.form} {outcome.note}")
    for outcome in outcomes:
        if outcome.state == "refused":
            print_text(f"\n{outcome.check.form} refused: {outcome.note}")
    for (name, note), same in _grouped(
        [o for o in outcomes if o.state == "expected"], lambda o: (o.check.short_name, o.note)
    ):
        print_text(f"\n{name} fails as expected in {', '.join(o.check.form for o in same)}: {note}")
    for note, same in _grouped([o for o in outcomes if o.state == "skipped"], lambda o: o.note):
        forms = dict.fromkeys(outcome.check.form for outcome in same)
        print_text(f"\n{len(same)} checks of {', '.join(forms)} skipped, {note}")


def _grouped(
    outcomes: Iterable[Outcome], key: Any
) -> list[tuple[Any, list[Outcome]]]:  # Any: what it sorts by
    """Group outcomes by `key`, in order of first occurrence."""
    groups: dict[Any, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(key(outcome), []).append(outcome)
    return list(groups.items())


def _summary(outcomes: list[Outcome]) -> str:
    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in STATES}
    more = [f"{counts[state]} {state}" for state in ("expected", "skipped", "refused") if counts[state]]
    return ", ".join([f"{counts['ok'] + counts['broken']} checks", f"{counts['broken']} broken", *more])
