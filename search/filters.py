"""Filters of a search: conditions on the columns of a dataset's tables, and on what is known of each clip.

A condition is ``COLUMN OPERATOR VALUE``, with ``= != < <= > >=`` or ``~`` (contains, in any case): ``duration < 10``.
The columns are those of the tables of clips and captions, the further columns of a captions file, and ``split``,
``folder``, ``name``, ``date`` and ``duration``, where no column of the file has this name. A clip fits a condition if
one of its values does, as with several captions; ``!=`` if none is equal. A clip without a value fits ``!=`` only.
Dates are compared as far as they are given: ``date = 2024-05`` is that month.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from supportset.store.errors import UsageError
from supportset.store.format.dataset import Dataset
from supportset.store.read.aligned import AlignedFeatures

Type = Literal["text", "number", "date"]
FEW = 50  # distinct values that a page offers

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "!=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "~": lambda values, value: np.asarray([value in each for each in values], bool),
}  # fmt: skip
_CONDITION = re.compile(r"\s*([^=!<>~]*[^=!<>~\s])\s*(!=|<=|>=|==|=|<|>|~)\s*(.*?)\s*", re.DOTALL)
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?)?)?")
_EXACT = 2.0**53  # larger whole numbers, such as ids of 19 digits, would equal their neighbours: they are texts
_DERIVED = ("split", "folder", "name", "date", "duration")


@dataclass(frozen=True)
class Condition:
    """One condition: the name of a column, an operator, and a value as it is written."""

    column: str
    operator: str
    value: str

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {self.value}"


@dataclass(frozen=True)
class Filter:
    """Conditions that all must hold; `parse_filter` reads them."""

    conditions: tuple[Condition, ...] = ()

    def __str__(self) -> str:
        return " and ".join(map(str, self.conditions))


@dataclass(frozen=True)
class Column:
    """A column that can be filtered by.

    Attributes
    ----------
    name : str
    type : {"text", "number", "date"}
        Text, if not all values are numbers, or all are dates.
    values : tuple of str, optional
        Its distinct values, sorted, if there are no more than 50.
    """

    name: str
    type: Type
    values: tuple[str, ...] | None

    def to_json(self) -> dict[str, Any]:
        """The column as a JSON object."""
        return asdict(self)


def parse_filter(conditions: Sequence[str]) -> Filter:
    """Read conditions as they are written.

    Raises
    ------
    UsageError
        One that is none.

    Examples
    --------
    >>> parse_filter(["duration < 10", "name ~ beach"]).conditions[0]
    Condition(column='duration', operator='<', value='10')
    """
    found = []
    for text in conditions:
        match = _CONDITION.fullmatch(text)
        if match is None or not match[3]:
            raise UsageError(
                f"filter {text!r}: write COLUMN OPERATOR VALUE with = != < <= > >= or ~, as 'duration < 10'"
            )
        value = match[3]
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found.append(Condition(match[1], match[2].replace("==", "="), value))
    return Filter(tuple(found))


@dataclass(frozen=True)
class _Values:
    """All values of a column: of which clip each is, and what it is."""

    clips: NDArray[np.int64]
    values: NDArray[Any]
    type: Type


class ClipColumns:
    """What is known of the clips of a feature set, by column.

    Parameters
    ----------
    dataset : Dataset
        The tables.
    features : AlignedFeatures
        The clips, in their order.
    paths : sequence of str or None
        File of each clip, relative to the folder of videos.
    protocol : str, optional
        Whose splits ``split`` means; default: those of any.
    """

    def __init__(
        self, dataset: Dataset, features: AlignedFeatures, paths: Sequence[str | None], protocol: str | None = None
    ) -> None:
        self._dataset, self._features, self._protocol = dataset, features, protocol
        self._paths = [None if path is None else PurePosixPath(path) for path in paths]
        self._number = {clip: number for number, clip in enumerate(features.clip_ids)}
        self._read: dict[str, _Values] = {}
        self._further = sorted(set(dataset.attributes["name"].to_pylist()))
        tables = (dataset.captions, dataset.clips)
        ours = [*_DERIVED, *(name for table in tables for name in table.column_names)]
        self.names = list(dict.fromkeys([*self._further, *ours]))

    def describe(self) -> list[Column]:
        """List the columns that have values, with their types and, where few, their values."""
        return self._described

    @cached_property
    def _described(self) -> list[Column]:
        found = []
        for name in self.names:
            column = self._column(name)
            distinct = sorted(set(column.values.tolist()))
            if distinct:
                words = tuple(str(value).removesuffix(".0") for value in distinct[: FEW + 1])
                found.append(Column(name, column.type, words if len(words) <= FEW else None))
        return found

    def mask(self, where: Filter) -> NDArray[np.bool_]:
        """Which clips fit a filter, (N,) bool.

        Raises
        ------
        UsageError
            An unknown column; a value that is no number or date where the column's are.
        """
        fits = np.ones(len(self._features), bool)
        for condition in where.conditions:
            fits &= self._fits(condition)
        return fits

    def _fits(self, condition: Condition) -> NDArray[np.bool_]:
        name = condition.column if condition.column in self.names else condition.column.lower()
        if name not in self.names:
            raise UsageError(f"filter '{condition}': no column {condition.column!r}; there are {', '.join(self.names)}")
        column = self._column(name)
        values, value = column.values, _read_value(condition, column.type)
        if condition.operator == "~":
            values, value = np.asarray([str(each).lower() for each in values], object), condition.value.lower()
        elif column.type == "date":
            values = np.asarray([each[: len(value)] for each in values], object)
        fits = np.zeros(len(self._features), bool)
        if len(values):
            fits[column.clips[np.asarray(_OPERATORS[condition.operator](values, value), bool)]] = True
        return ~fits if condition.operator == "!=" else fits

    def _column(self, name: str) -> _Values:
        if name not in self._read:
            pairs = [(clip, value) for clip, value in self._pairs(name) if clip is not None and value is not None]
            self._read[name] = _typed(pairs)
        return self._read[name]

    def _pairs(self, name: str) -> list[tuple[int | None, Any]]:
        """Numbers of clips, and values; None for a clip without features or without a value."""
        if name in self._further:
            rows = self._dataset.attributes.to_pylist()
            return [(self._number.get(row["clip_id"]), row["value"]) for row in rows if row["name"] == name]
        if name == "folder":
            return [(clip, path and path.parent.as_posix()) for clip, path in enumerate(self._paths)]
        if name == "name":
            return [(clip, path and path.name) for clip, path in enumerate(self._paths)]
        if name == "duration":
            return list(enumerate(self._durations()))
        if name == "date":
            return list(enumerate(self._dates()))
        if name == "split":
            rows = self._dataset.splits.select(["protocol", "clip_id", "split"]).to_pylist()
            rows = [row for row in rows if self._protocol in (None, row["protocol"])]
            pairs = [(self._number.get(row["clip_id"]), row["split"]) for row in rows]
            return list(dict.fromkeys(pairs))
        tables = self._dataset.clips, self._dataset.captions
        table = next(each for each in tables if name in each.column_names)
        clips = table["clip_id"].to_pylist()
        return [(self._number.get(clip), value) for clip, value in zip(clips, table[name].to_pylist(), strict=True)]

    def _durations(self) -> list[float | None]:
        """Seconds from the first step's start to the last one's end; 0 for a picture."""
        ids = self._features.clip_ids
        lengths = self._features.lengths(ids)
        times, ends = self._features.read_timestamps(ids), np.cumsum(lengths)
        seconds = np.where(lengths > 0, times[ends - 1, 1] - times[ends - lengths, 0], np.nan)
        return [None if math.isnan(each) else each for each in np.round(seconds, 3).tolist()]

    def _dates(self) -> list[str | None]:
        """When each file was last changed, as the extraction recorded it, in UTC."""
        rows = self._features.sets[0].rows().select(["clip_id", "source_mtime_ns"])
        when = dict(zip(rows["clip_id"].to_pylist(), rows["source_mtime_ns"].to_pylist(), strict=True))
        times = [when.get(clip) for clip in self._features.clip_ids]
        return [ns and datetime.fromtimestamp(ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S") for ns in times]


def _typed(pairs: list[tuple[int, Any]]) -> _Values:
    clips = np.asarray([clip for clip, _ in pairs], np.int64)
    values = [value for _, value in pairs]
    numbers = [_number(value) for value in values]
    if values and all(each is not None and abs(each) <= _EXACT for each in numbers):
        return _Values(clips, np.asarray(numbers, np.float64), "number")
    words = [str(value) for value in values]
    if words and all(_DATE.fullmatch(word) for word in words):
        return _Values(clips, np.asarray([word.replace(" ", "T") for word in words], object), "date")
    return _Values(clips, np.asarray(words, object), "text")


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _read_value(condition: Condition, kind: Type) -> Any:
    """The value in the type of its column."""
    if condition.operator == "~" or kind == "text":
        return condition.value
    if kind == "number":
        if (number := _number(condition.value)) is None:
            raise UsageError(
                f"filter '{condition}': {condition.value!r} is no number, and {condition.column} has numbers"
            )
        return number
    if not _DATE.fullmatch(condition.value):
        raise UsageError(
            f"filter '{condition}': {condition.value!r} is no date: write 2024, 2024-05, 2024-05-31 or 2024-05-31T12:00"
        )
    return condition.value.replace(" ", "T")
