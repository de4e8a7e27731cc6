"""The structure of Matroska and WebM files: where their blocks are, which parts are broken, and whether the end is cut.

Demuxers skip what they cannot parse, up to the next cluster, and report a normal end. The structure shows where: every
element states its length, and only a few kinds may occur in a cluster (RFC 8794, section 4; RFC 9559, section 5.1).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

EBML_HEADER = 0x1A45DFA3
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_ANYWHERE = {0xEC, 0xBF}  # Void, CRC-32
# SeekHead, Info, Tracks, Cues, Chapters, Tags, Attachments, Cluster; and another segment, or file, joined on
_IN_SEGMENT = {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1043A770, 0x1254C367, 0x1941A469, _CLUSTER}
_NEXT_FILE = {_SEGMENT, EBML_HEADER}
_TIMESTAMP = 0xE7
_SIMPLE_BLOCK, _GROUP, _BLOCK = 0xA3, 0xA0, 0xA1  # a block is alone, or with notes in a group
# SilentTracks, Position, PrevSize, EncryptedBlock
_IN_CLUSTER = {0x5854, 0xA7, 0xAB, 0xAF, _TIMESTAMP, _SIMPLE_BLOCK, _GROUP} | _ANYWHERE
_LATEST = 2**60  # flipped bits give any time, and differences of times should fit
_HEAD = 32  # bytes that hold the head of an element and of the block in it
_READ = 1 << 20  # bytes at a time, in the search for the next cluster
Heartbeat = Callable[[], None]


class Stretch(NamedTuple):
    """Some bytes of a file: a block's content, or (``track`` None) a broken part.

    Attributes
    ----------
    begin, end : int
        First byte, and the byte behind the last.
    track : int, optional
        Number of the track that the block belongs to.
    time : int
        Of the block, in the file's unit, which is that of a demuxer's timestamps.
    """

    begin: int
    end: int
    track: int | None = None
    time: int = 0


class _Element(NamedTuple):
    """The head of an element: its kind, where its content begins and ends (None: not told), and the first of it."""

    kind: int
    content: int
    end: int | None
    first: bytes


def is_cut_short(file: BinaryIO, size: int) -> bool:
    """Whether a file of ``size`` bytes ends before its segment does."""
    segment = _segment(file, size)
    return segment is not None and segment.end is not None and segment.end > size


def stretches(path: Path, heartbeat: Heartbeat) -> Iterator[Stretch]:
    """Yield the blocks of a file and its broken parts, in the order of the file.

    A broken part reaches from the first element that cannot be right to the next that a demuxer finds again; parts
    that touch are one. What is behind the segment is not looked at, and of a block no more than its head; blocks
    without content are left out.

    Parameters
    ----------
    path : Path
    heartbeat : callable
        Called often, as a sign of life.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    size = os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        segment = _segment(file, size)
        if segment is None:
            return
        end = size if segment.end is None else min(size, segment.end)
        broken: Stretch | None = None
        for part in _in_segment(file, segment.content, end, heartbeat):
            heartbeat()
            if part.track is None and broken is not None and part.begin == broken.end:
                broken = broken._replace(end=part.end)
                continue
            if broken is not None:
                yield broken
            broken = part if part.track is None else None
            if part.track is not None:
                yield part
        if broken is not None:
            yield broken


def _in_segment(file: BinaryIO, at: int, end: int, heartbeat: Heartbeat) -> Iterator[Stretch]:
    """Walk over the elements of a segment."""
    while at < end:
        element = _read(file, at)
        kind = None if element is None else element.kind
        if kind in _NEXT_FILE:
            return  # it has a separate clock, and demuxers do not read it
        if element is not None and kind == _CLUSTER:
            at = yield from _in_cluster(file, element, end, heartbeat)
        elif element is None or kind not in _IN_SEGMENT | _ANYWHERE or element.end is None or element.end > end:
            found = _next_cluster(file, at + 1, end, heartbeat)
            yield Stretch(at, found)
            at = found
        else:
            at = element.end


