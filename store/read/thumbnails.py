"""Reading of thumbnails: the JPEG of a moment of a clip."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from supportset.store.errors import SupportsetError
from supportset.store.files import StorePath
from supportset.store.format.card import CARD, THUMBNAILS
from supportset.store.format.thumbnails import first_rows, has_thumbnails, thumbnails_path, to_jpeg
from supportset.store.read.feature_set import FeatureSet


class Thumbnails:
    """Thumbnails of a feature set, as committed when they were opened. Threads may share it.

    Parameters
    ----------
    rows : FeatureSet
        The set of kind ``thumbnails``.
    """

    def __init__(self, rows: FeatureSet) -> None:
        self._rows = rows

    @classmethod
    def open(cls, feature_set_path: str | StorePath) -> Thumbnails | None:
        """Open the thumbnails of a feature set; None if it has none.

        Parameters
        ----------
        feature_set_path : str or StorePath
            Folder of the feature set.

        Raises
        ------
        SupportsetError
            Their card or an index file is damaged, or of a newer version.
        """
        if not has_thumbnails(feature_set_path):
            return None
        rows = FeatureSet.open(thumbnails_path(feature_set_path))
        if rows.card.recipe.kind != THUMBNAILS:
            raise SupportsetError(f"{rows.path}/{CARD}: is of kind {rows.card.recipe.kind!r}: move the folder away")
        return cls(rows)

    @property
    def path(self) -> StorePath:
        """Folder of the thumbnails."""
        return self._rows.path

    @property
    def clip_ids(self) -> list[str]:
        """Ids of the clips that have thumbnails, in the order on disk."""
        return self._rows.clip_ids

    def __len__(self) -> int:
        """Number of clips that have thumbnails."""
        return len(self._rows)

    def __contains__(self, clip_id: object) -> bool:
        """Whether a clip has thumbnails."""
        return clip_id in self._rows

    def spans(self, clip_id: str) -> NDArray[np.float64]:
        """Return the steps that have a picture.

        Returns
        -------
        (N, 2) float64
            Start and end of each, in seconds from the clip's start, in order; (0, 2) if the clip has no thumbnails.

        Raises
        ------
        SupportsetError
            The stored timestamps are not those that were written.
        """
        if clip_id not in self._rows:
            return np.empty((0, 2))
        times: NDArray[np.float64] = self._rows.read_timestamps([clip_id])
        return times[first_rows(times)[:-1]]

    def read(self, clip_id: str, at_s: float = 0.0) -> bytes | None:
        """Return the JPEG of the step nearest to a moment; the stored bytes are compared with their checksum.

        Parameters
        ----------
        clip_id : str
        at_s : float, default 0.0
            Seconds from the clip's start. A step holds its start, and not its end.

        Returns
        -------
        bytes or None
            None if the clip has no thumbnails.

        Raises
        ------
        SupportsetError
            The stored bytes are not those that were written.
        """
        if clip_id not in self._rows:
            return None
        times = self._rows.read_timestamps([clip_id])
        values, _ = self._rows.read([clip_id])
        first = first_rows(times)
        nearest = _nearest(times[first[:-1]], at_s)
        return to_jpeg(values[first[nearest] : first[nearest + 1]], f"{self.path}: a thumbnail of clip {clip_id!r}")


def _nearest(spans: NDArray[Any], at_s: float) -> int:
    """Number of the span that a moment is in, else of the nearest; of two as near, the later."""
    away = np.maximum(np.maximum(spans[:, 0] - at_s, at_s - spans[:, 1]), 0.0)
    return len(spans) - 1 - int(np.argmin(away[::-1]))
