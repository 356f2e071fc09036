"""Shards of token datasets that are rewritten with other content."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

CHECKSUMS = b"codecvq.checksums"


def forge(path, columns=None, *, drop=(), metadata=None, checksums=False, **options):
    """Rewrite a shard with other `columns` (arrays by name), dropped columns, or other texts in its footer.
    By default the checksums of the content are removed, as in datasets of earlier versions.
    """
    file = pq.ParquetFile(path)
    table = file.read()
    texts = dict(file.schema_arrow.metadata)
    for name, values in (columns or {}).items():
        array = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)
        place = table.column_names.index(name) if name in table.column_names else len(table.column_names)
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.add_column(place, name, array)
    table = table.drop_columns(list(drop))
    texts |= metadata or {}
    if not checksums:
        del texts[CHECKSUMS]
    pq.write_table(
        table.replace_schema_metadata({key: text for key, text in texts.items() if text is not None}),
        path,
        **{"compression": "zstd", "row_group_size": 1000, **options},
    )


def column(path, name):
    """A column of a shard as Python values."""
    return pq.ParquetFile(path).read(columns=[name]).column(name).to_pylist()
