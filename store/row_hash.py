"""A hash of a table's rows: the same whichever library wrote the file, another one after any damage to it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

_STORED = {pa.float64(): "<f8", pa.int64(): "<i8", pa.uint64(): "<u8"}


def hash_rows(table: pa.Table) -> str:
    """Hash the columns of a table in their order.

    A column of strings gives the lengths of its UTF-8 forms as int32 (null: -1), then their bytes; one of numbers
    gives a byte a row (1: null), then the values (null: 0) of 8 bytes each.

    Returns
    -------
    str
        ``xxh3-128:<hex>``

    Raises
    ------
    ValueError
        A column is neither of strings nor of 64-bit numbers.
    """
    digest = xxhash.xxh3_128()
    for name, column in zip(table.column_names, table.itercolumns(), strict=True):
        values = column.combine_chunks()
        if pa.types.is_string(values.type):
            lengths = pc.fill_null(pc.binary_length(values), -1)
            digest.update(lengths.to_numpy(zero_copy_only=False).astype("<i4").tobytes())
            digest.update(_text_bytes(pc.drop_null(values)))
        elif values.type in _STORED:
            digest.update(values.is_null().to_numpy(zero_copy_only=False).tobytes())
            filled = pc.fill_null(values, pa.scalar(0, values.type)).to_numpy(zero_copy_only=False)
            digest.update(filled.astype(_STORED[values.type]).tobytes())
        else:
            raise ValueError(f"column {name} is of type {values.type}")
    return f"xxh3-128:{digest.hexdigest()}"


def _text_bytes(values: pa.StringArray) -> memoryview:
    """The strings' UTF-8 forms side by side, as they lie in memory."""
    _, offsets, content = values.buffers()
    if content is None or not len(values):
        return memoryview(b"")
    bounds = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return memoryview(content)[bounds[0] : bounds[-1]]
