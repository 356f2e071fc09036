"""Validation of Parquet page headers before pyarrow reads the pages.

A header of a few bytes may claim 2^31 values, which run-length decoding expands to gigabytes. pyarrow does
not compare it with the footer. This module adds up the values and sizes of all page headers and compares them
with the footer; `codecvq.tokens.shard` limits the footer by the size of the file.

Headers are structs in Thrift's compact protocol, see `parquet.thrift` in the Parquet specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from codecvq.tokens.compact_protocol import I32, STRUCT, CompactReader
from codecvq.tokens.footer import ColumnChunk

MAX_TEXT_BYTES = 1 << 29  # limit for a column of a row group if every value were the longest text
_MAX_HEADER_BYTES = 1 << 16
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_2 = 0, 2, 3
_KIND_FIELD = {_DATA_PAGE: 5, _DICTIONARY_PAGE: 7, _DATA_PAGE_2: 8}  # page kind -> field of the page header
_NUM_VALUES, _ENCODING = 1, {_DATA_PAGE: 2, _DICTIONARY_PAGE: 2, _DATA_PAGE_2: 4}  # fields of these structs
_ENCODINGS = (0, 2, 3, 8)  # plain, dictionary, run length; excludes delta encodings of texts
_TEXT = 6  # physical type
_CODECS = ("", "snappy", "gzip", "", "brotli", "", "zstd", "lz4_raw")  # pyarrow's names


def column_problem(file: BinaryIO, column: ColumnChunk) -> str:
    """Return how the page headers of a column contradict the footer, or "".

    Raises ValueError if a page header is invalid.
    """
    at, end, pages = column.start, column.start + column.compressed, []
    while at < end:
        file.seek(at)
        page = _Page.parse(file.read(min(_MAX_HEADER_BYTES, end - at)), at)
        pages.append(page)
        at = page.start + page.compressed
    values = sum(page.values for page in pages if page.kind != _DICTIONARY_PAGE)
    if at != end or values != column.num_values:
        claimed = f"{values:,} values in {at - column.start:,} bytes"
        return f"its pages have {claimed}, its footer claims {column.num_values:,} in {column.compressed:,}"
    if sum(page.uncompressed for page in pages) > column.uncompressed:
        return "its pages are larger than its footer claims"
    return _text_problem(file, column, pages) if column.physical_type == _TEXT else ""


def _text_problem(file: BinaryIO, column: ColumnChunk, pages: list[_Page]) -> str:
    """Return a problem if the texts of a dictionary could expand to too many bytes, or ""."""
    for page in pages:
        if page.kind == _DICTIONARY_PAGE and page.uncompressed * column.num_values > MAX_TEXT_BYTES:
            longest = _longest_text(_content(file, column, page))
            if longest * column.num_values > MAX_TEXT_BYTES:
                return f"{column.num_values:,} texts of up to {longest:,} bytes"
    return ""


def _content(file: BinaryIO, column: ColumnChunk, page: _Page) -> bytes:
    import pyarrow as pa

    file.seek(page.start)
    packed = file.read(page.compressed)
    if column.codec == 0:
        return packed
    return bytes(pa.decompress(packed, page.uncompressed, codec=_CODECS[column.codec], asbytes=True))


def _longest_text(plain: bytes) -> int:
    at = longest = 0
    while at < len(plain):
        length = int.from_bytes(plain[at : at + 4], "little")
        at, longest = at + 4 + length, max(longest, length)
    return longest


@dataclass(frozen=True)
class _Page:
    kind: int
    start: int  # offset of its content in the file
    compressed: int  # bytes
    uncompressed: int
    values: int

    @classmethod
    def parse(cls, data: bytes, at: int) -> _Page:
        """Parse the page header at the start of `data`, which is at offset `at` in the file.

        Raises ValueError if it is invalid.
        """
        reader = CompactReader(data)
        try:
            fields = reader.struct()
            kind, uncompressed, compressed = (fields[number, I32] for number in (1, 2, 3))
            part = fields[_KIND_FIELD[kind], STRUCT]
            values, encoding = part[_NUM_VALUES, I32], part[_ENCODING[kind], I32]
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError("a page header cannot be read") from error
        too_many_values = kind == _DICTIONARY_PAGE and values > uncompressed
        if min(uncompressed, compressed, values) < 0 or too_many_values or encoding not in _ENCODINGS:
            raise ValueError(f"a page has encoding {encoding}, {values} values in {compressed} bytes")
        return cls(kind, at + reader.offset, compressed, uncompressed, values)
