"""Every code block of every page runs (see `doc_blocks`), and the reference pages are complete."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import get_args

import pytest
import yaml
from doc_blocks import FENCE, FILE, REASONS, ROOT, WRITTEN, blocks, make_user_folder, run_page
from pydantic import BaseModel

from codecvq.api import hookspecs
from codecvq.plugins import PROJECT
from codecvq.training.recipe import Recipe
from scripts.docs.generated import filled

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def relative(page: Path) -> str:
    return str(page.relative_to(DOCS))


PAGES_WITH_BLOCKS = [page for page in PAGES if any(block.runs for block in blocks(page))]


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_user_folder(tmp_path_factory.mktemp("user") / "work")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_WITH_BLOCKS, ids=relative)
def test_every_block_runs(page: Path, user: Path, tmp_path: Path) -> None:
    run_page(page, user, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_blocks_have_known_languages_and_comments(page: Path) -> None:
    for block in blocks(page):
        assert block.language in {"bash", "text", "diff", *WRITTEN}, block.text
        assert block.reason is None or block.reason in REASONS
        if FILE.match(block.text) or block.reason is not None:
            continue
        if block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "json":
            json.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_point_to_existing_files(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(<?([^)#>\s]+)", text):
        if not re.match(r"https?:|mailto:", target):
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_navigation() -> None:
    assert sorted(navigation_pages()) == sorted(relative(page) for page in PAGES)


class Tagged(yaml.SafeLoader):
    """Reads mkdocs.yml without creating the Python objects of its tags."""


Tagged.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def navigation_pages() -> Iterator[str]:
    def pages(entries: object) -> Iterator[str]:
        if isinstance(entries, str):
            yield entries
        elif isinstance(entries, list):
            for entry in entries:
                yield from pages(entry)
        elif isinstance(entries, dict):
            for entry in entries.values():
                yield from pages(entry)

    yield from pages(yaml.load((ROOT / "mkdocs.yml").read_text(), Tagged)["nav"])


def test_every_hook_is_in_the_reference() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_")]
    assert len(hooks) >= 8
    text = (DOCS / "reference/hooks.md").read_text(encoding="utf-8")
    assert [name for name in hooks if f"`{name}" not in text] == []


def test_every_command_and_option_is_in_the_reference() -> None:
    import typer

    from codecvq.cli.app import app

    text = filled((DOCS / "reference/commands.md").read_text(encoding="utf-8"))

    def leaves(command: object, path: str) -> Iterator[tuple[str, object]]:
        for name, child in getattr(command, "commands", {}).items():
            if hasattr(child, "commands"):
                yield from leaves(child, f"{path} {name}")
            else:
                yield f"{path} {name}", child

    commands = dict(leaves(typer.main.get_command(app), "codecvq"))
    assert len(commands) >= 14
    for path, command in commands.items():
        section = re.search(rf"^#+ {path}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, path
        for parameter in command.params:  # type: ignore[attr-defined]
            for option in parameter.opts:
                assert re.search(rf"(?<![\w-]){re.escape(option)}\b", section[1]), f"{path} {option}"


def test_every_public_module_has_a_page() -> None:
    public = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "codecvq").glob("*/__init__.py")
        if re.search(r"^__all__\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    public |= {"codecvq", "codecvq.errors", "codecvq.api.hookspecs", "codecvq.api.codec"}
    pages = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.glob("reference/*.md"))
    assert public <= set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))


def test_every_name_of_the_package_is_in_the_reference() -> None:
    import codecvq

    text = (DOCS / "reference/codecvq.md").read_text(encoding="utf-8")
    assert [name for name in codecvq.__all__ if not re.search(rf"`{name}\b", text)] == []


def test_formulas_become_mathml() -> None:
    pytest.importorskip("latex2mathml", reason="the extra 'docs' is not installed")
    markdown = pytest.importorskip("markdown")
    from scripts.docs.formulas import Formulas

    html = markdown.markdown(
        r"A gradient $\partial_x f_1$ costs 5 \$ or $6, `$x$` is code." + "\n\n$$\n\\frac{a}{b}\n$$\n",
        extensions=[Formulas()],
    )
    assert html.count("<math") == 2
    assert "<mfrac>" in html
    assert 'display="block"' in html
    assert "<code>$x$</code>" in html
    assert "costs 5 $ or $6," in html


def test_generated_parts_have_known_names() -> None:
    for page in PAGES:
        assert "<!-- generated:" not in filled(page.read_text(encoding="utf-8"))
    with pytest.raises(KeyError):
        filled("<!-- generated: nothing -->")


def recipe_keys(
    model: type[BaseModel], prefix: str = "", instance: object = None
) -> Iterator[tuple[str, str]]:
    """Each key of a recipe with its default, in the format of the reference page."""
    for name, field in model.model_fields.items():
        key, default = f"{prefix}{name}", field.get_default(call_default_factory=True)
        if instance is not None:
            default = getattr(instance, name)
        section = next((s for s in sections(field.annotation)), None)
        if section is not None:
            given = None if field.is_required() else default
            yield from recipe_keys(section, f"{key}.", given)
        elif is_dataclass(default):
            yield from ((f"{key}.{f.name}", f"`{shown(getattr(default, f.name))}`") for f in fields(default))
        else:
            yield key, "required" if instance is None and field.is_required() else f"`{shown(default)}`"


def sections(annotation: object) -> Iterator[type[BaseModel]]:
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield part


def shown(value: object) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()


def test_every_key_of_a_recipe_is_in_the_reference_with_its_default() -> None:
    text = (DOCS / "reference/recipe.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \|", text, re.MULTILINE)
    assert dict(rows) == dict(recipe_keys(Recipe))
    assert len(rows) == len(dict(rows)) > 60


def test_reference_pages_name_objects_that_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert resolve_name(name) is not None, f"{relative(page)}: {name}"


def test_comments_of_fields_are_their_documentation(tmp_path: Path) -> None:
    griffe = pytest.importorskip("griffe", reason="the extra 'docs' is not installed")
    from scripts.docs.field_comments import FieldComments

    (tmp_path / "module_with_fields.py").write_text(
        'class Clip:\n    """One utterance."""\n\n    path: str  # the file\n    #: seconds,\n    #: from 0\n'
        "    start: float = 0.0\n    text: str = ''\n    rate: int = field(\n        1,  # Hz\n    )\n"
    )
    extensions = griffe.load_extensions(FieldComments())
    module = griffe.load("module_with_fields", search_paths=[tmp_path], extensions=extensions)
    assert module["Clip"].docstring.value.splitlines()[2:] == [
        "Attributes:",
        "    path: the file",
        "    start: seconds, from 0",
        "    rate: Hz",
    ]
