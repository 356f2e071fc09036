"""Hostile recipes and overrides: reading a recipe and building its codec gives a
codec or a documented one-line error.
"""

from __future__ import annotations

import copy
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from limits import run_limited

from codecvq.construction import Limits
from codecvq.errors import CodecvqError
from codecvq.plugins import registry
from codecvq.training import builders
from codecvq.training.recipe import load_recipe
from codecvq.yaml_file import dump_yaml

CASES = 1200
TEXTS = [
    registration.path().read_text(encoding="utf-8") for registration in registry().all("recipes").values()
]
TREES = [yaml.safe_load(text) for text in TEXTS]
HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3.5, -0.0, 10**9, 2**62, 2**63, -(2**63), 10**39, 1e300, 1e-300,
    float("nan"), float("inf"), "", "x", "1", "many", "\x00", "../../etc/passwd", "/dev/zero", "~nosuchuser",
    "[b]", "\x1b[2J", "é" * 300, "x" * 10_000, [], [[]], [None], [-1], [0], [10**12], ["a"], [1] * 3000, {},
    {"name": 5}, {"name": None}, {5: 5}, {"": ""}, {"a": {"b": {"c": [1, {"d": None}]}}}, "auto", "ste",
]  # fmt: skip
SNIPPETS = [
    "*", "&a", "*a", "!!python/object:os.system", "!!binary x", "!!set", "<<: *a", "?", "- ", "[" * 400, "{",
    "9" * 500, "\t", "\x00", "\ufeff", "\xed\xa0\x80", "---", "...",
    "|", ">", "'", '"', "%YAML 9.9", "0o9", "0x", ".inf", "1e999", "2001-99-99", "!!float x", "!!bool x",
]  # fmt: skip


@pytest.mark.slow
def test_recipes_give_codecs_or_documented_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Limits(weights_bytes=2**27, tensors=2000, modules=4000, tensor_bytes=2**26)
    monkeypatch.setattr(builders, "LIMITS", small)
    torch.set_num_threads(1)
    registry().all("quantizers"), registry().all("networks")
    with tempfile.TemporaryDirectory() as folder:
        problems = run_limited(lambda seed: case(seed, Path(folder)), CASES)
    assert problems == []


def case(seed: int, folder: Path) -> None:
    rng = random.Random(seed)
    path, overrides = folder / f"{seed}.yaml", list[str]()
    kind = seed % 4
    if kind == 0:
        path.write_bytes(damaged(rng, rng.choice(TEXTS)))
    else:
        tree = copy.deepcopy(rng.choice(TREES))
        for _ in range(rng.choice((1, 1, 1, 2, 4)) if kind != 3 else 0):
            mutate(rng, tree)
        path.write_text(dump_yaml(tree), encoding="utf-8", errors="surrogatepass")
        if kind == 3:
            overrides = [override(rng, tree) for _ in range(rng.choice((1, 1, 3)))]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            recipe = load_recipe(path, overrides)
            builders.build_codec(recipe)
            recipe.to_yaml()
    except CodecvqError as error:
        text = str(error)
        assert "\n" not in text, text
        assert len(text) < 3000, text[:200]


def damaged(rng: random.Random, text: str) -> bytes:
    """The text of a recipe with a part replaced, repeated or removed."""
    content = text.encode()
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(content) + 1)
        upto = min(len(content), at + rng.choice((0, 1, 5, 50)))
        with_ = rng.choice(
            (
                rng.choice(SNIPPETS).encode("utf-8", "surrogatepass"),
                bytes([rng.randrange(256)]),
                content[at:upto] * 3,
            )
        )
        content = content[:at] + with_ + content[upto:]
    return content


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in items for place in ((*at, key), *places(value, (*at, key)))]


def mutate(rng: random.Random, tree: dict[str, Any]) -> None:
    """Replace, remove, add or rename one value."""
    place = rng.choice(places(tree) or [("network",)])
    node: Any = tree
    for key in place[:-1]:
        node = node[key]
    kind, value = rng.random(), copy.deepcopy(rng.choice(HOSTILE))
    if kind < 0.65 or not isinstance(node, dict):
        node[place[-1]] = value
    elif kind < 0.75:
        node.pop(place[-1], None)
    elif kind < 0.9:
        node[
            rng.choice(("dim", "sample_rate", "channels", "name", "estimator", "stages", "beam", "x", 5))
        ] = value
    else:
        node[str(value)[:20]] = node.pop(place[-1], None)


def override(rng: random.Random, tree: dict[str, Any]) -> str:
    """An override of any key by a hostile value or text."""
    key = ".".join(map(str, rng.choice(places(tree))))
    if rng.random() < 0.15:
        return f"~{key}"
    value = rng.choice(HOSTILE)
    text = rng.choice(SNIPPETS) if rng.random() < 0.3 else dump_yaml(value).strip().removesuffix("\n...")
    return f"{rng.choice((key, key, key + '.more', '.', key + '.'))}={text}"
