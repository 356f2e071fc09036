"""The built-in recipes: this folder's `recipes` in a wheel, the repository's `recipes` in a checkout."""

from collections.abc import Iterable
from pathlib import Path

from codecvq import RecipeSpec, hookimpl


@hookimpl
def codecvq_recipes() -> Iterable[RecipeSpec]:
    """Register every YAML file: its stem is the recipe's name, its first comment line the summary."""
    here = Path(__file__).resolve().parent
    folder = here / "recipes" if (here / "recipes").is_dir() else here.parents[1] / "recipes"
    for path in sorted(folder.glob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        yield RecipeSpec(name=path.stem, factory=str(path), summary=first.lstrip("# "))
