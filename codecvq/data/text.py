"""Text from files and file names that can be written as UTF-8."""

from __future__ import annotations

import hashlib

#: NUL, and how Python holds the bytes of a file name that are not UTF-8 -> how they are written out
_WRITTEN_OUT = {0: "\\x00"} | {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}


def utf8_safe(text: str) -> str:
    """The text with NUL and with what UTF-8 cannot hold written out: a byte of a file name as `\\xe9`, a lone
    surrogate as `\\ud800`.
    """
    if text.isascii() and "\0" not in text:
        return text
    return text.translate(_WRITTEN_OUT).encode("utf-8", "backslashreplace").decode()


def utf8_safe_id(text: str) -> str:
    """An id that can be written as UTF-8; ids that differ stay different.

    Where something had to be written out, a hash of the text follows: `caf\\xe9~0b5f7a2c`.
    """
    escaped = utf8_safe(text)
    if escaped == text:
        return text
    return f"{escaped}~{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"
