"""From the rows of arrays to a split: which row is which caption and clip, what is missing, what is not used."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.embeddings.ids import RowIds, check_unique
from supportset.evaluate.splits import Split, default_split, read_split
from supportset.store.errors import UsageError
from supportset.store.format.dataset import Caption, Dataset


@dataclass(frozen=True, eq=False)
class Matched:
    """A split, and where its captions and clips are in the arrays.

    Attributes
    ----------
    split : Split
    text, video : (N,), (P,) int64
        Rows of ``split.captions`` and of ``split.present``.
    notes : tuple of str
        What was not used.
    """

    split: Split
    text: NDArray[np.int64]
    video: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def of(self, split: Split) -> Matched:
        """The same for fewer of its clips."""
        caption = {each: row for each, row in zip(self.split.captions, self.text, strict=True)}
        clip = dict(zip(self.split.present, self.video, strict=True))
        return Matched(
            split,
            _rows([caption[each] for each in split.captions]),
            _rows([clip[each] for each in split.present]),
            self.notes,
        )


def match_ids(text: RowIds, video: RowIds, gallery: tuple[str, ...] = ()) -> Matched:
    """Make a split of ids alone: clips are those of the gallery or, without one, all that the ids name.

    A caption of a clip without a row is a query that is missed.
    """
    check_unique(video)
    clips = text.names if text.clips is None else text.clips
    at = {clip: row for row, clip in enumerate(video.names)}
    known = tuple(gallery) or tuple(dict.fromkeys([*video.names, *clips]))
    missing = frozenset(clip for clip in known if clip not in at)
    if gallery and not set(gallery).intersection(at):
        raise UsageError(
            f"{video.source} has no clip of the gallery's list: it says {video.names[0]!r}, the list {gallery[0]!r}"
        )
    if not set(known).intersection(clips).intersection(at):
        raise UsageError(
            f"no caption's clip has an embedding in the gallery: {text.source} says {clips[0]!r}, {video.source} says "
            f"{video.names[0]!r}; both need the ids of clips"
        )
    inside = set(known)
    rows = [row for row, clip in enumerate(clips) if clip in inside]
    counts, seen = Counter(clips), Counter[str]()
    captions = []
    for row in rows:
        clip, name = clips[row], text.names[row]
        if text.clips is None or text.names[row] == clip:
            seen[clip] += 1
            name = clip if counts[clip] == 1 else f"{clip}#{seen[clip]}"
        captions.append(Caption(name, clip, ""))
    split = Split("test", known, tuple(captions), missing)
    if len({caption.caption_id for caption in captions}) != len(captions):
        raise UsageError(f"{text.source}: names a caption twice: each once")
    found = _rows([at[clip] for clip in split.present])
    return Matched(split, _rows(rows), found, _unused(len(text.names) - len(rows), len(video.names) - len(found)))


def match_tables(text: RowIds, video: RowIds, dataset: Dataset, protocol: str, split: str | None) -> Matched:
    """Find the captions and clips of a split of a dataset among the rows.

    Text rows are named by caption ids or, where each clip of the split has one caption, by clip ids.

    Raises
    ------
    UsageError
        A caption of the split has no row, or two; no clip has one.
    """
    check_unique(video)
    split = split or default_split(dataset, protocol, "train")
    if not set(dataset.split_clips(protocol, split)).intersection(video.names):
        raise UsageError(
            f"{video.source} has no clip of split {split!r} of {dataset.name!r}, its first row is {video.names[0]!r}: "
            "name files with the ids of the rows, --ids TEXT_IDS VIDEO_IDS"
        )
    part = read_split(dataset, protocol, split, set(video.names))
    captions_of = Counter(caption.clip_id for caption in part.captions)
    row_of = {name: row for row, name in enumerate(text.names)}
    row_of_clip = {clip: row for row, clip in enumerate(text.clips or text.names)}
    rows, absent = [], []
    for caption in part.captions:
        row = row_of.get(caption.caption_id)
        if row is None and captions_of[caption.clip_id] == 1:
            row = row_of_clip.get(caption.clip_id)
        if row is None:
            absent.append(caption)
        else:
            rows.append(row)
    if absent:
        raise UsageError(
            f"{text.source}: {len(absent):,} of {len(part.captions):,} captions of split {part.name!r} have no row, "
            f"such as {absent[0].caption_id!r} of clip {absent[0].clip_id!r}: every query must be embedded"
        )
    named = Counter(text.names)
    if twice := [text.names[row] for row in rows if named[text.names[row]] > 1]:
        raise UsageError(f"{text.source}: names {twice[0]!r} {named[twice[0]]} times: each caption once")
    at = {clip: row for row, clip in enumerate(video.names)}
    found = _rows([at[clip] for clip in part.present])
    return Matched(part, _rows(rows), found, _unused(len(text.names) - len(rows), len(video.names) - len(found)))


def _rows(rows: list[int]) -> NDArray[np.int64]:
    return np.asarray(rows, dtype=np.int64)


def _unused(texts: int, clips: int) -> tuple[str, ...]:
    left = [f"{count:,} rows of {what}" for count, what in ((texts, "texts"), (clips, "clips")) if count]
    return (f"not in the split, so not used: {' and '.join(left)}",) if left else ()
