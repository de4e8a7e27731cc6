"""Hash of a table's rows: independent of the library that wrote the file; any damage changes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

_STORED = {pa.float64(): np.dtype("<f8"), pa.int64(): np.dtype("<i8"), pa.uint64(): np.dtype("<u8")}


def hash_rows(table: pa.Table) -> str:
    """Hash the columns of a table, in order.

    A column of strings contributes the UTF-8 lengths as int32 (null: -1), then the bytes. A column of numbers
    contributes a byte a row (1: null), then the values of 8 bytes each (null: 0).

    Returns
    -------
    str
        ``xxh3-128:<hex>``

    Raises
    ------
    ValueError
        A column is neither of strings nor of 64-bit numbers.
    """
    # Opening a store hashes every index: Arrow's buffers are hashed directly, a few microseconds a column. Its
    # compute functions would cost a hundred.
    digest = xxhash.xxh3_128()
    for name, column in zip(table.column_names, table.itercolumns(), strict=True):
        values = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        null = _nulls(values)
        if values.type == pa.string():
            lengths, content = _texts(values, null)
            digest.update(lengths.astype("<i4", copy=False).data)
            digest.update(content)
        elif (stored := _STORED.get(values.type)) is not None:
            digest.update(bytes(len(values)) if null is None else null.data)
            digest.update(_numbers(values, null).astype(stored, copy=False).data)
        else:
            raise ValueError(f"column {name} is of type {values.type}")
    return f"xxh3-128:{digest.hexdigest()}"


def _nulls(values: pa.Array) -> np.ndarray[Any, Any] | None:
    """(rows,) bool, true where null; None where nothing is."""
    if not values.null_count:
        return None
    first, count = values.offset, len(values)
    valid = np.frombuffer(values.buffers()[0], np.uint8)[first // 8 :]
    return np.unpackbits(valid, count=first % 8 + count, bitorder="little")[first % 8 :] == 0


def _numbers(values: pa.Array, null: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    """The values, 0 where null."""
    empty = pa.array([], values.type).to_numpy(zero_copy_only=False)
    if not len(values):
        return empty
    content = values.buffers()[1]
    numbers = np.frombuffer(content, empty.dtype)[values.offset : values.offset + len(values)]
    if null is None:
        return numbers
    filled = numbers.copy()
    filled[null] = 0
    return filled


def _texts(values: pa.StringArray, null: np.ndarray[Any, Any] | None) -> tuple[np.ndarray[Any, Any], memoryview]:
    """UTF-8 lengths of the strings, -1 where null, and their concatenated bytes."""
    if not len(values):
        return np.empty(0, np.int32), memoryview(b"")
    _, offsets, content = values.buffers()
    bounds = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    lengths = bounds[1:] - bounds[:-1]
    if null is not None:
        if lengths[null].any():  # a null may cover bytes that belong to no string
            _, content = _texts(values.drop_null(), None)
            lengths[null] = -1
            return lengths, content
        lengths[null] = -1
    return lengths, memoryview(b"" if content is None else content)[bounds[0] : bounds[-1]]
