"""`codecvq recipes list|show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecvq.api.hookspecs import RecipeSpec
from codecvq.cli.console import Json, Plugins, print_json, print_table, print_text
from codecvq.errors import RecipeError, UnknownName
from codecvq.plugins import registry

if TYPE_CHECKING:
    from codecvq.codec import Codec
    from codecvq.training.recipe import Recipe

MOST_BYTES = 1 << 20  # of a recipe that is shown

app = typer.Typer(help="Recipes that are installed.", no_args_is_help=True)


@app.command("list")
def list_recipes(as_json: Json = False) -> None:
    """List recipes by name.

    Example: [bold]codecvq recipes list[/]
    """
    registrations = registry().all(RecipeSpec)
    if as_json:
        print_json(
            [
                {
                    "name": name,
                    "summary": registration.spec.summary,
                    "file": str(registration.path()),
                    "origin": str(registration.origin),
                }
                for name, registration in registrations.items()
            ]
        )
        return
    print_table(
        ["name", "what it makes"],
        [[name, registration.spec.summary] for name, registration in registrations.items()],
    )


@app.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(help="A name from the list, or a YAML file.")],
    resolved: Annotated[bool, typer.Option("--resolved", help="With every default written out.")] = False,
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Print a recipe, to read or to begin your own from; and, as comments below it, what its codec is: rate,
    parameters, multiply-adds for a second of audio, how far it sees. Plugins that the recipe names are not
    loaded: where the codec is made of one, name it with --plugin.

    Example: [bold]codecvq recipes show quickstart > mine.yaml[/]
    """
    from codecvq.json_file import read_bounded
    from codecvq.training.recipe import find_recipe, load_recipe

    path = find_recipe(name)
    if not resolved and not as_json:  # first of all: a recipe that cannot be built can still be read
        content = read_bounded(path, MOST_BYTES, error=RecipeError)
        print_text(content.decode(errors="backslashreplace").rstrip("\n"))
    recipe = load_recipe(path)
    facts, missing = _recipe_facts(recipe)
    if as_json:
        print_json({"file": str(path), "recipe": recipe.model_dump(mode="json"), "codec": facts})
        return
    if resolved:
        print_text(recipe.to_yaml().rstrip("\n"))
    for line in _fact_lines(facts) if facts else ["", missing]:
        print_text(f"# {line}".rstrip())


def _recipe_facts(recipe: Recipe) -> tuple[dict[str, Any] | None, str]:
    """What can be said of the recipe's codec; None, and what to do, where a plugin of it is not loaded."""
    from codecvq.plugins.declarations import missing_plugins
    from codecvq.training.builders import build_codec

    try:
        return codec_facts(build_codec(recipe)), ""
    except UnknownName:
        if missing := missing_plugins(recipe.plugins):
            return None, f"To see what its codec is, load the plugin that it needs: {missing[0]}"
        raise


def codec_facts(codec: Codec) -> dict[str, Any]:
    """What can be said of a codec before it is trained: JSON; units are in the names."""
    from codecvq.networks.cost import cost_of

    network = codec.network
    parts = cost_of(network, codec.quantizer, codec.sample_rate, codec.channels).by_part()
    return {
        "parameters": sum(part["parameters"] for part in parts.values()),
        "multiply_adds_per_s": sum(part["multiply_adds_per_s"] for part in parts.values()),
        "parts": parts,
        "bitrate_bps": codec.bitrate,
        "frame_rate_hz": float(codec.frame_rate),
        "codebook_sizes": list(codec.codebook_sizes),
        "lookahead_samples": network.lookahead,
        "receptive_field_samples": network.receptive_field,
        "lookahead_s": _seconds(network.lookahead, codec.sample_rate),
        "receptive_field_s": _seconds(network.receptive_field, codec.sample_rate),
    }


def _seconds(samples: int | None, sample_rate: int) -> float | None:
    return None if samples is None else samples / sample_rate


def _fact_lines(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for people."""
    lines = [
        "",
        f"{facts['bitrate_bps']:.0f} bit/s: {facts['frame_rate_hz']:g} frames a second of "
        f"{_sizes(facts['codebook_sizes'])}",
        f"{'':10}{'parameters':>14}{'multiply-adds per second of audio':>38}",
    ]
    whole = {name: facts[name] for name in ("parameters", "multiply_adds_per_s")}
    for name, part in {**facts["parts"], "whole": whole}.items():
        lines.append(f"{name:10}{part['parameters']:>14,}{_millions(part['multiply_adds_per_s']):>38}")
    if facts["lookahead_s"] is not None:
        lines.append(
            f"looks {1000 * facts['lookahead_s']:.1f} ms beyond a frame; its receptive field is "
            + ("all that came before" if facts["receptive_field_s"] is None else "")
            + (f"{1000 * facts['receptive_field_s']:.0f} ms" if facts["receptive_field_s"] else "")
        )
    return lines


def _sizes(sizes: list[int]) -> str:
    if len(set(sizes)) > 1:
        return f"{len(sizes)} codebooks of {', '.join(map(str, sizes))} codes"
    many = f"{len(sizes)} codebooks" if len(sizes) > 1 else "one codebook"
    return f"{many} of {sizes[0]} codes"


def _millions(multiply_adds: float) -> str:
    return f"{multiply_adds / 1e6:,.1f} M"
