"""What lies in a feature set's folder, read as docs/store-format.md says, with none of the store's own code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pyarrow.parquet as pq
import xxhash
import zarr

Bytes = tuple[bytes, bytes]  # of a clip's values, of its timestamps

_INDEX = re.compile(r"([0-9a-f]{16})\.parquet")
_SHARD = re.compile(r"([0-9a-f]{16})\.(zarr|h5|json)")


class Row(NamedTuple):
    """What makes a row this one and no other."""

    clip_id: str
    status: str
    generation: int
    message: str
    checksums: tuple[int, int] | None

    @property
    def rank(self) -> tuple[bool, int]:
        """Of several rows of a clip the one with the highest counts; the shard decides between equals."""
        return self.status == "ok", self.generation


def checksums(features: Bytes) -> tuple[int, int]:
    """As an index states them."""
    values, timestamps = (xxhash.xxh3_64_intdigest(part) for part in features)
    return values, timestamps


class OnDisk:
    """A feature set's folder at one moment.

    Parameters
    ----------
    path : the folder

    Attributes
    ----------
    indexes : metadata by shard
    replaced : shards that others stand for
    rows : of each shard that counts
    effective : for each clip, the row that counts
    shard_of : and its shard
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.indexes: dict[str, dict[str, Any]] = {}
        tables = {}
        for file in sorted((path / "shards").glob("*.parquet")):
            if match := _INDEX.fullmatch(file.name):
                stat = file.stat()
                self.indexes[match[1]], tables[match[1]] = _read_index(file, stat.st_mtime_ns, stat.st_size)
        self.replaced = {shard for index in self.indexes.values() for shard in index["replaces"]}
        self.rows = {shard: rows for shard, rows in tables.items() if shard not in self.replaced}
        self.effective: dict[str, Row] = {}
        self.shard_of: dict[str, str] = {}
        for shard, rows in self.rows.items():  # in the order of ids: of equal ranks the later wins
            for row in map(as_row, rows):
                if row.clip_id not in self.effective or row.rank >= self.effective[row.clip_id].rank:
                    self.effective[row.clip_id] = row
                    self.shard_of[row.clip_id] = shard

    def all_rows(self) -> set[Row]:
        """Those of all shards that count, whether they count themselves or not."""
        return {as_row(row) for rows in self.rows.values() for row in rows}

    def next_generation(self, clip_id: str) -> int:
        """Of a clip that is tried once more."""
        return max((row.generation + 1 for row in self.all_rows() if row.clip_id == clip_id), default=0)

    def files(self) -> dict[Path, str]:
        """Every file of every shard that counts, with its shard."""
        shards = self.path / "shards"
        return {shards / file["name"]: shard for shard in self.rows for file in self.indexes[shard]["files"]}

    def damaged_clips(self, shard: str, features: Mapping[tuple[int, int], Bytes]) -> set[str]:
        """Clips of a shard whose bytes are not those that were given to a writer."""
        stored = [self._array(shard, name) for name in ("values", "timestamps")]
        damaged = set()
        for row in self.rows[shard]:
            if row["offset"] is None:
                continue
            span = slice(row["offset"], row["offset"] + row["length"])
            wanted = features[row["checksum"], row["timestamps_checksum"]]
            if any(
                array is None or array[span].tobytes() != whole for array, whole in zip(stored, wanted, strict=True)
            ):
                damaged.add(row["clip_id"])
        return damaged

    def _array(self, shard: str, name: str) -> np.ndarray[Any, Any] | None:
        """As much of an array as can be read."""
        index = self.indexes[shard]
        if place := index["arrays"].get(name):
            file = self.path / "shards" / place["file"]
            content = file.read_bytes()[place["offset"] :] if file.exists() else b""
            kind = np.dtype(place["dtype"]).newbyteorder("<")
            step = kind.itemsize * place["shape"][1]
            rows = min(len(content) // step, place["shape"][0])
            return np.frombuffer(content, kind, rows * place["shape"][1]).reshape(rows, place["shape"][1])
        written = [self.path / "shards" / file["name"] for file in index["files"] if f"/{name}/" in file["name"]]
        if not all(file.exists() and file.stat().st_size for file in written):
            return None  # zarr reads zeros there, which may be what was written
        try:
            if index["shard_format"] == "zarr":
                return np.asarray(zarr.open_array(self.path / "shards" / f"{shard}.zarr" / name, mode="r")[:])
            with h5py.File(self.path / "shards" / f"{shard}.h5", "r") as file:
                return np.asarray(file[name][:])
        except Exception:
            return None

    def orphan(self) -> set[tuple[str, str]]:
        """Kind and path of what is no part of the set, and of shards that count no more."""
        shards = self.path / "shards"
        found = {("replaced", str(shards / f"{shard}.parquet")) for shard in self.replaced & self.indexes.keys()}
        for file in [*self.path.iterdir(), *(shards.iterdir() if shards.is_dir() else ())]:
            match = _SHARD.fullmatch(file.name)
            if file.name.startswith(".tmp-"):
                found.add(("temporary", str(file)))
            elif match and match[1] not in self.indexes:
                found.add(("orphan", str(file)))
        return found


@lru_cache(maxsize=256)
def _read_index(file: Path, changed: int, size: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An index, read again only where it has changed: it is looked at many times."""
    table = pq.read_table(file, use_threads=False)
    return json.loads(table.schema.metadata[b"supportset"]), table.to_pylist()


def as_row(row: Mapping[str, Any]) -> Row:
    """A row of an index, as pyarrow gives it."""
    both = None if row["checksum"] is None else (row["checksum"], row["timestamps_checksum"])
    return Row(row["clip_id"], row["status"], row["generation"], row["message"], both)
