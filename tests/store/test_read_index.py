"""Reading an index file: all of it, or some columns, but never columns of another type than was written."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from supportset.store.errors import SupportsetError
from supportset.store.files import open_folder
from supportset.store.format.index import SCHEMA, read_all, read_index
from tests.store.samples import clips, write


def test_columns_come_in_the_order_asked(tmp_path: Path) -> None:
    write(tmp_path, clips(3))
    folder = open_folder(tmp_path / "shards")
    ((index,), (rows,)) = read_all(folder)
    assert rows.schema.equals(SCHEMA)
    assert read_index(folder, index.shard, ["generation", "clip_id"]) == (index, rows.select(["generation", "clip_id"]))


@pytest.mark.parametrize("columns", [None, ["checksum"]])
def test_a_column_of_another_type_is_damage(tmp_path: Path, columns: list[str] | None) -> None:
    """A bit of the schema decides whether a checksum is signed; the hash of the rows is the same for both."""
    write(tmp_path, clips(3))
    (file,) = (tmp_path / "shards").glob("*.parquet")
    table = pq.read_table(file)
    at = table.column_names.index("checksum")
    signed = table["checksum"].combine_chunks().view(pa.int64())
    pq.write_table(table.set_column(at, "checksum", signed), file)
    with pytest.raises(SupportsetError, match="its column checksum is of type int64, not uint64") as caught:
        read_index(open_folder(tmp_path / "shards"), file.stem, columns)
    assert str(file) in str(caught.value)
