"""Rows of clips that are computed once and kept: embeddings, codes of parts, what else follows from a clip's content.

What is kept is found by the content of a clip, not by its id. So new clips are added without the others, clips that are
gone are passed over, and a renamed clip is still there. See `keep_rows` for when segments are merged and removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from supportset.search.kept.segments import CONTENT, OFFSETS, Array, DamagedError, Segment, read_segments, write_segment
from supportset.store.errors import SupportsetError
from supportset.store.read.padding import packed_rows

FULL_BYTES = 1 << 26  # of a segment; what is computed at once or merged is in memory until it has that size
_SMALL_BYTES = 1 << 16
_MOST = 4  # segments of about one size; more are merged
_FACTOR = 4  # between the sizes that count as about one
_TRIES = 4
_YOUNG_S = 600.0  # another process may know clips that this one does not

Result = TypeVar("Result")
Rows = tuple[Array, Mapping[str, Array]]  # number of rows of each clip, (n,); arrays of these rows, clip after clip


@dataclass(frozen=True)
class Layout:
    """What a segment holds of the rows of its clips: by default the rows themselves.

    Attributes
    ----------
    full_bytes : int
        Of the rows of a segment.
    seal : function
        From the rows of all clips of a segment, by name, to the arrays to write.
    unseal : function
        From a segment to its rows.
    """

    full_bytes: int = FULL_BYTES
    seal: Callable[[Mapping[str, Array]], Mapping[str, Array]] = dict
    unseal: Callable[[Segment], Mapping[str, Array]] = lambda segment: {each: segment[each] for each in segment.columns}


@dataclass(frozen=True)
class KeptRows:
    """Rows of N clips, in segments.

    Attributes
    ----------
    segments : tuple of Segment
        Those that have a row of one of the clips.
    clips : (N,) int64
        Number of each clip among those of all segments, one segment after the other.
    notes : tuple of str
        Why it is not on disk.
    """

    segments: tuple[Segment, ...]
    clips: NDArray[np.int64]
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """Number of each segment's first clip, and of all clips, (S + 1,)."""
        return _first_clips(self.segments)

    def of_clips(self, name: str, numbers: NDArray[np.int64]) -> Array:
        """Copy an array of one row a clip: the rows of some of the N clips."""
        parts, local = _locate(self.first, self.clips[numbers])
        out: Array | None = None
        for part in np.unique(parts):
            chosen = parts == part
            rows = self.segments[part][name][local[chosen]]
            if out is None:
                out = np.empty((len(numbers), *rows.shape[1:]), rows.dtype)
            out[chosen] = rows
        return np.zeros((0, 0), np.float32) if out is None else out

    def blocks(self, numbers: NDArray[np.int64], names: Sequence[str]) -> Iterator[tuple[Array, dict[str, Array]]]:
        """Copy the rows of some of the N clips, (M,), in their order, 256 clips at once: `Rows`."""
        parts, places = _locate(self.first, self.clips[numbers])
        for start in range(0, len(numbers), 256):
            block = slice(start, start + 256)
            counts: list[int] = []
            pieces: dict[str, list[Array]] = {name: [] for name in names}
            for part, place in zip(parts[block].tolist(), places[block].tolist(), strict=True):
                segment = self.segments[part]
                first, stop = segment[OFFSETS][place : place + 2]
                counts.append(stop - first)
                for name in names:
                    pieces[name].append(segment[name][first:stop])
            yield np.asarray(counts), {name: np.concatenate(each) for name, each in pieces.items()}


