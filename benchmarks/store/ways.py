"""Our own ways to read batches, as the rivals' are: rows of the corpus in, packed clips out."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from benchmarks.store.corpus import Array
from benchmarks.store.rivals import Reader
from supportset.store.read.feature_set import FeatureSet


class MappedRows:
    """Mapped files, clips looked up once: ``read_rows``."""

    def __init__(self, features: FeatureSet, ids: Sequence[str]) -> None:
        self._features, self._row_of = features, features.find(ids)

    def read(self, rows: Array) -> tuple[Array, Array]:
        return self._features.read_rows(self._row_of[rows])


class MappedAhead(MappedRows):
    """The same with the clips of batches to come asked for while others are copied: ``prefetch``."""

    def ask(self, rows: Array) -> None:
        """Say which clips will be read soon."""
        self._features.prefetch(self._row_of[rows])


class MappedIds:
    """Mapped files, clips looked up by id each time: ``read``."""

    def __init__(self, features: FeatureSet, ids: Sequence[str]) -> None:
        self._features, self._ids = features, ids

    def read(self, rows: Array) -> tuple[Array, Array]:
        return self._features.read([self._ids[row] for row in rows.tolist()])


class ResidentRows:
    """Everything in memory, in one array."""

    def __init__(self, resident: Any) -> None:
        self._resident = resident

    def read(self, rows: Array) -> tuple[Array, Array]:
        values, offsets = self._resident.gather(rows)
        return values, offsets


def resident_rows(features: FeatureSet, ids: Sequence[str]) -> Reader | None:
    """The resident mode, None where this checkout has none."""
    try:
        module = importlib.import_module("supportset.store.read.resident")
    except ModuleNotFoundError:
        return None
    return ResidentRows(module.ResidentFeatures(features, ids))
