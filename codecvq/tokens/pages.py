"""The page headers of Parquet columns, read before pyarrow reads the pages.

A header of a few bytes may claim 2^31 values, which run-length encoding unpacks to gigabytes; pyarrow does
not hold it against the footer. So the claims are summed here and compared with what the footer says, which
`codecvq.tokens.shard` bounds by the size of the file.

Headers are structs in Thrift's compact protocol, as in `parquet.thrift` of the format's specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from codecvq.tokens.compact_protocol import I32, STRUCT, CompactReader
from codecvq.tokens.footer import ColumnChunk

MAX_TEXT_BYTES = 1 << 29  # of a row group's column, when all its values are the longest text
_MAX_HEADER_BYTES = 1 << 16  # bytes
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_2 = 0, 2, 3
_KIND_FIELD = {_DATA_PAGE: 5, _DICTIONARY_PAGE: 7, _DATA_PAGE_2: 8}  # field of a page header
_NUM_VALUES, _ENCODING = 1, {_DATA_PAGE: 2, _DICTIONARY_PAGE: 2, _DATA_PAGE_2: 4}  # fields of these parts
_ENCODINGS = (0, 2, 3, 8)  # plain, dictionaries, run lengths: none that repeats parts of earlier texts
_TEXT = 6  # physical type
_CODECS = ("", "snappy", "gzip", "", "brotli", "", "zstd", "lz4_raw")  # pyarrow's names


def column_problem(file: BinaryIO, column: ColumnChunk) -> str:
    """What the pages of a column of a row group claim beyond what its footer says, or nothing. Raises
    ValueError where their headers cannot be read.
    """
    at, end, pages = column.start, column.start + column.compressed, []
    while at < end:
        file.seek(at)
        page = _Page.parse(file.read(min(_MAX_HEADER_BYTES, end - at)), at)
        pages.append(page)
        at = page.start + page.compressed
    values = sum(page.values for page in pages if page.kind != _DICTIONARY_PAGE)
    if at != end or values != column.num_values:
        found = f"{values:,} values in {at - column.start:,} bytes"
        return f"its pages have {found}, its footer says {column.num_values:,} in {column.compressed:,}"
    if sum(page.uncompressed for page in pages) > column.uncompressed:
        return "its pages are larger than its footer says"
    return _text_problem(file, column, pages) if column.physical_type == _TEXT else ""


def _text_problem(file: BinaryIO, column: ColumnChunk, pages: list[_Page]) -> str:
    """Whether few texts in a dictionary make many bytes."""
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
    start: int  # of its content in the file
    compressed: int  # bytes
    uncompressed: int
    values: int

    @classmethod
    def parse(cls, data: bytes, at: int) -> _Page:
        """The page whose header begins `data`, which lies at `at` in the file. Raises ValueError."""
        reader = CompactReader(data)
        try:
            fields = reader.struct()
            kind, uncompressed, compressed = (fields[number, I32] for number in (1, 2, 3))
            part = fields[_KIND_FIELD[kind], STRUCT]
            values, encoding = part[_NUM_VALUES, I32], part[_ENCODING[kind], I32]
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError("a page header cannot be read") from error
        more_than_bytes = kind == _DICTIONARY_PAGE and values > uncompressed
        if min(uncompressed, compressed, values) < 0 or more_than_bytes or encoding not in _ENCODINGS:
            raise ValueError(f"a page has encoding {encoding}, {values} values in {compressed} bytes")
        return cls(kind, at + reader.offset, compressed, uncompressed, values)
