"""The captions file of a user's own folder: CSV, JSON lines or Parquet, one row a caption."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from datetime import time as dt_time
from pathlib import Path
from reprlib import repr as brief  # a value may have megabytes
from typing import Any

from supportset.extract.readers.parse import read_csv, read_lines
from supportset.store.errors import UsageError

# Accepted names of each column, in any case. The first that the file has is read, in all rows.
COLUMNS = {
    "file": ("path", "video", "file", "clip_id"),
    "text": ("caption", "text"),
    "start": ("start", "start_s"),
    "end": ("end", "end_s"),
    "split": ("split",),
}
FORM = "columns path (or video, file, clip_id) and caption (or text), optionally start, end (seconds), split, others"
MOST_ROWS = 20_000_000  # of Parquet, where a small file can hold any number
MOST_CHARACTERS = 131_072  # of a caption or a name: what CSV allows


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a caption (None: no text) of a file, or of its seconds ``start_s`` to ``end_s``."""

    place: str  # "line 7", for messages
    file: str
    text: str | None
    start_s: float | None
    end_s: float | None
    split: str | None
    others: tuple[tuple[str, str], ...] = ()  # values of further columns, by name


@dataclass
class CaptionsFile:
    """Usable rows, and the ``faults`` (``line 7: …``) of the others.

    The columns that are read, ``further`` ones that are kept for filters, and the ``unused``: without a name, of a name
    that occurs twice, or a second name for what is read.
    """

    rows: list[Row] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    further: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


class _FaultError(Exception):
    """The fault of one row."""


def read_captions(path: Path) -> CaptionsFile:
    """Read a captions file by its extension: ``.csv`` (with a header line), ``.jsonl`` or ``.parquet``.

    Raises
    ------
    UsageError
        If it cannot be read as its extension says, has no column for the file or the caption, or has one of these
        columns twice (names are compared without case).
    """
    result = CaptionsFile()
    records: list[tuple[str, dict[str, Any] | str]] = []
    seen: set[str] = set()
    twice: set[str] = set()
    for place, names, values in _RECORDS[path.suffix.lower()](path):
        names = [name.strip().lower() for name in names]
        repeated = next((name for name in _KNOWN if names.count(name) > 1), None)
        if repeated is not None:
            raise UsageError(f"{path}: {place}: column {repeated!r} occurs twice, compared without case: keep one")
        seen.update(names)
        twice.update(name for name, count in Counter(names).items() if count > 1)
        if isinstance(values, str):
            records.append((place, values))
        elif values is not None:
            records.append((place, dict(zip(names, values, strict=True))))
    found = {kind: [name for name in names if name in seen] for kind, names in COLUMNS.items()}
    columns = {kind: names[0] for kind, names in found.items() if names}
    result.used = list(columns.values())
    result.further = sorted(seen - twice - {*_KNOWN, ""})
    result.unused = sorted(seen - {*result.used, *result.further})
    for kind in ("file", "text"):
        if seen and kind not in columns:
            wanted = ", ".join(COLUMNS[kind])
            raise UsageError(f"{path}: no column {wanted}; expected {FORM} (found: {', '.join(sorted(seen))})")
    for place, record in records:
        try:
            if isinstance(record, str):
                raise _FaultError(record)
            cells = {kind: record[name] for kind, name in columns.items() if not _is_empty(record.get(name))}
            others = [(name, _told(record[name])) for name in result.further if not _is_empty(record.get(name))]
            result.rows.append(replace(_row(place, cells), others=tuple(others)))
        except _FaultError as fault:
            result.faults.append(f"{place}: {fault}")
    return result


def _is_empty(value: Any) -> bool:
    """Whether there is no value; numeric tables write it as NaN."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def _told(value: Any) -> str:
    """A value as text: dates as ISO 8601, lists and objects as JSON."""
    if isinstance(value, str):
        text = value.strip()
    elif isinstance(value, date | dt_time):
        text = value.isoformat()
    else:
        try:
            text = json.dumps(value, ensure_ascii=False, default=str)
        except (RecursionError, ValueError):
            raise _FaultError("holds a value that is nested too deeply") from None
    if len(text) > MOST_CHARACTERS:
        raise _FaultError(f"a value has {len(text):,} characters, more than {MOST_CHARACTERS:,}")
    return text.encode("utf-8", "replace").decode()


def _row(place: str, record: dict[str, Any]) -> Row:
    file = _text(record, "file")
    if file is None:
        raise _FaultError("names no file")
    start, end = _seconds(record, "start"), _seconds(record, "end")
    if start is not None and end is None:
        raise _FaultError("has a start and no end")
    if end is not None:
        start = start or 0.0
        if end <= start:
            raise _FaultError(f"ends at {end:g} s, not after its start at {start:g} s")
    split = _text(record, "split")
    return Row(place, file, _text(record, "text"), start, end, split.strip() if split else None)


def _text(record: dict[str, Any], kind: str) -> str | None:
    value = record.get(kind)
    if isinstance(value, str) and len(value) > MOST_CHARACTERS:
        raise _FaultError(f"{kind} has {len(value):,} characters, more than {MOST_CHARACTERS:,}")
    if value is None or isinstance(value, str):
        return value
    if kind != "text" and type(value) is int:  # a file called 7.mp4, named as a number
        return str(value)
    raise _FaultError(f"{kind} is {brief(value)}, not text")


def _seconds(record: dict[str, Any], kind: str) -> float | None:
    value = record.get(kind)
    if value is None:
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise _FaultError(f"{kind} is {brief(value)}, not a number of seconds")
    return seconds


# Place of a row, the names of its columns, and its values; a message where it has none, None for a header.
_Record = tuple[str, Sequence[str], Sequence[Any] | str | None]


def _csv_records(path: Path) -> Iterator[_Record]:
    rows = read_csv(path)
    header = next(rows, None)
    if header is None:
        raise UsageError(f"{path}: is empty; expected {FORM}")
    yield f"line {header[0]}", header[1], None
    for line, fields in rows:
        if len(fields) == len(header[1]):
            yield f"line {line}", header[1], fields
        else:
            hint = "; quote captions that hold commas" if len(fields) > len(header[1]) else ""
            yield f"line {line}", (), f"{len(fields)} fields, the header has {len(header[1])}{hint}"


def _jsonl_records(path: Path) -> Iterator[_Record]:
    for line, text in read_lines(path):
        try:
            record = json.loads(text, object_pairs_hook=_Pairs)
        except ValueError as error:
            reason = getattr(error, "msg", error)
            raise UsageError(f"{path}: line {line}: not valid JSON ({reason}); expected one object a line") from None
        except RecursionError:
            raise UsageError(f"{path}: line {line}: nested too deeply; expected one object a line") from None
        if isinstance(record, _Pairs):
            yield f"line {line}", [name for name, _ in record], [value for _, value in record]
        else:
            yield f"line {line}", (), "is no JSON object"


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its repeated keys."""


def _parquet_records(path: Path) -> Iterator[_Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names, number = file.schema_arrow.names, 0
            if file.metadata.num_rows > MOST_ROWS:
                raise UsageError(f"{path}: holds {file.metadata.num_rows:,} rows, more than {MOST_ROWS:,}: not read")
            yield "the schema", names, None
            for batch in file.iter_batches():
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield f"row {number}", names, values
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: not readable as Parquet ({reason})") from None


_KNOWN = [name for names in COLUMNS.values() for name in names]
_RECORDS = {".csv": _csv_records, ".jsonl": _jsonl_records, ".parquet": _parquet_records}
