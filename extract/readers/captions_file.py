"""The captions file of a user's own folder: CSV, JSON lines or Parquet, one row a caption."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supportset.extract.readers.parse import read_csv, read_lines
from supportset.store.errors import UsageError

# Accepted names of each column, any case; the first that the file has is read.
COLUMNS = {
    "file": ("path", "video", "file", "clip_id"),
    "text": ("caption", "text"),
    "start": ("start", "start_s"),
    "end": ("end", "end_s"),
    "split": ("split",),
}
FORM = "columns path (or video, file, clip_id) and caption (or text), optionally start, end (seconds) and split"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a caption (None: no text) of a file, or of its seconds ``start_s`` to ``end_s``."""

    place: str  # "line 7", for messages
    file: str
    text: str | None
    start_s: float | None
    end_s: float | None
    split: str | None


@dataclass
class CaptionsFile:
    """Usable rows, the ``faults`` (``line 7: …``) of the others, and ``unused`` columns."""

    rows: list[Row] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


class _FaultError(Exception):
    """The fault of one row."""


def read_captions(path: Path) -> CaptionsFile:
    """Read a captions file by its extension: ``.csv`` (with a header line), ``.jsonl`` or ``.parquet``.

    Raises
    ------
    UsageError
        If it cannot be read as its extension says, or has no column for the file or the caption.
    """
    result = CaptionsFile()
    seen: set[str] = set()
    for place, record in _RECORDS[path.suffix.lower()](path):
        if isinstance(record, str):
            result.faults.append(f"{place}: {record}")
            continue
        columns = {str(key).strip().lower(): value for key, value in record.items()}
        seen.update(columns)
        try:
            result.rows.append(_row(place, {name: value for name, value in columns.items() if not _is_empty(value)}))
        except _FaultError as fault:
            result.faults.append(f"{place}: {fault}")
    known = {name for names in COLUMNS.values() for name in names}
    result.unused = sorted(seen - known)
    for kind in ("file", "text"):
        if seen and not seen & set(COLUMNS[kind]):
            wanted = ", ".join(COLUMNS[kind])
            raise UsageError(f"{path}: no column {wanted}; expected {FORM} (found: {', '.join(sorted(seen))})")
    return result


def _is_empty(value: Any) -> bool:
    """Whether there is no value; numeric tables write it as NaN."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


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


def _value(record: dict[str, Any], kind: str) -> Any:
    return next((record[name] for name in COLUMNS[kind] if name in record), None)


def _text(record: dict[str, Any], kind: str) -> str | None:
    value = _value(record, kind)
    if value is None or isinstance(value, str):
        return value
    if kind != "text" and type(value) is int:  # a file called 7.mp4, named as a number
        return str(value)
    raise _FaultError(f"{kind} is {value!r}, not text")


def _seconds(record: dict[str, Any], kind: str) -> float | None:
    value = _value(record, kind)
    if value is None:
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise _FaultError(f"{kind} is {value!r}, not a number of seconds")
    return seconds


def _csv_records(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    rows = read_csv(path)
    header = next(rows, None)
    if header is None:
        raise UsageError(f"{path}: is empty; expected {FORM}")
    names = header[1]
    for line, fields in rows:
        place = f"line {line}"
        if len(fields) != len(names):
            hint = "; quote captions that hold commas" if len(fields) > len(names) else ""
            yield place, f"{len(fields)} fields, the header has {len(names)}{hint}"
        else:
            yield place, dict(zip(names, fields, strict=True))


def _jsonl_records(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    for line, text in read_lines(path):
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}: line {line}: not valid JSON ({error.msg}); expected one object a line") from None
        yield f"line {line}", record if isinstance(record, dict) else "is no JSON object"


def _parquet_records(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: not readable as Parquet ({reason})") from None
    for number, record in enumerate(table.to_pylist(), start=1):
        yield f"row {number}", record


_RECORDS = {".csv": _csv_records, ".jsonl": _jsonl_records, ".parquet": _parquet_records}
