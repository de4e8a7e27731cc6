"""The summary of an extraction run, and its exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from supportset.store.format.index import has_features
from supportset.store.format.status import MISSING, OK

GONE = "gone"  # a clip with features whose video is not there any more; not a status of the index


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
    gone : list of str
        Clips of the dataset whose videos are gone, and of which the feature set has features. Selected ones are counted
        as ``gone`` in ``status``.
    thumbnails : dict, optional
        Of clips that had features and no thumbnails: ``ThumbnailSummary`` as JSON; None where there were none, or no
        thumbnails were asked for.
    """

    dataset: str
    feature_set: str
    path: str
    clips: int
    status: dict[str, int]
    seconds: float
    exit_code: int = 0
    gone: list[str] = field(default_factory=list)
    thumbnails: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The summary as the command line prints it."""
        told = asdict(self)
        del told["exit_code"]
        return told | {"seconds": round(self.seconds, 3)}


def count_statuses(rows: pa.Table, gone: Collection[str] = ()) -> dict[str, int]:
    """Count the rows of an index by status, ``ok`` first; those with features of clips that are gone as ``gone``."""
    counts = Counter(_statuses(rows, gone))
    return dict(sorted(counts.items(), key=lambda item: (item[0] != OK, item[0])))


def exit_code(rows: pa.Table, max_failures: float, strict: bool, gone: Collection[str] = ()) -> int:
    """Decide whether a finished run is a success.

    Parameters
    ----------
    rows : pyarrow.Table
        Of the index, for the selected clips.
    max_failures : float
        The share of the present clips (all but the missing and the gone) that may be without features.
    strict : bool
        Whether anything missing, gone, failed or damaged makes it a failure.
    gone : collection of str
        Clips whose videos are gone.

    Returns
    -------
    int
        0 or 1.
    """
    statuses = Counter(_statuses(rows, gone))
    if strict:
        return int(set(statuses) != {OK})
    present = statuses.total() - statuses[MISSING] - statuses[GONE]
    failed = statuses.total() - pc.sum(has_features(rows)).as_py() - statuses[MISSING]
    return int(failed > max_failures * present)


def _statuses(rows: pa.Table, gone: Collection[str]) -> list[str]:
    if not gone:
        return list(rows["status"].to_pylist())
    columns = (column.to_pylist() for column in (rows["clip_id"], rows["status"], has_features(rows)))
    return [GONE if found and clip_id in gone else status for clip_id, status, found in zip(*columns, strict=True)]