def keep_rows(
    folder: Path,
    key: str,
    content: NDArray[np.uint64],
    compute: Callable[[NDArray[np.int64]], Iterable[Rows]],
    in_memory: bool = False,
    layout: Layout | None = None,
) -> KeptRows:
    """Find what is kept of clips, and compute and keep the rest.

    Parameters
    ----------
    folder : Path
        Of segments. Where it cannot be written, new rows are in memory, and a note says so.
    key : str
        What decides the rows, besides the content of the clips.
    content : (N, w) uint64
        Of each clip: equal where the rows are.
    compute : function
        From numbers of clips, ascending, to the rows of some of them after those of others.
    in_memory : bool
        Use no files: compute all rows.
    layout : Layout, optional
        What a segment holds.

    Notes
    -----
    Segments of about one size (within a factor of four) are merged where there are more than four, so that a row is
    rewritten a few times at most. Rows of clips that are gone are dropped by that, and where they are more than half of
    a segment. A segment is left alone for ten minutes after it was written: another process may know other clips.
    """
    layout = layout or Layout(FULL_BYTES)

    def act(without: bool) -> KeptRows:
        return _keep_rows(_Writer(folder, key, in_memory or without, layout), content, compute)

    return with_repair(act)


def with_repair(act: Callable[[bool], Result]) -> Result:
    """Do what reads segments; where a file is damaged or gone, remove its segment and do it again.

    Parameters
    ----------
    act : function
        Takes whether to use no files at all: so it is called at last, when files vanish all the time.
    """
    for _ in range(_TRIES):
        try:
            return act(False)
        except DamagedError as damaged:
            damaged.segment.remove()
    return act(True)


def _keep_rows(
    writer: _Writer, content: NDArray[np.uint64], compute: Callable[[NDArray[np.int64]], Iterable[Rows]]
) -> KeptRows:
    everything = [] if writer.in_memory else read_segments(writer.folder)
    segments = [segment for segment in everything if segment.key == writer.key]
    places = _find(segments, content)
    missing = np.flatnonzero(places < 0)
    if len(missing):
        missing = missing[_first_of_equal(content[missing])]
        done = 0
        for counts, arrays in compute(missing):
            writer.add(content[missing[done : done + len(counts)]], counts, arrays)
            done += len(counts)
        segments += writer.finish()
        places = _find(segments, content)
    tidied = _tidy(writer, segments, places, everything)
    if tidied != segments:
        places = _find(tidied, content)
    used = np.bincount(_locate(_first_clips(tidied), places)[0], minlength=len(tidied)) > 0
    if not used.all():
        tidied = [segment for segment, is_used in zip(tidied, used, strict=True) if is_used]
        places = _find(tidied, content)
    return KeptRows(tuple(tidied), places, tuple(writer.notes))


def _find(segments: Sequence[Segment], content: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Number of each clip among those of all segments; -1 where it is in none."""
    there = [np.asarray(segment[CONTENT]) for segment in segments]
    there = [each for each in there if each.shape[1:] == content.shape[1:]]
    if not there:
        return np.full(len(content), -1, np.int64)
    found = pc.index_in(_binary(content), value_set=_binary(np.concatenate(there)))
    numbers: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers


def _first_of_equal(content: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Indices of the rows that equal none before them, ascending."""
    rows = _binary(content)
    found = pc.index_in(rows, value_set=rows).to_numpy(zero_copy_only=False)
    return np.flatnonzero(found == np.arange(len(content)))


def _binary(content: NDArray[np.uint64]) -> pa.Array:
    content = np.ascontiguousarray(content)
    kind = pa.binary(8 * content.shape[1])
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(content), [None, pa.py_buffer(content)])


def _first_clips(segments: Sequence[Segment]) -> NDArray[np.int64]:
    """Number of each segment's first clip, and of all clips, (S + 1,)."""
    return np.cumsum([0, *map(len, segments)], dtype=np.int64)


