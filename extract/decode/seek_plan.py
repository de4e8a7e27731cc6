"""Where a seek to a key frame is cheaper than decoding the frames before it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from supportset.extract.decode.frame_index import FrameIndex

_SEEK_GAIN = 12  # frames: seeking forward costs about as much as decoding some frames


class Run(NamedTuple):
    """Frames decoded after one seek to a key frame (its presentation time), or from the file's start."""

    key: int | None
    wanted: list[int]


def split_runs(index: FrameIndex, wanted: list[int]) -> list[Run]:
    """Split ascending frame numbers where a seek skips enough frames to be worth it.

    The frames decoded for a set of numbers include those decoded for any part of it.
    """
    keys = np.searchsorted(index.ticks, index.keys)
    nearest = np.searchsorted(keys, wanted, side="right") - 1
    runs: list[Run] = []
    for number, near in zip(wanted, nearest.tolist(), strict=True):
        at = runs[-1].wanted[-1] if runs else 0
        if near >= 0 and keys[near] - at > _SEEK_GAIN:
            runs.append(Run(int(index.keys[near]), [number]))
        elif runs:
            runs[-1].wanted.append(number)
        else:
            runs.append(Run(None, [number]))
    return runs
