"""Reads untrusted YAML within limits: recipes, overrides and plugin options.

Values follow the core schema of YAML 1.2: `1e-3` is a number; `12:30` and `2024-01-01` are strings. Limits
apply to the size of a text, its nesting depth, the number of values after alias expansion, and the digits of
a number. Duplicate keys are rejected.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from codecvq.errors import CodecvqError
from codecvq.json_file import read_bounded

MAX_BYTES = 1 << 18  # of a file: recipes have some thousand bytes, lists of speakers more
MAX_DEPTH = 50  # nesting levels of lists and mappings
MAX_VALUES = 50_000  # after alias expansion
MAX_DIGITS = 40  # of a number
MAX_SHOWN = 60  # characters of a value in an error message

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
    """Reads values of the core schema. Any other tag in the text is an error."""


class _Dumper(yaml.SafeDumper):
    """Quotes strings that `_Loader` would read as another type."""


def _resolve_as_core() -> None:
    for cls in (_Loader, _Dumper):
        cls.yaml_implicit_resolvers = {}
        for tag, pattern in {**_OTHERS, **_NUMBERS}.items():
            cls.add_implicit_resolver(tag, re.compile(rf"(?:{pattern})\Z"), None)
    _Loader.yaml_constructors = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
    }
    _Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _integer(node.value))
    _Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: _number(node.value))


def read_yaml(path: Path, *, error: type[CodecvqError] = CodecvqError) -> Any:  # Any: YAML
    """Read a YAML file and return its value.

    Raises `error` if the file is missing, not regular, too large, or not YAML within the limits.
    """
    content = read_bounded(path, MAX_BYTES, error=error, advice="Check the path.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise error(f"{path} is not YAML ({failure}). Save it as UTF-8.") from failure
    return parse_yaml(text, str(path), error=error)


def parse_yaml(text: str, origin: str, *, error: type[CodecvqError] = CodecvqError) -> Any:  # Any: YAML
    """Parse a YAML text and return its value. Raises `error`; `origin` names the text in its message."""
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
        raise error(f"{origin} is not valid YAML (nested too deeply)") from failure
    except (
        yaml.YAMLError,
        ValueError,
        KeyError,
        TypeError,
    ) as failure:  # KeyError, TypeError: for example !!bool maybe
        raise error(f"{origin} is not YAML: {_one_line(failure)}") from failure


def dump_yaml(value: object) -> str:
    """Return a value as YAML text that `parse_yaml` reads as the same value. Keys stay in order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _check(root: yaml.Node) -> None:
    """Raise ValueError if the tree of a node is too deep or large, or has duplicate keys or invalid texts."""
    sizes: dict[int, int] = {}

    def size_of(node: yaml.Node, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if id(node) not in sizes:
            sizes[id(node)] = MAX_VALUES + 1  # marks an alias inside its own anchor
            sizes[id(node)] = 1 + sum(size_of(child, depth + 1) for child in _children(node))
        if sizes[id(node)] > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values, including alias expansion")
        return sizes[id(node)]

    size_of(root, 0)


def _children(node: yaml.Node) -> list[yaml.Node]:
    """Return the child nodes. Raises ValueError for duplicate keys and for a NUL or a lone surrogate."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        duplicates = {key for key in keys if keys.count(key) > 1} if len(set(keys)) < len(keys) else ()
        for key in duplicates:
            raise ValueError(f"the key {key[:MAX_SHOWN]!r} occurs twice")
        return [part for pair in node.value for part in pair]
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    text = node.value
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"the text {text[:MAX_SHOWN]!r} contains a NUL or a lone surrogate")
    return []


def parse_assignment(text: str, what: str, *, error: type[CodecvqError]) -> tuple[str, Any]:
    """Split "key=value" and parse the value as YAML.

    Raises `error`, in which `what` names the text, if the key or the "=" is missing or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise error(f"{what} {text[:MAX_SHOWN]!r} is not key=value, as in steps=1000 or levels=[5,5].")
    return key.strip(), parse_yaml(value, f"{what} {text[:MAX_SHOWN]!r}: the value", error=error)


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"the number {text[:10]}… has {len(text)} digits")
    number = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"the number {number} does not fit in 64 bits")
    return number


def _number(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _one_line(failure: Exception) -> str:
    text = " ".join(str(failure).split())
    return text if len(text) <= 300 else f"{text[:300]}…"


_resolve_as_core()
