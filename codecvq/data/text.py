"""Escaping text from files and file names that cannot be encoded as UTF-8."""

from __future__ import annotations

import hashlib

#: NUL and the surrogates that Python uses for non-UTF-8 bytes of file names -> escape sequence
_ESCAPES = {0: "\\x00"} | {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}


def utf8_safe(text: str) -> str:
    """Escape NUL and all characters that UTF-8 cannot encode.

    A byte of a file name becomes `\\xe9`, a lone surrogate `\\ud800`.
    """
    if text.isascii() and "\0" not in text:
        return text
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode()


def utf8_safe_id(text: str) -> str:
    """Escape an id like `utf8_safe`, so that different ids stay different.

    An escaped id ends with a hash of the text: `caf\\xe9~0b5f7a2c`.
    """
    escaped = utf8_safe(text)
    if escaped == text:
        return text
    return f"{escaped}~{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"
