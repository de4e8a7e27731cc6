"""Truncation: is a media file as long as its structure says?

Demuxers read a file that was cut short to its last complete packet and then report a normal end. The container formats
say more: MP4 boxes, AVI chunks and Matroska segments state their size, transport streams have packets of one size, and
a GIF ends with a trailer. Bytes behind the end, and a last part that holds no frames, do no harm.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from supportset.extract.decode.damage import gif, matroska

_MP4_BOXES = set(b"ftyp moov mdat free skip wide moof mfra sidx styp uuid meta".split())
_WITH_FRAMES = {b"moov", b"mdat", b"moof", b"LIST"}
_MOOF, _FRAGMENTS = 256, 2**26  # bytes in which a fragment names its track, and in which one is looked for
_TS_PACKET = 188
_TS_TAIL = 20_000  # packets at the end, to look for one of the same stream


def is_cut_short(path: Path) -> bool:
    """Whether the file ends before its container does (MP4/MOV, AVI, Matroska/WebM, MPEG-TS, GIF).

    Other formats carry no such mark and are never reported here.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(12)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return any(end > size and kind in _WITH_FRAMES for kind, end in _boxes(file, size))
        if head[:4] == matroska.EBML_HEADER.to_bytes(4, "big"):
            return matroska.is_cut_short(file, size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return _avi_is_cut(file, size, int.from_bytes(head[4:8], "little"))
        if head[:3] == b"GIF":
            return not _gif_is_complete(file)
        if head[:1] == b"G":
            return _ts_is_cut(file, size)
    return False


def has_fragment_behind(path: Path, position: int, track: int) -> bool:
    """Whether an MP4 file has a fragment of a track after a byte: a demuxer may end before it, at a damaged one.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    with open(path, "rb") as file:
        file.seek(position)
        content = file.read(_FRAGMENTS)
    at = content.find(b"moof")
    while at >= 0:
        head = content.find(b"tfhd", at, at + _MOOF)
        if head >= 0 and int.from_bytes(content[head + 8 : head + 12], "big") == track:
            return True
        at = content.find(b"moof", at + 1)
    return False


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Yield kind and end of the boxes of an MP4 file, up to the first that is none."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if kind not in _MP4_BOXES or length < 8:  # something appended behind the film; or 0: the box ends with the file
            return
        position += length
        yield kind, position


def _avi_is_cut(file: BinaryIO, size: int, stated: int) -> bool:
    position, kind = 12, b""
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        length, kind = int.from_bytes(header[4:], "little"), header[:4]
        if position + 8 + length > size:
            return kind in _WITH_FRAMES and stated + 1 < 2**32 and stated + 8 > size  # all ones, 0: never filled in
        position += 8 + length + length % 2
    return kind != b"idx1" and size < 8 + stated < 2**32


def _ts_is_cut(file: BinaryIO, size: int) -> bool:
    """Whether the last packet is a part of one that continues its stream; other bytes are no part of the recording."""
    file.seek(_TS_PACKET)
    if file.read(1) != b"G" or not size % _TS_PACKET:
        return False
    end = size - size % _TS_PACKET
    begin = max(0, end - _TS_TAIL * _TS_PACKET)
    file.seek(begin)
    data = file.read()
    rest = data[end - begin :]
    if rest[:1] != b"G" or len(rest) < 4:
        return rest[:1] == b"G"
    for at in range(end - begin - _TS_PACKET, -1, -_TS_PACKET):
        if data[at + 1] & 0x1F == rest[1] & 0x1F and data[at + 2] == rest[2]:
            return rest[3] & 15 in (data[at + 3] & 15, (data[at + 3] + 1) & 15)
    return True


def _gif_is_complete(file: BinaryIO) -> bool:
    """Walk over the blocks of a GIF; whether its trailer comes."""
    file.seek(10)
    file.seek(13 + gif.colours(file.read(1)))
    while kind := file.read(1):
        if kind == b";":
            return True
        if kind == b",":
            file.seek(gif.colours(file.read(9)[8:]) + 1, os.SEEK_CUR)  # and the size of codes
        elif kind == b"!":
            file.seek(1, os.SEEK_CUR)
        elif kind != b"\0":
            return False
        while kind in b",!" and (length := file.read(1)) and length[0]:
            file.seek(length[0], os.SEEK_CUR)
    return False