def _in_cluster(file: BinaryIO, cluster: _Element, end: int, heartbeat: Heartbeat) -> Generator[Stretch, None, int]:
    """Walk over the elements of a cluster; return where the next element of the segment begins."""
    at, stop, clock = cluster.content, cluster.end, 0
    if stop is not None and not _may_end(file, stop, end):
        stop = None  # its length is what is wrong, or the file is cut short: the blocks know better
    limit = end if stop is None else stop
    while at < limit:
        element = _read(file, at)
        if stop is None and element is not None and element.kind in _IN_SEGMENT | _NEXT_FILE:
            return at
        if element is None or element.end is None or element.end > limit:
            found = _next_cluster(file, at + 1, end, heartbeat) if stop is None else stop
            yield Stretch(at, found)
            return found
        if element.kind == _TIMESTAMP:
            clock = min(_LATEST, int.from_bytes(element.first[: min(8, element.end - element.content)], "big"))
        elif element.kind in (_SIMPLE_BLOCK, _GROUP):
            yield from _block(file, at, element, clock)
        elif element.kind not in _IN_CLUSTER:
            yield Stretch(at, element.end)  # its length fits: a demuxer goes over it
        at = element.end
    return at


def _block(file: BinaryIO, begin: int, element: _Element, clock: int) -> Iterator[Stretch]:
    """Yield the block of an element that begins at ``begin``, or what is broken; nothing if the block is empty."""
    inner, end = element, element.end or 0
    if element.kind == _GROUP:
        at = element.content
        while inner.kind != _BLOCK:
            found = _read(file, at) if at < end else None
            if found is None or found.end is None:
                yield Stretch(begin, end)
                return
            inner, at = found, found.end
    track = _number(inner.first, 0)
    if inner.end is None or inner.end > end or track is None or inner.content + track[1] + 3 > inner.end:
        yield Stretch(begin, end)
        return
    number, wide = track
    if inner.content + wide + 3 < inner.end:  # behind the number: time (two bytes), flags
        time = clock + int.from_bytes(inner.first[wide : wide + 2], "big", signed=True)
        yield Stretch(inner.content, inner.end, number, time)


def _may_end(file: BinaryIO, at: int, end: int) -> bool:
    """Whether an element of the segment may end here: with the segment, or where the next one begins."""
    element = _read(file, at) if at < end else None
    return at == end or (element is not None and element.kind in _IN_SEGMENT | _ANYWHERE | _NEXT_FILE)


def _next_cluster(file: BinaryIO, at: int, end: int, heartbeat: Heartbeat) -> int:
    """Return where the next cluster begins that has a known element as its first, or ``end``."""
    mark, amount = _CLUSTER.to_bytes(4, "big"), 4096
    while at < end:
        heartbeat()
        file.seek(at)
        data = file.read(min(amount, end - at))
        place = data.find(mark)
        while place >= 0:
            head = data[place : place + _HEAD]
            cluster = _element(head, at + place) if len(head) == _HEAD else _read(file, at + place)
            first = None if cluster is None else _element(cluster.first, cluster.content)
            if first is not None and first.kind in _IN_CLUSTER:
                return at + place
            place = data.find(mark, place + 1)
        if len(data) < len(mark):
            return end
        at, amount = at + len(data) - len(mark) + 1, _READ
    return end


def _segment(file: BinaryIO, size: int) -> _Element | None:
    """Find the segment of a file; None if it does not begin as such files do."""
    header = _read(file, 0)
    if header is None or header.kind != EBML_HEADER or header.end is None or header.end >= size:
        return None
    segment = _read(file, header.end)
    return segment if segment is not None and segment.kind == _SEGMENT else None


def _read(file: BinaryIO, at: int) -> _Element | None:
    """Read the head of the element at a place; None if there cannot be one."""
    file.seek(at)
    return _element(file.read(_HEAD), at)


def _element(head: bytes, at: int) -> _Element | None:
    """Make sense of the bytes at a place; None if they cannot be the head of an element."""
    if not head or head[0] < 0x10:  # kinds have at most four bytes
        return None
    width = 9 - head[0].bit_length()
    length = _number(head, width)
    if length is None:
        return None
    value, wide = length
    content = at + width + wide
    end = None if value == (1 << 7 * wide) - 1 else content + value
    return _Element(int.from_bytes(head[:width], "big"), content, end, head[width + wide :])


def _number(data: bytes, at: int) -> tuple[int, int] | None:
    """Read a number of variable length; return it and its width in bytes, or None if there cannot be one."""
    if len(data) <= at or not data[at]:
        return None
    wide = 9 - data[at].bit_length()
    if len(data) < at + wide:
        return None
    return int.from_bytes(data[at : at + wide], "big") & ((1 << 7 * wide) - 1), wide
