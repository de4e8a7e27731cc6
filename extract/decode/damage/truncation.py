"""Truncation: is a media file as long as its structure says?

Demuxers read a file that was cut short to its last complete packet and then report a normal end. The container formats
say more: MP4 boxes, AVI's RIFF and Matroska segments state their size, transport streams have packets of one size, and
a GIF ends with a trailer.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from supportset.extract.decode.damage import matroska

_MP4_BOXES = set(b"ftyp moov mdat free skip wide moof mfra sidx styp uuid meta".split())


def is_cut_short(path: Path) -> bool:
    """Whether the file ends before its container does (MP4/MOV, AVI, Matroska/WebM, MPEG-TS, GIF).

    Other formats carry no such mark and are never reported here.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _mp4_is_cut(file, size)
        if head[:4] == matroska.EBML_HEADER.to_bytes(4, "big"):
            return matroska.is_cut_short(file, size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return size < 8 + int.from_bytes(head[4:8], "little") < 2**32  # all ones: never filled in
        if head[:1] == b"G" and head[:3] != b"GIF":
            file.seek(188)
            return file.read(1) == b"G" and size % 188 != 0
        if head[:3] == b"GIF":
            file.seek(max(0, size - 64))
            return not file.read().rstrip(b"\0\r\n").endswith(b";")
    return False


def _mp4_is_cut(file: BinaryIO, size: int) -> bool:
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if kind not in _MP4_BOXES:
            return False  # something appended behind the film: no harm to it
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:
            return False  # 0: the box reaches to the end of the file
        position += length
    return position > size
