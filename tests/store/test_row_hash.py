"""The hash of rows, against the specification read literally."""

from __future__ import annotations

import struct

import pyarrow as pa
import pytest
import xxhash

from store.row_hash import hash_rows

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


def test_strings_are_not_run_together() -> None:
    assert hash_rows(pa.table({"a": ["ab", "c"]})) != hash_rows(pa.table({"a": ["a", "bc"]}))
    assert hash_rows(pa.table({"a": [""]})) != hash_rows(pa.table({"a": pa.array([None], pa.string())}))


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="column a is of type binary"):
        hash_rows(pa.table({"a": [b"x"]}))
