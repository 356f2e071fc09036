"""`codecvq plugins list|show|doctor|check`: inspect and check plugins."""

from __future__ import annotations

import dataclasses
import inspect
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from codecvq.cli import checking
from codecvq.cli.console import Json, Plugins, print_json, print_table, print_text
from codecvq.errors import CodecvqError, UnknownName
from codecvq.plugins import KINDS, registry
from codecvq.plugins.registration import Registration

app = typer.Typer(help="List, inspect and check plugins.", no_args_is_help=True)

LISTED = tuple(kind for kind in KINDS if kind != "recipes")  # see `codecvq recipes list`


@app.command("list")
def list_plugins(
    kind: Annotated[str | None, typer.Option(help=f"List only this kind: {', '.join(KINDS)}.")] = None,
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """List everything that plugins register.

    Example: [bold]codecvq plugins list --plugin ./my_vq.py[/]
    """
    if kind is not None and kind not in KINDS:
        raise UnknownName(f"no kind of plugin is named {kind!r}; available kinds are {', '.join(KINDS)}.")
    kinds = [kind] if kind else LISTED
    entries = [(k, name, registration) for k in kinds for name, registration in registry().all(k).items()]
    failures = [str(failure) for failure in registry().failures]
    if as_json:
        print_json(
            {
                "offers": [_as_json(k, name, registration) for k, name, registration in entries],
                "failures": failures,
            }
        )
        return
    print_table(
        ["kind", "name", "description", "source"],
        [[k, name, o.spec.summary, _source_of(o)] for k, name, o in entries],
    )
    if kind in (None, "quantizers"):
        print_text(
            "\nEvery quantizer X is also named residual_X, multiscale_X, grouped_X and grouped_residual_X."
        )
    for failure in failures:
        print_text(f"not loaded: {failure}")


@app.command("show")
def show_plugin(
    name: Annotated[
        str, typer.Argument(help="A registered name; also residual_X, multiscale_X and grouped_X.")
    ],
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Show options, defaults, reference and origin of a plugin.

    Example: [bold]codecvq plugins show residual_fsq[/]
    """
    shown = [_details(kind, name) for kind in KINDS if _is_registered(kind, name)]
    if not shown:
        known = sorted({known for kind in KINDS for known in registry().registrations(kind)})
        raise UnknownName(registry().unknown_name_message("plugins", name, known))
    if as_json:
        print_json(shown)
        return
    for details in shown:
        for key, value in details.items():
            if key == "options":
                print_table(
                    ["option", "default"], [[option, str(default)] for option, default in value.items()]
                )
            elif value:
                print_text(f"{key}: {value}")


@app.command("doctor")
def doctor(plugin: Plugins = [], as_json: Json = False) -> None:  # noqa: B006
    """Import all plugins and report errors.

    Prints import times and tracebacks. Exit code 1 if a plugin fails.

    Example: [bold]codecvq plugins doctor[/]
    """
    loaded = registry()
    rows: list[dict[str, Any]] = []
    problems: list[tuple[str, str]] = []
    for kind in KINDS:
        for name, registrations in loaded.registrations(kind).items():
            if len(registrations) > 1:
                problems.append(
                    (name, f"{kind}: registered by {' and by '.join(str(o.origin) for o in registrations)}")
                )
            for registration in registrations:
                seconds, problem = _load_timed(kind, registration)
                rows.append(
                    {
                        "kind": kind,
                        "name": name,
                        "from": str(registration.origin),
                        "import_s": round(seconds, 3),
                        "ok": not problem,
                    }
                )
                problems += [(registration.qualified_name, problem)] if problem else []
    problems = [*((str(f.origin), f.details()) for f in loaded.failures), *problems]
    if as_json:
        print_json({"offers": rows, "problems": [{"where": where, "what": what} for where, what in problems]})
    else:
        print_table(
            ["kind", "name", "source", "import", "state"],
            [
                [r["kind"], r["name"], r["from"], f"{r['import_s']:.3f} s", "ok" if r["ok"] else "FAILS"]
                for r in rows
            ],
        )
        for where, what in problems:
            print_text(f"\n{where}\n{what}")
        print_text(f"\n{len(rows)} entries, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


app.command("check")(checking.check)


def _load_timed(kind: str, registration: Registration[Any]) -> tuple[float, str]:
    """Load an entry; return the seconds it took and an error message, empty if there is none."""
    start = time.perf_counter()
    try:
        if kind == "recipes":
            if not registration.path().is_file():
                return 0.0, f"its file {registration.path()} does not exist"
        elif kind == "codecs":
            from codecvq.codec.pretrained import codec_folder

            _ = codec_folder(registration) or registration.load()
        else:
            registration.load()
    except CodecvqError as error:
        return time.perf_counter() - start, str(error)
    return time.perf_counter() - start, ""


def _is_registered(kind: str, name: str) -> bool:
    names = set(registry().registrations(kind))
    if kind == "quantizers":
        from codecvq.quantizer.build import quantizer_names

        names.update(quantizer_names())
    return name.rpartition("/")[2] in names


def _details(kind: str, name: str) -> dict[str, Any]:
    registration: Registration[Any]
    if kind == "quantizers":
        from codecvq.quantizer.build import plain_registration, quantizer_options

        registration, options = plain_registration(name), quantizer_options(name)
    else:
        from codecvq.plugins.options import option_defaults

        registration = registry().find(kind, name)
        options = {} if kind == "recipes" or not registration.spec.factory else option_defaults(registration)
    shown = {
        key: "required" if default is inspect.Parameter.empty else default for key, default in options.items()
    }
    return {**_as_json(kind, name, registration), "options": shown}


def _as_json(kind: str, name: str, registration: Registration[Any]) -> dict[str, Any]:
    fields = dataclasses.asdict(registration.spec)
    del fields["factory"], fields["options"]
    return {
        **fields,
        "kind": kind,
        "name": name,
        "origin": str(registration.origin),
        "distribution": registration.origin.distribution,
    }


def _source_of(registration: Registration[Any]) -> str:
    origin = registration.origin
    return str(Path(origin.file).name) if origin.file else f"{origin.distribution} {origin.version}".strip()
