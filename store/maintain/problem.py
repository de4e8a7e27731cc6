"""Problems of a feature set or a dataset, as `store verify` finds them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from supportset.store.errors import SupportsetError, printable
from supportset.store.files import StorePath


@dataclass(frozen=True)
class Problem:
    """A problem.

    Attributes
    ----------
    kind : str
        ``card``, ``folder_name``, ``index``, ``manifest``, ``recipe``, ``missing_file``, ``size``, ``content``,
        ``unlisted``, ``table``, ``unreadable``; and the harmless ``orphan``, ``temporary``, ``replaced``, ``foreign``.
    path : str
        Path of the file.
    says : str
        What is wrong.
    fix : str
        What to do.
    clips : tuple of str
        Ids of the clips whose features are damaged or missing.
    shard : str
        Id of the damaged shard that ``--drop-damaged`` repairs, else empty.
    harmless : bool
        Whether readers are not affected.
    """

    kind: str
    path: str
    says: str
    fix: str
    clips: tuple[str, ...] = ()
    shard: str = ""
    harmless: bool = False

    @classmethod
    def of_error(cls, kind: str, path: object, error: SupportsetError, fix: str = "", shard: str = "") -> Problem:
        """Make a problem from an error, whose line begins with the path and ends with a fix."""
        says = re.sub("^" + re.escape(printable(path)) + ": ", "", str(error))
        said, colon, own = says.rpartition(": ")
        return cls(kind, str(path), said if colon else says, fix or own, shard=shard)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {**vars(self), "clips": list(self.clips)}

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.says}: {self.fix}")


@dataclass
class VerifyReport:
    """Outcome of a check.

    Attributes
    ----------
    path : StorePath
        Path of the feature set or the dataset.
    shards : int
        Committed shards that were checked.
    clips : int
        Their rows with features; of a dataset, its clips.
    bytes : int
        Bytes that were read and hashed.
    seconds : float
        Duration of the check.
    problems : list of Problem
        All problems, the harmless ones last.
    thumbnails : VerifyReport, optional
        Of the set's thumbnails, if it has some.
    """

    path: StorePath
    shards: int = 0
    clips: int = 0
    bytes: int = 0
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)
    thumbnails: VerifyReport | None = None

    @property
    def reports(self) -> list[VerifyReport]:
        """This report, and that of the thumbnails."""
        return [self] if self.thumbnails is None else [self, self.thumbnails]

    @property
    def harmful(self) -> list[Problem]:
        """Problems that affect readers, those of the thumbnails included."""
        return [problem for report in self.reports for problem in report.problems if not problem.harmless]

    @property
    def damaged_clips(self) -> list[str]:
        """Ids of all clips whose features are damaged or missing, sorted."""
        return sorted({clip_id for problem in self.problems for clip_id in problem.clips})

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            **vars(self),
            "path": str(self.path),
            "problems": [problem.to_json() for problem in self.problems],
            "thumbnails": None if self.thumbnails is None else self.thumbnails.to_json(),
            "damaged_clips": self.damaged_clips,
        }
