"""The hash of rows, against the specification read literally."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from supportset.store.format.row_hash import hash_rows

ROWS = {
    "text": pa.array(["ab", None, "", "ä"]),
    "time": pa.array([1.5, None, -0.0, 3.0], pa.float64()),
    "count": pa.array([None, -1, 2**62, 0], pa.int64()),
    "checksum": pa.array([2**64 - 1, 0, None, 1], pa.uint64()),
}


def naive(table: pa.Table) -> str:
    content = b""
    for column, code in zip(table.columns, "sdqQ", strict=True):
        values = column.to_pylist()
        if code == "s":
            content += b"".join(struct.pack("<i", -1 if v is None else len(v.encode())) for v in values)
            content += b"".join(v.encode() for v in values if v is not None)
        else:
            content += bytes(v is None for v in values)
            content += b"".join(struct.pack("<" + code, 0 if v is None else v) for v in values)
    return "xxh3-128:" + xxhash.xxh3_128_hexdigest(content)


def test_against_the_specification() -> None:
    table = pa.table(ROWS)
    assert hash_rows(table) == naive(table)
    assert hash_rows(table.slice(1, 2)) == naive(table.slice(1, 2))
    assert hash_rows(table.slice(0, 0)) == naive(table.slice(0, 0))
    assert hash_rows(pa.concat_tables([table.slice(0, 3), table.slice(3)])) == naive(table)
    assert hash_rows(table.slice(1)) != hash_rows(table)


def test_tables_of_any_nulls_slices_and_chunks() -> None:
    rng = random.Random(0)
    makers: dict[str, Callable[[], Any]] = {
        "text": lambda: rng.choice([None, "", "ä", "x" * rng.randrange(20)]),
        "time": lambda: rng.choice([None, 0.0, -1.5]),
        "count": lambda: rng.choice([None, 0, -1]),
        "checksum": lambda: rng.choice([None, 0, 2**64 - 1]),
    }
    for _ in range(300):
        rows = rng.randrange(30)
        whole = {name: rng.random() < 0.3 for name in makers}  # columns without nulls take a way of their own
        columns = {
            name: [value for _ in range(90) if (value := make()) is not None or not whole[name]][:rows]
            for name, make in makers.items()
        }
        rows = min(len(column) for column in columns.values())
        table = pa.table({name: pa.array(column[:rows], ROWS[name].type) for name, column in columns.items()})
        start, cut = rng.randrange(rows + 1), rng.randrange(rows + 1)
        for part in (table, table.slice(start), pa.concat_tables([table.slice(0, cut), table.slice(cut)])):
            assert hash_rows(part) == naive(part)


def test_bytes_that_a_null_covers_are_not_hashed() -> None:
    bounds = np.array([0, 2, 4, 6], np.int32)
    buffers = [pa.py_buffer(content) for content in (bounds, b"aabbcc", bytes([0b101]))]
    covered = pa.table({"text": pa.StringArray.from_buffers(3, *buffers)})
    assert covered["text"].to_pylist() == ["aa", None, "cc"]
    assert hash_rows(covered) == hash_rows(pa.table({"text": ["aa", None, "cc"]}))


def test_strings_are_not_run_together() -> None:
    assert hash_rows(pa.table({"a": ["ab", "c"]})) != hash_rows(pa.table({"a": ["a", "bc"]}))
    assert hash_rows(pa.table({"a": [""]})) != hash_rows(pa.table({"a": pa.array([None], pa.string())}))


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="column a is of type binary"):
        hash_rows(pa.table({"a": [b"x"]}))
