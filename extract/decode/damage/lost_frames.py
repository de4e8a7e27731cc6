"""Frames that a demuxer skips silently in the middle of a file.

A gap in the times alone proves nothing: screen recordings have many. A gap that contains a broken part of the file is
damage, and so is a block that gave no packet.
"""

from __future__ import annotations

from array import array
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from supportset.extract.decode.damage.matroska import Heartbeat, stretches

_JUMP = 10_000  # ticks, mostly ms: a block that is further from its neighbours has a wrong time
_MOST = 10**6  # frames that one gap may have lost; a wrong time can make any gap


class _Structure(NamedTuple):
    """Blocks of a file: first byte, track and time of each; and the bounds of its broken parts; ascending."""

    begins: np.ndarray
    tracks: np.ndarray
    times: np.ndarray
    broken: list[tuple[int, int]]


def find_lost(
    path: Path, places: set[int], ticks: np.ndarray, end: int, declared: int | None, heartbeat: Heartbeat
) -> np.ndarray:
    """Find when a Matroska or WebM file would have shown the frames that it has lost to broken structure.

    The structure is looked at only where frames are further apart than usual, or begin later or end earlier than the
    file: what has the usual distances has lost nothing.

    Parameters
    ----------
    path : Path
    places : set of int
        First byte of each block of the stream that gave a packet, empty or not.
    ticks : (n,) int64
        Times of the frames, ascending.
    end : int
        When the last frame's time is over.
    declared : int, optional
        The file's length by its header, which some write as the time of its end; None if it does not say, or if the
        file is cut short, where what is missing behind the last frame is known otherwise.
    heartbeat : callable
        Called often, as a sign of life.

    Returns
    -------
    (g,) int64
        Ascending, in ticks; where a broken part holds the frames, at the video's usual distance.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    steps, start = np.diff(ticks), int(ticks[0])
    usual = int(np.median(steps)) if len(steps) else end - start
    if declared is not None and declared <= start:
        declared += start
    late, early = start > 1.5 * usual, declared is not None and declared - end > 1.5 * usual
    wide = np.flatnonzero(steps > 1.5 * usual)
    if not (len(wide) or late or early):
        return np.empty(0, np.int64)
    found = _structure(path, heartbeat)
    afters, befores = ticks[wide], ticks[wide + 1]
    if declared is not None:
        befores = np.maximum(np.minimum(befores, declared), afters)  # behind it a time is wrong
    lost = [np.empty(0, np.int64)]
    slack = _slack(found.times)
    for begin, behind in found.broken:
        heartbeat()
        earlier, later = np.searchsorted(found.begins, (begin, behind))
        low = _nearest(found.times[max(0, earlier - 3) : earlier][::-1])
        high = _nearest(found.times[later : later + 3])
        low, high = None if low is None else low - slack, None if high is None else high + slack
        if low is not None:
            near = slice(np.searchsorted(befores, low), None if high is None else np.searchsorted(afters, high))
            for gap in zip(afters[near].tolist(), befores[near].tolist(), strict=True):
                lost.append(_within(gap, usual, low, high))
        if late and (high is None or high >= start - usual):
            lost.append(_within((start - (start // usual + 1) * usual, start), usual, low, high))
        if early and declared is not None and (low is None or low <= end):
            lost.append(_within((int(ticks[-1]), declared), usual, low, high))
    estimated = np.unique(np.concatenate(lost))
    known = np.sort(np.concatenate([ticks, estimated]))
    return np.unique(np.concatenate([estimated, _apart(_refused(found, places), known, usual / 2)]))


def _structure(path: Path, heartbeat: Heartbeat) -> _Structure:
    begins, tracks, times = array("q"), array("q"), array("q")
    broken: list[tuple[int, int]] = []
    for part in stretches(path, heartbeat):
        if part.track is None:
            broken.append((part.begin, part.end))
        else:
            begins.append(part.begin)
            tracks.append(part.track)
            times.append(part.time)
    return _Structure(np.array(begins), np.array(tracks), np.array(times), broken)


def _refused(found: _Structure, places: set[int]) -> np.ndarray:
    """Times of the video's blocks that gave no packet. Its track is that of the blocks that gave one."""
    gave = np.array([begin in places for begin in found.begins.tolist()], bool)
    tracks = Counter(found.tracks[gave].tolist())
    if not tracks:
        return np.empty(0, np.int64)
    video = tracks.most_common(1)[0][0]
    return np.unique(found.times[(found.tracks == video) & ~gave])


def _slack(times: np.ndarray) -> int:
    """How far a block may lie from its neighbours in time: B-frames and tracks are stored out of order."""
    back = -np.diff(times)
    back = back[(back > 0) & (back <= _JUMP)]
    return 2 * int(back.max()) if len(back) else 0


def _nearest(times: np.ndarray) -> int | None:
    """Of up to three blocks, the nearest first, the time of the first; the middle one where that may be wrong."""
    if not len(times):
        return None
    wrong = len(times) > 1 and abs(int(times[0] - times[1])) > _JUMP
    return int(np.median(times)) if wrong else int(times[0])


def _within(gap: tuple[int, int], usual: int, low: int | None, high: int | None) -> np.ndarray:
    """Times in a gap between two frames, at the usual distance, neither before ``low`` nor after ``high``."""
    after, before = gap
    count = min(round((before - after) / usual) - 1, _MOST)
    times = after + usual * np.arange(1, max(0, count) + 1, dtype=np.int64)
    keep = np.ones(len(times), bool)
    if low is not None:
        keep &= times >= low
    if high is not None:
        keep &= times <= high
    return times[keep]


def _apart(times: np.ndarray, others: np.ndarray, distance: float) -> np.ndarray:
    """Those of the times that are further than this from each of the others, which are ascending."""
    at = np.searchsorted(others, times)
    left, right = others[np.maximum(at - 1, 0)], others[np.minimum(at, len(others) - 1)]
    return times[(np.abs(times - left) > distance) & (np.abs(times - right) > distance)]
