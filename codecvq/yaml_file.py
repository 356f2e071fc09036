"""YAML that may come from a stranger: recipes, overrides and options of plugins are all read here.

The values are those of YAML 1.2's core schema, so that `1e-3` is a number, and `12:30` and `2024-01-01` are
texts. A text is read within limits: on its size, on the depth of lists and mappings, on how much its aliases
make of it, and on the digits of a number. No key may be there twice.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from codecvq.errors import CodecvqError
from codecvq.json_file import read_bounded

MOST_BYTES = 1 << 18  # of a file: recipes have some thousands, and lists of speakers some more
MOST_DEPTH = 50  # of lists and mappings within each other
MOST_VALUES = 50_000  # with what stands behind aliases counted wherever they stand
MOST_DIGITS = 40  # of a number
MOST_SHOWN = 60  # characters of a value that an error repeats

_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "tag:yaml.org,2002:float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}
_OTHERS = {
    "tag:yaml.org,2002:bool": r"true|True|TRUE|false|False|FALSE",
    "tag:yaml.org,2002:null": r"~|null|Null|NULL|",
    "tag:yaml.org,2002:merge": r"<<",
}


class _Loader(yaml.SafeLoader):
    """Plain values of the core schema; a tag in the text is an error unless it is one of them."""


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `_Loader` would read as something else."""


def _resolve_as_core() -> None:
    for made in (_Loader, _Dumper):
        made.yaml_implicit_resolvers = {}
        for tag, pattern in {**_OTHERS, **_NUMBERS}.items():
            made.add_implicit_resolver(tag, re.compile(rf"(?:{pattern})\Z"), None)
    _Loader.yaml_constructors = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
    }
    _Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _integer(node.value))
    _Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: _number(node.value))


def read_yaml(path: Path, *, error: type[CodecvqError] = CodecvqError) -> Any:  # Any: YAML
    """The value in a YAML file. Raises `error` for a file that is missing, not regular, too large, or not
    YAML within the limits.
    """
    content = read_bounded(path, MOST_BYTES, error=error, advice="Check the path.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise error(f"{path} is not YAML ({failure}). Save it as UTF-8.") from failure
    return parse_yaml(text, str(path), error=error)


def parse_yaml(text: str, origin: str, *, error: type[CodecvqError] = CodecvqError) -> Any:  # Any: YAML
    """The value of a YAML text; `origin` names the text in errors."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError as failure:
        raise error(f"{origin} is not YAML that is read here (nested too deeply)") from failure
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as failure:  # the last two: !!bool maybe
        raise error(f"{origin} is not YAML: {_in_one_line(failure)}") from failure


def dump_yaml(value: object) -> str:
    """A value as YAML text that `parse_yaml` reads as the same value; keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _check(root: yaml.Node) -> None:
    """Raise ValueError where the tree below a node is too deep, too large or unclear."""
    sizes: dict[int, int] = {}

    def size_of(node: yaml.Node, depth: int) -> int:
        if depth > MOST_DEPTH:
            raise ValueError(f"nested deeper than {MOST_DEPTH} levels")
        if id(node) not in sizes:
            sizes[id(node)] = MOST_VALUES + 1  # for an alias within what it stands for
            sizes[id(node)] = 1 + sum(size_of(inner, depth + 1) for inner in _inner(node))
        if sizes[id(node)] > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values, those behind aliases included")
        return sizes[id(node)]

    size_of(root, 0)


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = {key for key in keys if keys.count(key) > 1} if len(set(keys)) < len(keys) else ()
        for key in twice:
            raise ValueError(f"the key {key[:MOST_SHOWN]!r} is there twice")
        return [part for pair in node.value for part in pair]
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    text = node.value
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"the text {text[:MOST_SHOWN]!r} has a NUL or half of a surrogate pair")
    return []


def parse_assignment(text: str, what: str, *, error: type[CodecvqError]) -> tuple[str, Any]:
    """Key and value of "key=value", the value read as YAML: lists and numbers are what they look like.

    Raises `error`, in which `what` names the text, where there is no key or no "=", or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise error(f"{what} {text[:MOST_SHOWN]!r} is not key=value, as in steps=1000 or levels=[5,5].")
    return key.strip(), parse_yaml(value, f"{what} {text[:MOST_SHOWN]!r}: the value", error=error)


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"the number {text[:10]}… has {len(text)} digits")
    number = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"the number {number} does not fit in 64 bits")
    return number


def _number(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _in_one_line(failure: Exception) -> str:
    text = " ".join(str(failure).split())
    return text if len(text) <= 300 else f"{text[:300]}…"


_resolve_as_core()
