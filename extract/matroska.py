"""The structure of Matroska and WebM files: is the file whole, where are its blocks, and what of it is broken?

Demuxers pass over what they cannot make sense of, to the next cluster if need be, and report a normal end. The
structure tells where: every element states its length, and only a few kinds may stand in a cluster (RFC 8794, section
4; RFC 9559, section 5.1).
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

EBML_HEADER = 0x1A45DFA3
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_ANYWHERE = {0xEC, 0xBF}  # Void, CRC-32
# SeekHead, Info, Tracks, Cues, Chapters, Tags, Attachments, Cluster; and another segment, or file, joined on
_IN_SEGMENT = {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1043A770, 0x1254C367, 0x1941A469, _CLUSTER}
_NEXT_FILE = {_SEGMENT, EBML_HEADER}
_SIMPLE_BLOCK, _GROUP, _BLOCK = 0xA3, 0xA0, 0xA1  # a block stands for itself, or with notes in a group
# Timestamp, SilentTracks, Position, PrevSize, EncryptedBlock
_IN_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, 0xAF, _SIMPLE_BLOCK, _GROUP} | _ANYWHERE
_READ = 1 << 20  # bytes at a time, in the search for the next cluster


class Element(NamedTuple):
    """The head of an EBML element: its kind, where its content begins, and where it ends (None: not told)."""

    kind: int
    content: int
    end: int | None


def is_cut_short(file: BinaryIO, size: int) -> bool:
    """Whether a file of ``size`` bytes ends before its segment does."""
    segment = _segment(file, size)
    return segment is not None and segment.end is not None and segment.end > size


class Stretch(NamedTuple):
    """Some bytes of a file: a block's content, or (``track`` None) what cannot be told apart.

    Attributes
    ----------
    begin, end : int
        First byte, and the byte behind the last.
    track : int, optional
        Number of the track that the block belongs to.
    """

    begin: int
    end: int
    track: int | None


def stretches(path: Path) -> Iterator[Stretch]:
    """Yield the blocks of a file and its broken parts, in the order of the file.

    A broken part reaches from the first element that cannot be right to the next that a demuxer finds again. What
    is behind the segment is not looked at, and of a block no more than its head.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    size = os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        segment = _segment(file, size)
        if segment is not None:
            end = size if segment.end is None else min(size, segment.end)
            yield from _in_segment(file, segment.content, end)


def _in_segment(file: BinaryIO, at: int, end: int) -> Iterator[Stretch]:
    """Walk over the elements of a segment."""
    while at < end:
        element = _read(file, at)
        kind = None if element is None else element.kind
        if kind in _NEXT_FILE:
            return  # it has a clock of its own, and demuxers do not read it
        if element is not None and kind == _CLUSTER:
            at = yield from _in_cluster(file, element, end)
        elif element is None or kind not in _IN_SEGMENT | _ANYWHERE or element.end is None or element.end > end:
            found = _next_cluster(file, at + 1, end)
            yield Stretch(at, found, None)
            at = found
        else:
            at = element.end


def _in_cluster(file: BinaryIO, cluster: Element, end: int) -> Generator[Stretch, None, int]:
    """Walk over the elements of a cluster; return where the next element of the segment begins."""
    at, stop = cluster.content, cluster.end
    if stop is not None and not _may_end(file, stop, end):
        stop = None  # its length is what is wrong, or the file is cut short: the blocks know better
    limit = end if stop is None else stop
    while at < limit:
        element = _read(file, at)
        if stop is None and element is not None and element.kind in _IN_SEGMENT | _NEXT_FILE:
            return at
        if element is None or element.end is None or element.end > limit:
            found = _next_cluster(file, at + 1, end) if stop is None else stop
            yield Stretch(at, found, None)
            return found
        if element.kind not in _IN_CLUSTER:
            yield Stretch(at, element.end, None)  # its length fits: a demuxer goes over it
        elif element.kind in (_SIMPLE_BLOCK, _GROUP):
            block = _block(file, element)
            yield Stretch(at, element.end, None) if block is None else block
        at = element.end
    return at


def _block(file: BinaryIO, element: Element) -> Stretch | None:
    """Find the block of an element of a cluster, and its track; None where there is none."""
    inner: Element | None = element
    if element.kind == _GROUP:
        inner = _read(file, element.content)
        while inner is not None and inner.kind != _BLOCK and inner.end is not None and inner.end < (element.end or 0):
            inner = _read(file, inner.end)
        if inner is None or inner.kind != _BLOCK:
            return None
    if inner is None or inner.end is None or inner.end > (element.end or 0):
        return None
    file.seek(inner.content)
    track = _number(file.read(8), 0)
    return None if track is None else Stretch(inner.content, inner.end, track[0])


def _may_end(file: BinaryIO, at: int, end: int) -> bool:
    """Whether an element of the segment may end here: with the segment, or where the next one begins."""
    element = _read(file, at) if at < end else None
    return at == end or (element is not None and element.kind in _IN_SEGMENT | _ANYWHERE | _NEXT_FILE)


def _next_cluster(file: BinaryIO, at: int, end: int) -> int:
    """Return where the next cluster begins that has a known element as its first, or ``end``."""
    mark = _CLUSTER.to_bytes(4, "big")
    while at < end:
        file.seek(at)
        data = file.read(min(_READ, end - at))
        place = data.find(mark)
        if place < 0:
            at += max(1, len(data) - len(mark) + 1)
            continue
        cluster = _read(file, at + place)
        first = None if cluster is None else _read(file, cluster.content)
        if first is not None and first.kind in _IN_CLUSTER:
            return at + place
        at += place + 1
    return end


def _segment(file: BinaryIO, size: int) -> Element | None:
    """Find the segment of a file; None if it does not begin as such files do."""
    header = _read(file, 0)
    if header is None or header.kind != EBML_HEADER or header.end is None or header.end >= size:
        return None
    segment = _read(file, header.end)
    return segment if segment is not None and segment.kind == _SEGMENT else None


def _read(file: BinaryIO, at: int) -> Element | None:
    """Read the head of the element at a place; None if there cannot be one."""
    file.seek(at)
    head = file.read(12)
    if not head or head[0] < 0x10:  # kinds have at most four bytes
        return None
    width = 9 - head[0].bit_length()
    length = _number(head, width)
    if length is None:
        return None
    value, wide = length
    content = at + width + wide
    end = None if value == (1 << 7 * wide) - 1 else content + value
    return Element(int.from_bytes(head[:width], "big"), content, end)


def _number(data: bytes, at: int) -> tuple[int, int] | None:
    """Read a number of variable length; return it and its width in bytes, or None if there cannot be one."""
    if len(data) <= at or not data[at]:
        return None
    wide = 9 - data[at].bit_length()
    if len(data) < at + wide:
        return None
    return int.from_bytes(data[at : at + wide], "big") & ((1 << 7 * wide) - 1), wide
