"""A checksum of the values of a batch of rows, independent of their encoding in Parquet.

It is stored in addition to the page checksums of Parquet, which do not cover the page headers.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def batch_checksum(batch: pa.RecordBatch) -> int:
    """Return the CRC-32 of names and values of all columns. Supports the column types of `storable_type`."""
    crc = zlib.crc32(json.dumps(batch.schema.names).encode())
    for column in batch.columns:
        crc = _updated_crc(crc, column)
    return crc


def _updated_crc(crc: int, array: pa.Array) -> int:
    import pyarrow as pa

    kind = array.type
    if array.null_count:
        crc = zlib.crc32(np.packbits(array.is_null().to_numpy(zero_copy_only=False)).data, crc)
    if pa.types.is_struct(kind):
        for child in array.flatten():
            crc = _updated_crc(crc, child)
        return crc
    if pa.types.is_list(kind):
        return _updated_crc(zlib.crc32(_lengths(array), crc), array.flatten())
    if pa.types.is_string(kind) and len(array):
        offsets = np.frombuffer(array.buffers()[1], dtype=np.int32)[array.offset :][: len(array) + 1]
        text = memoryview(array.buffers()[2] or b"")[offsets[0] : offsets[-1]]
        return zlib.crc32(text, zlib.crc32(_lengths(array), crc))
    if pa.types.is_string(kind):
        return crc
    values = array.fill_null(False if pa.types.is_boolean(kind) else 0) if array.null_count else array
    return zlib.crc32(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).data, crc)


def _lengths(array: pa.Array) -> bytes:
    import pyarrow.compute as pc

    lengths = pc.binary_length(array) if array.type == "string" else pc.list_value_length(array)
    return lengths.fill_null(0).to_numpy(zero_copy_only=False).tobytes()
