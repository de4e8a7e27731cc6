"""Relevance files: more right clips for a caption than its own. They change a score's name and stand beside it.

Three forms are read:

- **TREC qrels**: lines ``QUERY 0 CLIP GRADE``, separated by white space; a grade above 0 is right.
- **Parquet** with columns ``query_id`` (or ``qid``, ``query-id``), ``clip_id`` (or ``doc_id``, ``docid``,
  ``corpus-id``, ``video_id``), and ``relevance`` (or ``score``, ``grade``, ``label``); without it all pairs are right.
- **FIRe** as published (Rodriguez et al., arXiv 2210.05038): ``{"annotations": [{"query": text, "video_id": id,
  "label": "relevant" or "irrelevant", ...}]}``; queries are found by their text.

A query is a caption's id, its text, or, where each clip has one caption, its clip's id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from supportset.store.errors import UsageError

QUERY = ("query_id", "qid", "query-id", "caption_id", "query")
CLIP = ("clip_id", "doc_id", "docid", "corpus-id", "video_id")
GRADE = ("relevance", "score", "grade", "label")


@dataclass(frozen=True)
class Relevance:
    """Judged pairs of a file.

    Attributes
    ----------
    name : str
        Of the file, without its extension: it enters the name of the score.
    grades : mapping
        Query -> clip -> grade; 0 is judged and not right.
    """

    name: str
    grades: Mapping[str, Mapping[str, float]]


def read_relevance(path: str | Path) -> Relevance:
    """Read a relevance file by its form.

    Raises
    ------
    UsageError
        The file cannot be read, is in none of the forms, or judges one pair in two ways.
    """
    path = Path(path)
    try:
        rows = _rows(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error}); give a relevance file") from None
    grades: dict[str, dict[str, float]] = {}
    for query, clip, grade in rows:
        before = grades.setdefault(query, {}).setdefault(clip, grade)
        if before != grade:
            raise UsageError(
                f"{path}: query {query!r} and clip {clip!r} have grades {before:g} and {grade:g}; keep one"
            )
    if not grades:
        raise UsageError(f"{path}: has no judgements; expected TREC qrels, Parquet or FIRe's JSON")
    return Relevance(path.stem, grades)


def _rows(path: Path) -> list[tuple[str, str, float]]:
    if path.suffix.lower() in (".parquet", ".pq"):
        return _parquet(path)
    if path.suffix.lower() == ".json":
        return _fire(path)
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is no text; expected lines 'QUERY 0 CLIP GRADE', Parquet, or FIRe's JSON") from None
    for number, line in enumerate(lines, start=1):
        parts = line.split()
        if not parts:
            continue
        try:
            query, _, clip, grade = parts
            rows.append((query, clip, _grade(grade)))
        except ValueError:
            raise UsageError(f"{path}: line {number} is {line[:60]!r}, not 'QUERY 0 CLIP GRADE'") from None
    return rows


def _parquet(path: Path) -> list[tuple[str, str, float]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise UsageError(f"{path}: is no Parquet file ({str(error).splitlines()[0]})") from None
    names = [next((name for name in known if name in table.column_names), None) for known in (QUERY, CLIP, GRADE)]
    if names[0] is None or names[1] is None:
        raise UsageError(
            f"{path}: has columns {', '.join(table.column_names)}; needed are one of {', '.join(QUERY)} and one of "
            f"{', '.join(CLIP)}"
        )
    queries, clips = (table[name].to_pylist() for name in names[:2])
    grades = [1.0] * len(queries) if names[2] is None else table[names[2]].to_pylist()
    try:
        return [
            (str(query), str(clip), _grade(grade)) for query, clip, grade in zip(queries, clips, grades, strict=True)
        ]
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: column {names[2]!r} has a value that is no grade ({error})") from None


def _fire(path: Path) -> list[tuple[str, str, float]]:
    labels = {"relevant": 1.0, "irrelevant": 0.0}
    form = '{"annotations": [{"query", "video_id", "label": "relevant" or "irrelevant"}]}'
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return [(" ".join(row["query"].split()), row["video_id"], labels[row["label"]]) for row in tree["annotations"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not of FIRe's form {form}: {type(error).__name__} {error}") from None


def _grade(value: Any) -> float:
    grade = float(value)
    if not np.isfinite(grade):
        raise ValueError(f"{value!r} is not finite")
    return max(0.0, grade)
