"""Reading annotation files: a malformed file becomes one line with its name and the place of the fault."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supportset.store.errors import UsageError


def read_text(path: Path) -> str:
    """Read a file as UTF-8 text, with or without a byte order mark; all line ends become ``\\n``.

    Raises
    ------
    UsageError
        If the file cannot be read or is not UTF-8.
    """
    return _decoded(path).replace("\r\n", "\n").replace("\r", "\n")


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None


def read_json(path: Path, kind: type[dict[str, Any]] | type[list[Any]], form: str) -> Any:
    """Parse a JSON file whose outermost value has the type ``kind``; errors say that ``form`` was expected."""
    try:
        tree = json.loads(read_text(path), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"{path}: {place}: not valid JSON ({error.msg}); expected {form}") from None
    except ValueError as error:  # a repeated key, or a number of thousands of digits
        raise UsageError(f"{path}: not valid JSON ({error}); expected {form}") from None
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply for an annotation; expected {form}") from None
    if not isinstance(tree, kind):
        raise UsageError(f"{path}: holds a JSON {_NAMES.get(type(tree), 'value')}; expected {form}")
    return tree


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a repeated key Python would silently keep the last value."""
    record = dict(pairs)
    if len(record) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {key!r} occurs twice in one object")
    return record


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines that are not blank, stripped, with their numbers from 1."""
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_ids(path: Path) -> list[str]:
    """Read a list of ids, one a line."""
    return [line for _, line in read_lines(path)]


def read_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a comma-separated file with the number of their first line; blank lines are skipped.

    Quoted fields may hold commas, quotes (doubled) and line ends.
    """
    # Not read_text: line ends inside quoted fields are kept.
    rows = csv.reader(io.StringIO(_decoded(path), newline=""), strict=True)
    start = 1
    try:
        for row in rows:
            if row:
                yield start, row
            start = rows.line_num + 1
    except csv.Error as error:
        raise UsageError(f"{path}: line {start}: not valid CSV ({error})") from None


def read_columns(path: Path, *columns: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the named columns of a CSV file with a header line, in the order of ``columns``, with line numbers.

    Raises
    ------
    UsageError
        If the file is empty, lacks a column, or a line has too few fields.
    """
    rows = read_csv(path)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    absent = [name for name in columns if name not in header]
    if repeated := [name for name in columns if header.count(name) > 1]:
        raise UsageError(f"{path}: line 1: column {repeated[0]!r} occurs twice: keep one")
    if absent:
        found = ", ".join(header) or "none, the file is empty"
        raise UsageError(f"{path}: line 1: no column {absent[0]!r}; expected {', '.join(columns)} (found: {found})")
    places = [header.index(name) for name in columns]
    for line, row in rows:
        if len(row) <= max(places):
            raise UsageError(f"{path}: line {line}: {len(row)} fields, the header has {len(header)}")
        yield line, tuple(row[place] for place in places)


def entry(path: Path, where: str, record: Any, key: str, kind: type | tuple[type, ...]) -> Any:
    """Return ``record[key]``, which must have the type ``kind``; ``where`` names the record in the error.

    Raises
    ------
    UsageError
        If ``record`` is no object, has no such key, or its value has another type.
    """
    if not isinstance(record, dict):
        raise UsageError(f"{path}: {where} is a JSON {_NAMES.get(type(record), 'value')}, expected an object")
    if key not in record:
        raise UsageError(f"{path}: {where} has no key {key!r} (found: {', '.join(map(str, record)) or 'none'})")
    value = record[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = " or ".join(_NAMES.get(one, one.__name__) for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise UsageError(f"{path}: {where}: {key!r} is a JSON {_NAMES.get(type(value), 'value')}, expected a {wanted}")
    return value


def strings(path: Path, where: str, values: list[Any]) -> list[str]:
    """Return ``values``, which must all be strings."""
    for index, value in enumerate(values):
        if not isinstance(value, str):
            kind = _NAMES.get(type(value), "value")
            raise UsageError(f"{path}: {where}[{index}] is a JSON {kind}, expected a string")
    return values


_NAMES: dict[type, str] = {
    dict: "object",
    list: "list",
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    type(None): "null",
}
