"""Reads untrusted JSON files within limits, and validates them with pydantic models.

Only a regular file of a bounded size is read. Its text must be strict JSON: no duplicate key, no NaN or
infinity, no integer beyond 64 bits, a bounded depth, and no NUL or lone surrogate in a string.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from codecvq.errors import CodecvqError

MAX_BYTES = 1 << 20  # of a file
MAX_DEPTH = 50  # nesting levels of lists and objects
MAX_DIGITS = 40  # of a number
MAX_SHOWN = 60  # characters of a value in an error message

Model = TypeVar("Model", bound=BaseModel)


def read_model(
    path: Path,
    model: type[Model],
    *,
    error: type[CodecvqError] = CodecvqError,
    advice: str = "Copy it again.",
    max_bytes: int = MAX_BYTES,
) -> Model:
    """Read a JSON file and return its content as a `model`.

    Raises `error` if the file is missing, too large, not regular, not JSON, or does not match the model. The
    message names the file and the key, and ends with `advice`.
    """
    value = read_json(path, error=error, advice=advice, max_bytes=max_bytes)
    return validated(model, value, str(path), error=error, advice=advice)


def read_json(
    path: Path,
    *,
    error: type[CodecvqError] = CodecvqError,
    advice: str = "Copy it again.",
    max_bytes: int = MAX_BYTES,
) -> dict[str, Any]:  # Any: JSON
    """Read a JSON file and return its object; raises `error` like `read_model`, without a model check."""
    content = read_bounded(path, max_bytes, error=error, advice=advice)
    return parse_json(content, str(path), error=error, advice=advice)


def open_regular(path: Path, *, error: type[CodecvqError] = CodecvqError, advice: str = "") -> BinaryIO:
    """Open a regular file for reading. Raises `error` for any other path without blocking."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as failure:  # ValueError: a NUL in the path
        raise _unreadable(path, failure, error, advice) from failure
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise error(f"{path} is not a regular file. {advice}".rstrip())
    return os.fdopen(descriptor, "rb")


def read_bounded(
    path: Path, max_bytes: int, *, error: type[CodecvqError] = CodecvqError, advice: str = ""
) -> bytes:
    """Read a regular file of at most `max_bytes`. Raises `error` for any other path without blocking."""
    with open_regular(path, error=error, advice=advice) as file:
        try:
            # read in blocks: a single read would allocate `max_bytes` for a file of any size
            content = bytearray()
            too_large = os.fstat(file.fileno()).st_size > max_bytes
            while not too_large and (piece := file.read(1 << 20)):
                content += piece
                too_large = len(content) > max_bytes
        except OSError as failure:
            raise _unreadable(path, failure, error, advice) from failure
    if too_large:
        raise error(f"{path} has more than the limit of {max_bytes:,} bytes. {advice}".rstrip())
    return bytes(content)


def _unreadable(path: Path, failure: Exception, error: type[CodecvqError], advice: str) -> CodecvqError:
    reason = getattr(failure, "strerror", None) or failure
    return error(f"{path} cannot be read ({reason}). {advice}".rstrip())


def parse_json(
    text: bytes | str,
    origin: str,
    *,
    error: type[CodecvqError] = CodecvqError,
    advice: str = "Copy it again.",
) -> dict[str, Any]:  # Any: JSON
    """Parse a text and return its JSON object. Raises `error`; `origin` names the text in its message."""
    try:
        value = json.loads(
            text.decode("utf-8-sig") if isinstance(text, bytes) else text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_reject_constant,
        )
        if not isinstance(value, dict):
            raise ValueError("it is not an object")
        _check_depth_and_texts(value)
    except RecursionError as failure:
        raise error(f"{origin} is damaged (nested too deeply). {advice}") from failure
    except ValueError as failure:
        raise error(f"{origin} is damaged ({failure}). {advice}") from failure
    return value


def validated(
    model: type[Model],
    value: object,
    origin: str,
    *,
    error: type[CodecvqError] = CodecvqError,
    advice: str = "Copy it again.",
) -> Model:
    """Validate a `value` from `parse_json` and return it as a `model`. Types are not converted.

    Raises `error` with the first key that does not match.
    """
    try:
        return model.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as failure:
        problem = failure.errors(include_url=False, include_context=False)[0]
        key = ".".join(map(str, problem["loc"]))[:MAX_SHOWN] or "the file"
        raise error(
            f"{origin}: {_explain(key, problem['type'], problem['msg'], problem['input'])} {advice}"
        ) from None


def _explain(key: str, kind: str, message: str, given: object) -> str:
    if kind == "missing":
        return f"{key} is missing."
    if kind == "extra_forbidden":
        return f"{key} is not a key of this format."
    shown = repr(given)
    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}…"
    message = message.removeprefix("Value error, ")
    return f"{key} is {shown}: {message[:1].lower()}{message[1:]}."


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON
    values = dict(pairs)
    if len(values) < len(pairs):
        duplicate = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {duplicate[:MAX_SHOWN]!r} occurs twice")
    return values


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"the number {_shortened(digits)} does not fit in 64 bits")
    return int(digits)


def _number(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {_shortened(digits)} is too large")
    return number


def _reject_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number in JSON")


def _shortened(digits: str) -> str:
    return digits if len(digits) <= MAX_DIGITS else f"{digits[:10]}… of {len(digits)} digits"


def _check_depth_and_texts(value: object) -> None:
    level, depth = [value], 0
    while level:
        for text in level:
            if isinstance(text, str) and ("\0" in text or not _is_unicode(text)):
                raise ValueError(f"the text {text[:MAX_SHOWN]!r} contains a NUL or a lone surrogate")
        lists = [item for item in level if isinstance(item, list)]
        objects = [item for item in level if isinstance(item, dict)]
        if depth == MAX_DEPTH and (lists or objects):
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        level = [item for items in lists for item in items]
        level += [item for items in objects for pair in items.items() for item in pair]
        depth += 1


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
