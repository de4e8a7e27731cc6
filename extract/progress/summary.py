"""The summary of an extraction run, and its exit code."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from supportset.store.format.index import has_features
from supportset.store.format.status import MISSING, OK


@dataclass(frozen=True)
class Summary:
    """The state of the selected clips after a run.

    Attributes
    ----------
    dataset : str
        Name of the dataset.
    feature_set : str
        Name of the feature set's folder.
    path : str
        Path of that folder.
    clips : int
        Number of selected clips.
    status : dict[str, int]
        Clips by status, ``ok`` first; those of earlier runs are counted. ``damaged`` clips that were kept
        have features, and are not counted among ``ok``.
    seconds : float
        Duration of the run.
    exit_code : int
        For the command line, from :func:`exit_code`.
    """

    dataset: str
    feature_set: str
    path: str
    clips: int
    status: dict[str, int]
    seconds: float
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """The summary as the command line prints it."""
        told = asdict(self)
        del told["exit_code"]
        return told | {"seconds": round(self.seconds, 3)}


def count_statuses(rows: pa.Table) -> dict[str, int]:
    """Count the rows of an index by status, ``ok`` first."""
    counts = Counter(rows["status"].to_pylist())
    return dict(sorted(counts.items(), key=lambda item: (item[0] != OK, item[0])))


def exit_code(rows: pa.Table, max_failures: float, strict: bool) -> int:
    """Decide whether a finished run is a success.

    Parameters
    ----------
    rows : pyarrow.Table
        Of the index, for the selected clips.
    max_failures : float
        The share of the present clips (all but the missing) that may be without features.
    strict : bool
        Whether anything missing, failed or damaged makes it a failure.

    Returns
    -------
    int
        0 or 1.
    """
    statuses = Counter(rows["status"].to_pylist())
    if strict:
        return int(set(statuses) != {OK})
    present = statuses.total() - statuses[MISSING]
    return int(present - pc.sum(has_features(rows)).as_py() > max_failures * present)
