"""`codecvq recipes list|show`: inspect recipes."""

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

MAX_BYTES = 1 << 20  # maximum size of a recipe file

app = typer.Typer(help="List and show recipes.", no_args_is_help=True)


@app.command("list")
def list_recipes(plugin: Plugins = [], as_json: Json = False) -> None:  # noqa: B006
    """List installed recipes.

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
        ["name", "description"],
        [[name, registration.spec.summary] for name, registration in registrations.items()],
    )


@app.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(help="Name of a recipe, or a YAML file.")],
    resolved: Annotated[bool, typer.Option("--resolved", help="Include all defaults.")] = False,
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Print a recipe and properties of its codec.

    Bitrate, parameters, multiply-adds per second of audio, lookahead and receptive field follow as comments.

    Plugins of the recipe are not loaded automatically. If the codec needs one, load it with --plugin.

    Example: [bold]codecvq recipes show quickstart > mine.yaml[/]
    """
    from codecvq.json_file import read_bounded
    from codecvq.training.recipe import find_recipe, load_recipe

    path = find_recipe(name)
    if not resolved and not as_json:  # print first: a recipe can be read even if its codec cannot be built
        content = read_bounded(path, MAX_BYTES, error=RecipeError)
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
    """Properties of the recipe's codec; None and advice if it needs a plugin that is not loaded."""
    from codecvq.plugins.declarations import missing_plugins
    from codecvq.training.builders import build_codec

    try:
        return codec_facts(build_codec(recipe)), ""
    except UnknownName:
        if missing := missing_plugins(recipe.plugins):
            return None, f"To show properties of the codec, load the plugin that it needs: {missing[0]}"
        raise


def codec_facts(codec: Codec) -> dict[str, Any]:
    """Properties of an untrained codec, as JSON with units in the names."""
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
    """Format the properties as lines of text."""
    lines = [
        "",
        f"{facts['bitrate_bps']:.0f} bit/s: {facts['frame_rate_hz']:g} frames per second with "
        f"{_sizes(facts['codebook_sizes'])}",
        f"{'':10}{'parameters':>14}{'multiply-adds per second of audio':>38}",
    ]
    whole = {name: facts[name] for name in ("parameters", "multiply_adds_per_s")}
    for name, part in {**facts["parts"], "whole": whole}.items():
        lines.append(f"{name:10}{part['parameters']:>14,}{_millions(part['multiply_adds_per_s']):>38}")
    if facts["lookahead_s"] is not None:
        lines.append(
            f"lookahead: {1000 * facts['lookahead_s']:.1f} ms beyond the frame; receptive field: "
            + ("the whole past" if facts["receptive_field_s"] is None else "")
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
