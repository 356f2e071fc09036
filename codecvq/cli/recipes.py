"""`codecvq recipes list|show`."""

from __future__ import annotations

from typing import Annotated

import typer

from codecvq.cli.console import Json, output, print_json, print_table
from codecvq.plugins import registry

app = typer.Typer(help="Recipes that are installed.", no_args_is_help=True)


@app.command("list")
def list_recipes(as_json: Json = False) -> None:
    """List recipes by name.

    Example: [bold]codecvq recipes list[/]
    """
    offers = registry().recipes()
    if as_json:
        print_json(
            [
                {
                    "name": name,
                    "summary": offer.spec.summary,
                    "file": str(offer.path()),
                    "origin": str(offer.origin),
                }
                for name, offer in offers.items()
            ]
        )
        return
    print_table(["name", "what it makes"], [[name, offer.spec.summary] for name, offer in offers.items()])


@app.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(help="A name from the list, or a YAML file.")],
    resolved: Annotated[
        bool, typer.Option("--resolved", help="With every default written out, and the codec's size.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print a recipe: to read, or to begin your own from.

    Example: [bold]codecvq recipes show quickstart > mine.yaml[/]
    """
    from codecvq.training.recipe import find_recipe, load_recipe

    path = find_recipe(name)
    if not resolved and not as_json:
        output.out(path.read_text(encoding="utf-8"), end="", highlight=False)
        return
    from codecvq.training.loop import build_codec

    recipe = load_recipe(path)
    codec = build_codec(recipe)
    facts = {
        "parameters": sum(p.numel() for p in codec.parameters()),
        "bitrate_bps": codec.bitrate,
        "frame_rate_hz": float(codec.frame_rate),
        "codebook_sizes": list(codec.codebook_sizes),
    }
    if as_json:
        print_json({"file": str(path), "recipe": recipe.model_dump(mode="json"), "codec": facts})
        return
    output.out(recipe.to_yaml(), end="", highlight=False)
    for key, value in facts.items():
        output.out(f"# {key}: {value}", highlight=False)
