"""Columns, checks and Parquet form of a dataset's tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from supportset.store.errors import SupportsetError
from supportset.store.files import Folder
from supportset.store.format.parquet import open_parquet
from supportset.store.format.row_hash import hash_rows

CONTENT = b"supportset_content"  # key in a Parquet file's metadata: the hash of its rows

CLIPS = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("path", pa.string()),  # relative to the videos' root; null: not found
        pa.field("start_s", pa.float64()),  # null, null: all of the file
        pa.field("end_s", pa.float64()),
        pa.field("source", pa.string()),  # the video the clip was cut from, for grouping; null: itself
    ]
)
CAPTIONS = pa.schema(
    [
        pa.field("caption_id", pa.string(), nullable=False),
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("protocol", pa.string()),  # null: official; else only for protocols that begin so
    ]
)
SPLITS = pa.schema(
    [
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("caption_id", pa.string()),  # null: all official captions of the clip
    ]
)
ATTRIBUTES = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
    ]
)
TABLES = {"clips": CLIPS, "captions": CAPTIONS, "splits": SPLITS}
OPTIONAL = {"attributes": ATTRIBUTES}  # written where it has rows
ALL_TABLES = TABLES | OPTIONAL

Rows: TypeAlias = Any  # a pyarrow.Table, or an iterable of dicts or of dataclasses


def as_table(key: str, rows: Rows) -> pa.Table:
    schema = ALL_TABLES[key]
    try:
        if not isinstance(rows, pa.Table):
            rows = [_as_dict(row) for row in rows]
            unknown = {column for row in rows for column in row} - set(schema.names)
            table = pa.Table.from_pylist(rows, schema)
        else:
            unknown = set(rows.column_names) - set(schema.names)
            absent = [f.name for f in schema if f.name not in rows.column_names]
            for column in absent:
                rows = rows.append_column(column, pa.nulls(len(rows), schema.field(column).type))
            table = rows.select(schema.names).cast(schema).replace_schema_metadata(None)
    except (pa.ArrowException, TypeError, ValueError, KeyError) as error:
        raise SupportsetError(f"table {key!r}: rows do not fit its columns: {error}") from None
    if unknown:
        raise SupportsetError(f"table {key!r}: unknown columns {', '.join(sorted(unknown))}; it has {schema.names}")
    for column in schema:
        if not column.nullable and table[column.name].null_count:
            raise SupportsetError(f"table {key!r}: {column.name} is absent in {table[column.name].null_count} rows")
    return table.combine_chunks()


def _as_dict(row: Any) -> dict[str, Any]:
    return {f.name: getattr(row, f.name) for f in fields(row)} if is_dataclass(row) else dict(row)


def with_all_splits(
    protocols: Mapping[str, Mapping[str, int | None]], splits: pa.Table
) -> dict[str, dict[str, int | None]]:
    sizes = {protocol: dict(of_splits) for protocol, of_splits in protocols.items()}
    for pair in (
        splits.select(["protocol", "split"])
        .group_by(["protocol", "split"], use_threads=False)
        .aggregate([])
        .to_pylist()
    ):
        sizes.setdefault(pair["protocol"], {}).setdefault(pair["split"], None)
    return sizes


def validate(name: str, tables: Mapping[str, pa.Table]) -> None:
    clips, captions, splits = (tables[key] for key in TABLES)

    def refuse(problem: str, examples: list[Any]) -> None:
        if examples:
            more = f" and {len(examples) - 1} more" if len(examples) > 1 else ""
            raise SupportsetError(f"dataset {name!r}: {problem}: {examples[0]!r}{more}; correct the annotation")

    clip_ids = clips["clip_id"].to_pylist()
    known = set(clip_ids)
    refuse("clip id is repeated", _repeated(clip_ids))
    caption_ids = captions["caption_id"].to_pylist()
    refuse("caption id is repeated", _repeated(caption_ids))
    refuse(
        "caption of a clip that is not in the table of clips",
        [clip for clip in captions["clip_id"].to_pylist() if clip not in known],
    )
    refuse(
        "split holds a clip that is not in the table of clips",
        [clip for clip in splits["clip_id"].to_pylist() if clip not in known],
    )
    if "attributes" in tables:
        attributes = tables["attributes"]["clip_id"].to_pylist()
        refuse(
            "attribute of a clip that is not in the table of clips", [each for each in attributes if each not in known]
        )
    about = dict(
        zip(
            caption_ids,
            zip(captions["clip_id"].to_pylist(), captions["protocol"].to_pylist(), strict=True),
            strict=True,
        )
    )
    columns = [splits[column].to_pylist() for column in ("protocol", "clip_id", "caption_id")]
    named = [row for row in zip(*columns, strict=True) if row[2] is not None]
    refuse(
        "split names a caption that is not in the table of captions", [row[2] for row in named if row[2] not in about]
    )
    refuse("split names a caption of another clip", [row[2] for row in named if about[row[2]][0] != row[1]])
    refuse(
        "split names a caption that belongs to another protocol",
        [row[2] for row in named if not row[0].startswith(about[row[2]][1] or "")],
    )


def _repeated(values: list[str]) -> list[str]:
    seen: set[str] = set()
    return [value for value in values if value in seen or seen.add(value)]  # type: ignore[func-returns-value]


def to_parquet(table: pa.Table, content: str) -> memoryview:
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({CONTENT: content.encode("ascii")}), sink)
    return memoryview(sink.getvalue())


def read_table(folder: Folder, name: str, key: str, content: str) -> pa.Table | None:
    """Read a table's file if it is there and states this content hash, else None.

    Raises
    ------
    SupportsetError
        It states the hash, but holds something else.
    """
    data = folder.read(name)
    try:
        if data is None or (open_parquet(data).schema_arrow.metadata or {}).get(CONTENT) != content.encode():
            return None
    except (pa.ArrowException, OSError, ValueError):
        return None
    try:
        table = open_parquet(data).read(use_threads=False)
        table = table.select(ALL_TABLES[key].names).replace_schema_metadata(None)
        reason = "" if hash_rows(table) == content else "its rows are not those it was written with"
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
    if reason:
        raise SupportsetError(f"{folder}/{name}: damaged table ({reason}): run `extract` again to write it anew")
    return table