def _locate(first: NDArray[np.int64], places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The segment of each clip, and the clip's number in it."""
    parts = np.searchsorted(first, places, side="right") - 1
    return parts, places - first[parts]


def _tidy(
    writer: _Writer, segments: list[Segment], places: NDArray[np.int64], everything: Sequence[Segment]
) -> list[Segment]:
    """Merge segments and drop rows, where that is due and the folder can be written; return the segments that count."""
    first = _first_clips(segments)
    live = np.zeros(int(first[-1]), bool)
    live[places] = True
    alive = {
        segment.name: np.flatnonzero(live[start:stop])
        for segment, start, stop in zip(segments, first[:-1], first[1:], strict=True)
    }
    if writer.in_memory:
        return segments
    stale = [each for each in everything if not len(alive.get(each.name, ())) and each.age_s > _YOUNG_S]
    for segment in stale:  # of another key, or of clips that are all gone
        segment.remove()
    segments = [segment for segment in segments if segment not in stale]
    merged = _due(segments, alive, writer.layout.full_bytes)
    if not merged:
        return segments
    for segment in merged:
        _copy(segment, alive[segment.name], writer)
    fresh = writer.finish()
    if any(segment.in_memory for segment in fresh):  # the disk is full: all is as it was
        return segments
    for segment in merged:
        segment.remove()
    return [*(segment for segment in segments if segment not in merged), *fresh]


def _due(segments: Sequence[Segment], alive: Mapping[str, NDArray[np.int64]], full_bytes: int) -> list[Segment]:
    """The segments to write anew: too many of one size, or mostly of clips that are gone."""
    classes: dict[int, list[Segment]] = {}
    due = []
    for segment in segments:
        share = len(alive[segment.name]) / max(1, len(segment))
        if segment.in_memory or (0 < share < 0.5 and segment.age_s > _YOUNG_S):
            due.append(segment)
        elif segment.nbytes < full_bytes // 2:
            size = int(np.log(max(1.0, segment.nbytes / _SMALL_BYTES)) / np.log(_FACTOR))
            classes.setdefault(size, []).append(segment)
    for several in classes.values():
        due += several if len(several) > _MOST else []
    return due


def _copy(segment: Segment, clips: NDArray[np.int64], writer: _Writer) -> None:
    """Add the rows of some clips of a segment to what is written."""
    offsets, content = segment[OFFSETS], segment[CONTENT]
    counts = np.diff(offsets)[clips]
    rows = packed_rows(offsets[clips], counts, np.concatenate([[0], np.cumsum(counts)]))
    arrays = writer.layout.unseal(segment)
    writer.add(content[clips], counts, {name: array[rows] for name, array in arrays.items()})


class _Writer:
    """Collects rows, and writes a segment whenever there are enough."""

    def __init__(self, folder: Path, key: str, in_memory: bool, layout: Layout) -> None:
        self.folder, self.key, self.in_memory, self.layout = folder, key, in_memory, layout
        self.notes: list[str] = []
        self._written: list[Segment] = []
        self._parts: list[tuple[Array, Array, Mapping[str, Array]]] = []
        self._bytes = 0

    def add(self, content: Array, counts: Array, arrays: Mapping[str, Array]) -> None:
        """Add the rows of some clips."""
        self._parts.append((content, counts, arrays))
        self._bytes += sum(array.nbytes for array in arrays.values())
        if self._bytes >= self.layout.full_bytes:
            self._flush()

    def finish(self) -> list[Segment]:
        """Write what is left; the segments since the last call."""
        self._flush()
        written, self._written = self._written, []
        return written

    def _flush(self) -> None:
        parts, self._parts, self._bytes = self._parts, [], 0
        if not parts:
            return
        counts = np.concatenate([each for _, each, _ in parts])
        rows = {name: np.concatenate([each[name] for _, _, each in parts]) for name in parts[0][2]}
        arrays = dict(self.layout.seal(rows))
        arrays[CONTENT] = np.concatenate([content for content, _, _ in parts])
        arrays[OFFSETS] = np.cumsum(np.concatenate([[0], counts]), dtype=np.int64)
        if not self.in_memory:
            try:
                self._written.append(write_segment(self.folder, self.key, arrays))
                return
            except (SupportsetError, OSError) as error:
                self.in_memory = True
                self.notes.append(f"the index is in memory, and made again next time: {error}")
        self._written.append(write_segment(self.folder, self.key, arrays, in_memory=True))
