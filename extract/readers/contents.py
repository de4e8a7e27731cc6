"""What a file is by its first bytes, where its extension does not say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

_HEAD = 600  # bytes: three packets of a transport stream, with timestamps before each

_IMAGES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|II\*\0|MM\0\*|RIFF....WEBP|P[1-6]\s"  # JPEG, PNG, TIFF, WebP, PNM
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|....ftyp(?:avif|heic|heix|heim|heis|mif1)",  # JPEG 2000, HEIF
    re.DOTALL,
)
_VIDEOS = re.compile(
    rb"....(?:ftyp(?!M4A |M4B |crx )|moov|mdat|wide)|\x1a\x45\xdf\xa3|RIFF....AVI |FLV\x01|\.RMF|GIF8[79]a"
    rb"|\x30\x26\xb2\x75\x8e\x66\xcf\x11|\x06\x0e\x2b\x34|DKIF|YUV4MPEG2|OggS.{24,60}(?:theora|\x80video)"
    rb"|\x47.{187}\x47.{187}\x47|.{4}\x47.{191}\x47.{191}\x47"  # transport streams, without and with timestamps
    rb"|\0\0\x01[\xba\xb3\xb0]"  # MPEG program stream, MPEG-1 or 2, MPEG-4
    rb"|\0?\0\0\x01(?:[\x27\x47\x67]|\x06[\0-\x06]|\x09[\x10\x30\x50\x70\x90\xb0\xd0\xf0])"  # raw H.264
    rb"|\0?\0\0\x01[\x40\x42\x46\x4e]\x01"  # raw HEVC
    rb"|\x12\0\x0a[\x0a-\x0f]",  # raw AV1
    re.DOTALL,
)


def kind_of(path: Path) -> Literal["image", "video"] | None:
    """Tell images and videos by their first bytes; None for anything else and for what cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    if _IMAGES.match(head) or (head[:2] == b"BM" and int.from_bytes(head[2:6], "little") == path.stat().st_size):
        return "image"
    return "video" if _VIDEOS.match(head) else None
