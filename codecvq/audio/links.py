"""Links of chained files: several Ogg or FLAC files, concatenated to one file."""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

MAX_LINKS = 1000  # concatenated files in one file
SCANNED_AT_ONCE = 1 << 20  # bytes
#: libsndfile's format names -> the start of a link
_SIGNATURES = {
    "FLAC": re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"),
    "OGG": re.compile(rb"OggS\x00[\x02\x03\x06\x07]"),  # the first page of a stream
}
_SIGNATURE_BYTES = 8  # the longest signature


class Link(io.RawIOBase):
    """The bytes `start … end` of a file, as a file of its own."""

    def __init__(self, path: Path, start: int, end: int) -> None:
        super().__init__()
        self._file = path.open("rb")
        self._start, self._end = start, end
        self.seek(0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in the link."""
        return self._file.tell() - self._start

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position in the link, at least 0, and return it."""
        origin = (self._start, self._file.tell(), self._end)[whence]
        return self._file.seek(max(self._start, origin + offset)) - self._start

    def readinto(self, buffer: Any) -> int:  # Any: a writable buffer
        """Read into the buffer, and return the number of bytes; 0 at the end."""
        data = self._file.read(max(0, min(len(buffer), self._end - self._file.tell())))
        buffer[: len(data)] = data
        return len(data)


def find_links(path: Path, file_format: str) -> list[tuple[int, int]]:
    """Return start and end of each link of a file; empty for a file that is not chained.

    Raises ValueError for more than `MAX_LINKS` links.
    """
    if file_format not in _SIGNATURES:
        return []
    with path.open("rb") as file:
        starts = list(itertools.islice(_matches(file, _SIGNATURES[file_format]), MAX_LINKS + 1))
        if len(starts) > MAX_LINKS:
            raise ValueError(f"it has more than {MAX_LINKS} concatenated files")
        if file_format == "OGG":  # audio and video streams of one file start with adjacent pages
            ends = {start + _page_size(file, start) for start in starts}
            starts = [start for start in starts if start not in ends]
        size = file.seek(0, os.SEEK_END)
    return list(zip(starts, [*starts[1:], size], strict=True)) if len(starts) > 1 else []


def _matches(file: BinaryIO, signature: re.Pattern[bytes]) -> Iterator[int]:
    """Yield the offsets of a signature."""
    window, offset = b"", 0  # `offset` of the window in the file
    while data := file.read(SCANNED_AT_ONCE):
        known = len(window)
        window += data
        yield from (offset + match.start() for match in signature.finditer(window) if match.end() > known)
        kept = min(len(window), _SIGNATURE_BYTES - 1)
        offset += len(window) - kept
        window = window[-kept:]


def _page_size(file: BinaryIO, offset: int) -> int:
    file.seek(offset)
    header = file.read(27)
    segments = header[26] if len(header) == 27 else 0
    return 27 + segments + sum(file.read(segments))
