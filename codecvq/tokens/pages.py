"""The page headers of Parquet columns, read before pyarrow reads the pages.

A header of a few bytes may claim 2^31 values, which run-length encoding unpacks to gigabytes; pyarrow does
not hold it against the footer. So the claims are summed here and compared with what the footer says, which
`codecvq.tokens.shard` bounds by the size of the file.

Headers are structs in Thrift's compact protocol, as in `parquet.thrift` of the format's specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MOST_TEXT_BYTES = 1 << 29  # of a row group's column, when all its values are the longest text
_MOST_HEADER = 1 << 16  # bytes
_MOST_DEPTH = 10
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_2 = 0, 2, 3
_PART_OF_KIND = {_DATA_PAGE: 5, _DICTIONARY_PAGE: 7, _DATA_PAGE_2: 8}  # field of a page header
_NUM_VALUES, _ENCODING = 1, {_DATA_PAGE: 2, _DICTIONARY_PAGE: 2, _DATA_PAGE_2: 4}  # fields of these parts
_ENCODINGS = (0, 2, 3, 8)  # plain, dictionaries, run lengths: none that repeats parts of earlier texts


def column_problem(file: BinaryIO, column: pq.ColumnChunkMetaData) -> str:
    """What the pages of a column of a row group claim beyond what its footer says, or nothing."""
    start, pages = column.data_page_offset, []
    if column.has_dictionary_page and column.dictionary_page_offset:
        start = min(start, column.dictionary_page_offset)
    at, end = start, start + column.total_compressed_size
    while at < end:
        file.seek(at)
        page = _Page.parse(file.read(min(_MOST_HEADER, end - at)), at)
        pages.append(page)
        at = page.start + page.compressed
    values = sum(page.values for page in pages if page.kind != _DICTIONARY_PAGE)
    if at != end or values != column.num_values:
        return (
            f"its pages have {values:,} values in {at - start:,} bytes, its footer says {column.num_values:,}"
        )
    if sum(page.uncompressed for page in pages) > column.total_uncompressed_size:
        return "its pages are larger than its footer says"
    return _text_problem(file, column, pages) if column.physical_type == "BYTE_ARRAY" else ""


def _text_problem(file: BinaryIO, column: pq.ColumnChunkMetaData, pages: list[_Page]) -> str:
    """Whether few texts in a dictionary make many bytes."""
    for page in pages:
        if page.kind == _DICTIONARY_PAGE and page.uncompressed * column.num_values > MOST_TEXT_BYTES:
            longest = _longest_text(_content(file, column, page))
            if longest * column.num_values > MOST_TEXT_BYTES:
                return f"{column.num_values:,} texts of up to {longest:,} bytes"
    return ""


def _content(file: BinaryIO, column: pq.ColumnChunkMetaData, page: _Page) -> bytes:
    import pyarrow as pa

    file.seek(page.start)
    packed = file.read(page.compressed)
    if column.compression == "UNCOMPRESSED":
        return packed
    return pa.decompress(packed, page.uncompressed, codec=column.compression.lower(), asbytes=True)


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
        reader = _Compact(data)
        try:
            fields = reader.struct()
            kind, uncompressed, compressed = fields[1], fields[2], fields[3]
            part = fields[_PART_OF_KIND[kind]]
            values, encoding = part[_NUM_VALUES], part[_ENCODING[kind]]
        except (IndexError, KeyError, TypeError) as error:
            raise ValueError("a page header cannot be read") from error
        more_than_bytes = kind == _DICTIONARY_PAGE and values > uncompressed
        if min(uncompressed, compressed, values) < 0 or more_than_bytes or encoding not in _ENCODINGS:
            raise ValueError(f"a page has encoding {encoding}, {values} values in {compressed} bytes")
        return cls(kind, at + reader.at, compressed, uncompressed, values)


class _Compact:
    """A reader of Thrift's compact protocol. Raises IndexError at the end of the data, or ValueError."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:  # Any: a number, a struct, or None for the rest
        """The fields of a struct, by their number."""
        if depth > _MOST_DEPTH:
            raise ValueError("a page header is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 12:
            return self.struct(depth + 1)
        if kind in (7, 8):
            size = 8 if kind == 7 else self._varint()
            self.at += size
        elif kind in (9, 10):
            head = self._byte()
            for _ in range(self._varint() if head >> 4 == 15 else head >> 4):
                self._value(head & 15, depth + 1)
        else:
            raise ValueError(f"a page header has a value of kind {kind}")
        return None

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a page header has too long a number")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
