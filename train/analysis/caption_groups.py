"""Clips in random groups of the size of a support set, each with the captions of its clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from supportset.store.format.dataset import Caption

Places = NDArray[np.int64]


def owners(captions: Sequence[Caption], clip_ids: Sequence[str]) -> Places:
    """(N,) place of each caption's clip, -1 where it is not among ``clip_ids``."""
    row_of = {clip_id: row for row, clip_id in enumerate(clip_ids)}
    return np.asarray([row_of.get(caption.clip_id, -1) for caption in captions])


def caption_groups(owner: Places, clips: int, size: int, rng: np.random.Generator) -> Iterator[tuple[Places, Places]]:
    """Groups of some ``size`` clips, all together each clip once: places of the clips, and of their captions.

    Groups without captions, or of one clip, are left out.
    """
    for group in np.array_split(rng.permutation(clips), max(1, round(clips / size))):
        rows = np.flatnonzero(np.isin(owner, group))
        if len(group) > 1 and len(rows):
            yield group, rows
