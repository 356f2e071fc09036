"""The documentation: every block of every page runs, and the reference pages are complete.

Fenced blocks of a page run in order, in a folder that holds `runs/quickstart` (a tiny codec), `recordings/`
(real clips) and nothing else:

- `bash`: by `bash -e`; `codecvq train` gets the overrides `SMALLER`, so that it takes seconds;
- `python`: in a process of its own;
- `python`, `yaml`, `toml` and `json` that begin with a comment `# path/file.ext`: written as that file;
- other `yaml`, `toml`, `json`: parsed; `text`: output, not run.

A line `# include: PATH` in a block is replaced by that file of the repository.

Comments in the line before a block change this:

- `<!-- not run: REASON -->` with a reason of `REASONS`;
- `<!-- train: key=value key=value -->`: these overrides in place of `SMALLER`, for the rest of the page;
- `<!-- fails -->`: the block exits with an error, which the page explains;
- `<!-- as written -->`: the file exists, a command has written it, and the block shows it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from codecvq.api import hookspecs
from codecvq.data.corpus import open_corpus
from codecvq.plugins import PROJECT
from codecvq.training.recipe import Recipe
from recipes import write_recipe
from scripts.docs.generated import filled, included

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
REASONS = {
    "needs a GPU",
    "needs several GPUs",
    "needs several machines",
    "needs the network",
    "needs an account",
    "plays sound",
    "takes hours",
    "CI runs it itself",
    "a sketch",
}
SMALLER = (  # a recipe's full networks take minutes
    "training.steps=3 training.threads=1 training.batch_size=2 training.validation_clips=2 "
    "network.encoder_width=16 network.decoder_width=16 network.encoder_blocks=1 network.decoder_blocks=1 "
    "losses.mel.windows=[512] losses.mel.bands=[40]"
)
FENCE = re.compile(
    r"((?:^ *<!-- [^>]+ -->\n+)*)^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
COMMENT = re.compile(r"<!-- (.+?) -->")
FILE = re.compile(r"(?:#|//) (\S+\.\w+)\n")
WRITTEN = {"python", "yaml", "toml", "json"}


@dataclass(frozen=True)
class Block:
    """A fenced block and the comments before it."""

    language: str
    text: str
    comments: tuple[str, ...]

    @property
    def reason(self) -> str | None:
        """Why the block is not run."""
        return next((c.removeprefix("not run: ") for c in self.comments if c.startswith("not run: ")), None)

    @property
    def runs(self) -> bool:
        return self.language in {"bash", "python"} and self.reason is None


def blocks(page: Path) -> list[Block]:
    found = []
    for match in FENCE.finditer(included(page.read_text(encoding="utf-8"))):
        indent = match["indent"]
        text = re.sub(rf"^{indent}", "", match["text"], flags=re.MULTILINE) if indent else match["text"]
        found.append(Block(match["language"], text, tuple(COMMENT.findall(match[1]))))
    return found


def relative(page: Path) -> str:
    return str(page.relative_to(DOCS))


PAGES_WITH_BLOCKS = [page for page in PAGES if any(block.runs for block in blocks(page))]

# A codecvq that appends the overrides of $TRAIN to `codecvq train`.
CODECVQ = """#!/bin/sh
if [ "$1" = train ] && [ -n "$TRAIN" ]; then
  case "$*" in *--help*) ;; *) eval "set -- \\"\\$@\\" $TRAIN" ;; esac
fi
exec "{python}" -m codecvq "$@"
"""


def environment(folder: Path) -> dict[str, str]:
    """Variables with which commands find this Python's programs and install into `folder`/site, offline."""
    programs = folder / "bin"
    programs.mkdir()
    scripts = {"codecvq": CODECVQ.format(python=sys.executable)}
    scripts |= {
        name: f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n'
        for name, module in {
            "pip": "pip",
            "pytest": "pytest",
            "accelerate": "accelerate.commands.launch",
        }.items()
    }
    scripts |= dict.fromkeys(("python", "python3"), f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for name, text in scripts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    variables = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(str(path) for path in (folder / "site", ROOT, ROOT / "plugins")),
        "PIP_TARGET": str(folder / "site"),
        "PIP_NO_DEPS": "1",
        "PIP_QUIET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTEST_ADDOPTS": "-q -p no:cacheprovider",
        "TERM": "dumb",
    }
    if importlib.util.find_spec("hatchling"):
        # pip reads this variable as "build isolation": a false value switches it off.
        variables |= {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1"}
    return os.environ | variables


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained codec and some recordings, which each page gets a copy of."""
    folder = tmp_path_factory.mktemp("user") / "work"
    folder.mkdir()
    recipe = write_recipe(folder.parent / "tiny.yaml", training={"steps": 3})
    command = [sys.executable, "-m", "codecvq", "train", str(recipe), "--run", "runs/quickstart"]
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "plugins"))
    subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": paths}, check=True)
    (folder / "recordings").mkdir()
    for clip in open_corpus("prompts").split("test").clips[:4]:
        shutil.copy(clip.path, folder / "recordings")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_WITH_BLOCKS, ids=relative)
def test_every_block_runs(page: Path, user: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(user, work)
    variables = environment(tmp_path) | {"TRAIN": quoted(SMALLER)}
    for block in blocks(page):
        for comment in block.comments:
            if comment.startswith("train: "):
                variables["TRAIN"] = quoted(comment.removeprefix("train: "))
        if block.reason is not None:
            continue
        if not written(block, work) and block.runs:
            run(block, work, variables)


def quoted(overrides: str) -> str:
    return " ".join(f"'{override}'" for override in overrides.split())


def written(block: Block, work: Path) -> bool:
    """Write a block that begins with the name of a file, and return whether it does."""
    named = FILE.match(block.text) if block.language in WRITTEN else None
    if named is None:
        return False
    path, content = work / named[1], block.text[named.end() :]
    if "as written" in block.comments:
        assert path.read_text(encoding="utf-8") == content, f"{named[1]} differs from what the page shows"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return True


def run(block: Block, work: Path, variables: dict[str, str]) -> None:
    program = ["bash", "-e", "-c"] if block.language == "bash" else [sys.executable, "-c"]
    done = subprocess.run(
        [*program, block.text],
        cwd=work,
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    good = (done.returncode != 0) == ("fails" in block.comments)
    assert good, f"{block.text}\nexit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_blocks_are_of_known_kinds(page: Path) -> None:
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
def test_links_lead_to_files(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(<?([^)#>\s]+)", text):
        if not re.match(r"https?:|mailto:", target):
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_navigation() -> None:
    assert sorted(navigation_pages()) == sorted(relative(page) for page in PAGES)


class Tagged(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name Python objects, without making them."""


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
    pytest.importorskip("latex2mathml", reason="of the extra docs")
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


def test_generated_parts_are_known() -> None:
    for page in PAGES:
        assert "<!-- generated:" not in filled(page.read_text(encoding="utf-8"))
    with pytest.raises(KeyError):
        filled("<!-- generated: nothing -->")


def recipe_keys(
    model: type[BaseModel], prefix: str = "", instance: object = None
) -> Iterator[tuple[str, str]]:
    """Each key of a recipe and its default as a page shows it."""
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
