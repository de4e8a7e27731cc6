"""``--shard i/n``: the part of a dataset's clips that one of several independent runs extracts."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from supportset.store.errors import UsageError


class OfFile(Protocol):
    """A clip: its file is named relative to the videos' root, None where none was found."""

    @property
    def path(self) -> str | None: ...


C = TypeVar("C", bound=OfFile)


def group_by_file(clips: Iterable[C]) -> list[list[C]]:
    """Group the clips by file, in the order of their first clip; a clip without a file is a group."""
    groups: dict[object, list[C]] = {}
    for number, clip in enumerate(clips):
        groups.setdefault(number if clip.path is None else clip.path, []).append(clip)
    return list(groups.values())


def take_part(clips: Sequence[C], part: int, parts: int) -> list[C]:
    """Take the ``part``-th (from 1) of ``parts`` shares of the clips, in the order of the clips.

    The clips of one file are in one share, so that it is decoded once. The shares are otherwise as equal as possible:
    each file, those with most clips first, joins the share with the fewest clips. Only the clips decide, not what is
    done or on disk, so all machines share the work the same way.

    Raises
    ------
    UsageError
        There is no such share, or there are too few files for all of them.

    Examples
    --------
    >>> from supportset.extract.work.selection import Clip
    >>> clips = [Clip(f"c{i}", f"film{i // 2}.mp4", None, None) for i in range(6)]
    >>> [clip.clip_id for clip in take_part(clips, 1, 2)]
    ['c0', 'c1', 'c4', 'c5']
    """
    if not 1 <= part <= parts:
        raise UsageError(f"shard {part}/{parts}: there are the parts 1/{parts} to {parts}/{parts}")
    groups = group_by_file(clips)
    if clips and part > len(groups):
        raise UsageError(
            f"shard {part}/{parts} is empty: there are only {len(groups):,} files of {len(clips):,} clips to share, "
            "use fewer parts"
        )
    loads = [(0, number) for number in range(1, parts + 1)]
    mine: set[int] = set()
    for group in sorted(groups, key=len, reverse=True):
        load, least = heapq.heappop(loads)
        heapq.heappush(loads, (load + len(group), least))
        if least == part:
            mine.update(map(id, group))
    return [clip for clip in clips if id(clip) in mine]
