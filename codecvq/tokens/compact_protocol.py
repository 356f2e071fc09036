"""A reader for Thrift's compact protocol, the encoding of Parquet headers and footers."""

from __future__ import annotations

from typing import Any

_MAX_DEPTH = 12

I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12  # type ids of values

#: The fields of a struct by (number, kind). A lookup with another kind has no result: Thrift readers skip
#: such fields. Any: a number, bytes, a struct, or a list of these.
Fields = dict[tuple[int, int], Any]


class CompactReader:
    """Reads values from `data`; raises ValueError for invalid data and IndexError at its end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.offset = data, 0

    def struct(self, depth: int = 0) -> Fields:
        """Read a struct; returns its fields."""
        if depth > _MAX_DEPTH:
            raise ValueError("its structs are nested too deeply")
        fields: Fields = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number, kind] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (4, I32, I64):
            return self._integer()
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind == STRUCT:
            return self.struct(depth + 1)
        if kind in (LIST, 10):
            return self._list(depth)
        if kind in (1, 2, 3):
            return self._byte()
        if kind == 7:
            return self._bytes(8)
        raise ValueError(f"it has a value of kind {kind}")

    def _list(self, depth: int) -> tuple[int, list[Any]]:
        """Read a list; returns the kind of its items, and the items."""
        head = self._byte()
        count = self._varint() if head >> 4 == 15 else head >> 4
        if count > len(self.data) - self.offset:  # each item has at least one byte
            raise ValueError("it ends within a list")
        return head & 15, [self._value(head & 15, depth + 1) for _ in range(count)]

    def _byte(self) -> int:
        self.offset += 1
        return self.data[self.offset - 1]

    def _bytes(self, count: int) -> bytes:
        if count > len(self.data) - self.offset:
            raise ValueError("it ends within a text")
        self.offset += count
        return self.data[self.offset - count : self.offset]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("it has a number of too many bytes")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
