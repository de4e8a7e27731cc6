"""A library's parts as a table of LanceDB, in a local folder or an object store: written, and brought up to date.

One row a part. Clips that are new, changed or gone since the last export are written, written anew or deleted; a clip's
parts are written together, so a table that was left in the middle lacks clips and never has half of one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from supportset.search.kept.embeddings import key_of
from supportset.search.parts import Parts, part_blocks
from supportset.store.errors import SupportsetError, UsageError

if TYPE_CHECKING:
    from lancedb.table import Table

    from supportset.search.retriever import Clips, Retriever

_ROWS = 1 << 16  # written at once
_DELETED = 500  # clips named in one condition
_VERSION = b"1"


@dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes
    ----------
    table : str
        Its name.
    clips, parts : int
        In the table now.
    added, removed : int
        Clips; a changed one counts as both.
    """

    table: str
    clips: int
    parts: int
    added: int
    removed: int


class LanceTable:
    """The table of one library and one model in a database of LanceDB.

    Parameters
    ----------
    retriever : Retriever
    clips : Clips
    url : str
        A local folder, or a URL such as ``s3://bucket/index``. Credentials are those of the environment.

    Attributes
    ----------
    name : str
        Of the dataset, and of model and recipes: each model has its table.

    Raises
    ------
    UsageError
        LanceDB is not installed; no URL.
    """

    def __init__(self, retriever: Retriever, clips: Clips, url: str) -> None:
        if not url:
            raise UsageError(
                "--index lancedb needs a folder or a URL: write lancedb:FOLDER or lancedb:s3://BUCKET/NAME"
            )
        try:
            import lancedb
        except ImportError:
            raise UsageError("--index lancedb needs LanceDB: pip install 'supportset[lancedb]'") from None
        self._retriever, self._clips, self.url = retriever, clips, url
        self._key = key_of(retriever, clips.features)
        dataset = re.sub(r"[^A-Za-z0-9_.-]", "_", clips.dataset.name)
        self.name = f"{dataset}-{self._key.rpartition(':')[2][:16]}"
        place = url if "://" in url else Path(url).absolute()
        with told("open", url):
            self._database = lancedb.connect(place, storage_options=_storage_options(url))

    def open(self) -> Table | None:
        """Open the table; None where it is not there."""
        with told("list the tables of", self.url):
            if self.name not in _names(self._database):
                return None
            table = self._database.open_table(self.name)
        found = (table.schema.metadata or {}).get(b"supportset")
        if found != _VERSION:
            raise SupportsetError(f"{self.url}: table {self.name} is of another version: delete it, and export again")
        return table

    def contents(self, table: Table) -> dict[str, set[tuple[bytes, str | None]]]:
        """Content and file of each clip of the table; two where a clip was written twice at the same time."""
        with told("read", self.url):
            rows = table.search().where("part = 0").select(["clip_id", "content", "path"]).to_arrow().to_pydict()
        found: dict[str, set[tuple[bytes, str | None]]] = {}
        for clip, content, path in zip(rows["clip_id"], rows["content"], rows["path"], strict=True):
            found.setdefault(clip, set()).add((content, path))
        return found

    def wanted(self) -> dict[str, tuple[bytes, str | None]]:
        """Content and file of each clip of the library."""
        pairs = zip(self._clips.features.clip_ids, self._clips.content, strict=True)
        return {clip: (row.tobytes(), self._clips.files[clip][0]) for clip, row in pairs}

    def export(self) -> Exported:
        """Bring the table up to date; make it where it is not there.

        Raises
        ------
        SupportsetError
            The place cannot be read or written; features that do not match their checksums.
        """
        table, wanted = self.open(), self.wanted()
        there = self.contents(table) if table is not None else {}
        gone = [clip for clip, known in there.items() if known != {wanted.get(clip)}]
        missing = [clip for clip in wanted if there.get(clip) != {wanted[clip]}]
        if table is not None:
            for start in range(0, len(gone), _DELETED):
                with told("write", self.url):
                    table.delete(naming(gone[start : start + _DELETED]))
        for batch in self._batches(missing):
            with told("write", self.url):
                if table is None:
                    table = self._database.create_table(self.name, batch, on_bad_vectors="null")
                else:
                    table.add(batch, on_bad_vectors="null")
        if table is not None and (gone or missing):
            with told("write", self.url):
                table.optimize()  # joins the files of many small exports
        with told("read", self.url):
            parts = table.count_rows() if table is not None else 0
        return Exported(self.name, len(wanted), parts, len(missing), len(gone))

    def _batches(self, clip_ids: Sequence[str]) -> Iterator[pa.Table]:
        number_of = {clip: number for number, clip in enumerate(self._clips.features.clip_ids)}
        numbers = np.asarray([number_of[clip] for clip in clip_ids], np.int64)
        waiting: list[pa.Table] = []
        for block, parts in part_blocks(self._retriever, self._clips.features, numbers):
            waiting.append(self._rows(block, parts))
            if sum(map(len, waiting)) >= _ROWS:
                yield pa.concat_tables(waiting)
                waiting = []
        if waiting:
            yield pa.concat_tables(waiting)

    def _rows(self, numbers: Any, parts: Parts) -> pa.Table:
        files, content = self._clips.files, self._clips.content
        ids = [self._clips.features.clip_ids[number] for number in numbers]
        counts = np.diff(parts.offsets)
        starts = np.repeat([files[clip][1] for clip in ids], counts)
        broken = np.asarray(~np.isfinite(parts.vectors).all(axis=1))
        dim, width = parts.vectors.shape[1], 8 * content.shape[1]
        vectors = np.where(broken[:, None], 0, parts.vectors).astype(np.float32)
        columns = {
            "dataset": pa.array([self._clips.dataset.name] * len(broken), pa.string()),
            "clip_id": pa.array(np.repeat(np.asarray(ids, object), counts), pa.string()),
            "part": pa.array(np.arange(len(broken)) - np.repeat(parts.offsets[:-1], counts), pa.int32()),
            "path": pa.array(np.repeat(np.asarray([files[clip][0] for clip in ids], object), counts), pa.string()),
            "start_s": pa.array(starts + parts.spans[:, 0], pa.float64()),
            "end_s": pa.array(starts + parts.spans[:, 1], pa.float64()),
            "vector": pa.FixedSizeListArray.from_arrays(vectors.ravel(), dim, mask=pa.array(broken)),
            "content": pa.array(
                np.repeat(np.asarray([content[number].tobytes() for number in numbers], object), counts),
                pa.binary(width),
            ),
            "key": pa.array([self._key] * len(broken), pa.string()),
        }
        return pa.table(columns).replace_schema_metadata({b"supportset": _VERSION})


