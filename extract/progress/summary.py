"""What an extraction run came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from supportset.extract.outcome import DAMAGED, MISSING, OK


@dataclass(frozen=True)
class Summary:
    """The state of the selected clips after a run.

    Attributes
    ----------
    dataset : name
    feature_set : name of the feature set's folder
    path : of that folder
    clips : number of clips the run was asked for
    status : how many clips ended how, ``ok`` first; those of earlier runs are counted. ``damaged`` clips that were
        kept have features, and are not counted among ``ok``.
    seconds : that the run took
    exit_code : for the command line, from :func:`exit_code`
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
    """Count the rows of an index by status; features of damaged clips count as ``damaged``."""
    counts = Counter(
        DAMAGED if status == OK and message.startswith(f"{DAMAGED}:") else status
        for status, message in zip(rows["status"].to_pylist(), rows["message"].to_pylist(), strict=True)
    )
    return dict(sorted(counts.items(), key=lambda item: (item[0] != OK, item[0])))


def exit_code(rows: pa.Table, max_failures: float, strict: bool) -> int:
    """Decide whether a run that went through is a success.

    Parameters
    ----------
    rows : pyarrow.Table
        Of the index, for the selected clips.
    max_failures : float
        The share of the present clips (all but the missing) that may be without features.
    strict : bool
        Whether anything missing, failed or damaged is too much.

    Returns
    -------
    int
        0 or 1.
    """
    statuses = Counter(rows["status"].to_pylist())
    present = statuses.total() - statuses[MISSING]
    if strict:
        return int(set(count_statuses(rows)) != {OK})
    return int(present - statuses[OK] > max_failures * present)
