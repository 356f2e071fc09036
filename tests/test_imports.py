"""Who imports whom: no circles, plugins through public names, and the way of the data downwards."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: The rooms of the library from the lowest floor up. A module imports from its own floor and those below.
FLOORS: list[set[str]] = [
    {
        "audio", "code_entropy", "construction", "errors", "escaping", "files", "json_file",
        "limits", "lock", "numerics", "processor", "signals", "transfer", "weights", "yaml_file",
    },
    {"api"},
    {"arguments", "codecvq"},  # the package itself: its version, and what it re-exports
    {"plugins", "streaming"},
    {"data", "quantizer", "networks", "losses"},
    {"codec"},
    {"bitstream"},
    {"tokens", "evaluation", "testing"},
    {"training"},
    {"cli", "__main__"},
]  # fmt: skip
#: Modules that load what they re-export on first use; what they name for type checkers is no arrow.
LAZY = {"codecvq", "codecvq.networks"}
#: What plugins import from: each of them has `__all__`.
PUBLIC = {
    "codecvq", "codecvq.audio", "codecvq.bitstream", "codecvq.codec", "codecvq.data", "codecvq.errors",
    "codecvq.evaluation", "codecvq.losses", "codecvq.networks", "codecvq.plugins", "codecvq.quantizer",
    "codecvq.streaming", "codecvq.testing", "codecvq.tokens",
}  # fmt: skip


class Import(NamedTuple):
    module: str  # that is imported
    name: str  # of it that is taken; empty for `import module`
    runs_at_import: bool  # neither in a function nor for type checkers
    for_types: bool


@cache
def modules() -> dict[str, Path]:
    """Module -> file, of the library."""
    found = {}
    for path in sorted((ROOT / "codecvq").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """What a file imports of codecvq, wherever it does."""

    def walk(node: ast.AST, inside: bool, types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, "", not (inside or types), types)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: a relative import"
                for alias in child.names:
                    whole = f"{child.module}.{alias.name}"
                    module, name = (whole, "") if whole in modules() else (str(child.module), alias.name)
                    yield Import(module, name, not (inside or types), types)
            guarded = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from walk(child, inside or function, types or guarded)

    found = walk(ast.parse(path.read_text(encoding="utf-8")), False, False)
    return tuple(each for each in found if each.module.partition(".")[0] == "codecvq")


def runs(module: str) -> set[str]:
    """The modules that run when `module` is imported first: those that it imports, and the packages they are
    in, unless it is in these packages itself.
    """
    found = set()
    for each in imports(modules()[module]):
        if each.runs_at_import:
            parts = each.module.split(".")
            packages = {".".join(parts[:end]) for end in range(1, len(parts))}
            found |= {each.module, *(p for p in packages if not f"{module}.".startswith(f"{p}."))}
    return (found & modules().keys()) - {module}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A way through the graph that comes back to its beginning; empty where there is none."""
    done: set[str] = set()

    def walk(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph[node]):
            if found := walk(other, [*way, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def test_the_search_finds_an_import_cycle() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_there_are_no_import_cycles() -> None:
    graph = {module: runs(module) for module in modules()}
    assert "codecvq.quantizer" in graph["codecvq.networks.interface"], "the walk sees imports"
    assert circle(graph) == []


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def test_every_package_has_a_layer() -> None:
    assert {room(module) for module in modules()} == set().union(*FLOORS)


def test_imports_go_to_lower_layers_only() -> None:
    floor = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    upwards = [
        f"{module} -> {each.module}"
        for module, path in modules().items()
        for each in imports(path)
        if floor[room(each.module)] > floor[room(module)] and not (module in LAZY and each.for_types)
    ]
    assert upwards == []


@pytest.mark.parametrize("floor", [floor for floor in FLOORS if len(floor) > 1], ids=lambda f: min(f))
def test_packages_of_one_layer_have_no_import_cycle(floor: set[str]) -> None:
    graph: dict[str, set[str]] = {name: set() for name in floor}
    for module, path in modules().items():
        if room(module) in floor:
            graph[room(module)] |= {room(each.module) for each in imports(path)} & floor - {room(module)}
    assert circle(graph) == []


def plugin_files() -> list[Path]:
    return sorted((ROOT / "plugins").rglob("*.py"))


def test_plugins_import_public_names_only() -> None:
    assert len(plugin_files()) > 40
    deep = []
    for path in plugin_files():
        for each in imports(path):
            public = each.module in PUBLIC
            if not public or (each.name and each.name not in importlib.import_module(each.module).__all__):
                deep.append(f"{path.relative_to(ROOT)}: {each.module} {each.name}".rstrip())
    assert deep == []


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_exported_names_exist(module: str) -> None:
    public = importlib.import_module(module)
    assert public.__doc__
    assert len(set(public.__all__)) == len(public.__all__) > 0
    assert [name for name in public.__all__ if not hasattr(public, name)] == []