def naming(clip_ids: Sequence[str]) -> str:
    """The condition, in SQL, that a row is of one of some clips."""
    quoted = ", ".join("'" + clip.replace("'", "''") + "'" for clip in clip_ids)
    return f"clip_id IN ({quoted})"


class told:  # noqa: N801 - reads as the words of a sentence
    """Turn an error of LanceDB into one line: which of its many kinds it raises is not documented."""

    def __init__(self, doing: str, url: str) -> None:
        self._doing, self._url = doing, url

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Raise a SupportsetError in the place of another error."""
        if error is not None and isinstance(error, Exception) and not isinstance(error, SupportsetError):
            line = " ".join(str(error).split())
            raise SupportsetError(f"{self._url}: LanceDB cannot {self._doing} it: {line[:300]}") from None


def _names(database: Any) -> set[str]:
    names: set[str] = set()
    token = None
    while True:
        page = database.list_tables(page_token=token)
        names.update(page.tables)
        token = page.page_token
        if not token:
            return names


def _storage_options(url: str) -> dict[str, str] | None:
    """What LanceDB does not read from the environment itself: the server in the variable of s3fs and the AWS tools."""
    server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not server or not url.startswith("s3://"):
        return None
    return {"aws_endpoint": server, "allow_http": str(server.startswith("http://")).lower()}
