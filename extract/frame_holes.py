"""Frames that a demuxer passed over in the middle of a file, without a word.

A gap in the times alone says nothing: screen recordings have many. A gap beside a broken part of the file, or beside a
block that gave no packet, is damage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from extract.matroska import Stretch, stretches

_NEAR = 16  # packets on either side of what is missing: frames are stored in another order than they are shown
_EVER = 2**62


class Hole(NamedTuple):
    """A stretch between two frames where others have been, and how many at the video's usual rate; times in ticks."""

    after: int
    before: int
    lost: int

    def touches(self, begin: int, end: int) -> bool:
        """Whether a clip between two ticks has lost frames here."""
        return self.after < end and begin < self.before


def find_holes(
    path: Path, packets: Sequence[int], places: Sequence[int], ticks: np.ndarray, end: int, declared: int | None
) -> tuple[Hole, ...]:
    """Find where a Matroska or WebM file has lost frames to broken structure.

    The file is looked at only where frames are further apart than usual. Where its beginning is lost, every clip
    has lost something: times count from the first frame there is.

    Parameters
    ----------
    path : Path
    packets : (m,) int64
        Presentation times in the order of the file.
    places : (m,) int64
        Where in the file each packet lies, in bytes.
    ticks : (n,) int64
        Times of the frames, ascending.
    end : int
        When the last frame's time is over.
    declared : int, optional
        When it should be over; None if the file does not say.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    steps = np.diff(ticks)
    usual = int(np.median(steps)) if len(steps) else end - int(ticks[0])
    wide = steps > 1.5 * usual
    late, early = int(ticks[0]) > 1.5 * usual, declared is not None and declared - end > 1.5 * usual
    if not (wide.any() or late or early):
        return ()
    order, where = np.asarray(packets, np.int64), np.maximum.accumulate(np.asarray(places, np.int64))
    near, head, tail = np.zeros(len(steps), bool), False, False
    for part in _not_read(path, set(where.tolist())):
        before, after = np.searchsorted(where, (part.begin, part.end))
        beside = np.concatenate([order[max(0, before - _NEAR) : before], order[after : after + _NEAR]])
        beside = beside[(beside >= ticks[0]) & (beside <= ticks[-1])]  # flipped bits give any other time
        if len(beside):
            low, high = np.searchsorted(ticks, (beside.min(), beside.max()))
            near[low:high] = True
        head |= before == 0
        tail |= after == len(order)
    last = _EVER if declared is None else max(declared, int(ticks[0]))  # what is behind it has a wrong time
    holes = [
        Hole(after, min(before, last), max(0, round((min(before, last) - after) / usual) - 1))
        for after, before in ((int(ticks[k]), int(ticks[k + 1])) for k in np.flatnonzero(near & wide))
    ]
    if head and late:
        holes.insert(0, Hole(-_EVER, _EVER, round(int(ticks[0]) / usual)))
    if tail and early and declared is not None:
        holes.append(Hole(int(ticks[-1]), declared, round((declared - end) / usual)))
    return tuple(holes)


def _not_read(path: Path, places: set[int]) -> list[Stretch]:
    """Broken parts of a file, and blocks of the track whose packets lie at ``places`` that gave none."""
    found = list(stretches(path))
    tracks = Counter(part.track for part in found if part.track is not None and part.begin in places)
    video = tracks.most_common(1)[0][0] if tracks else None
    return [part for part in found if part.track is None or (part.track == video and part.begin not in places)]
