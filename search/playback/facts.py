"""What a media file is, and whether browsers play it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import av.error

from supportset.extract.decode.images import is_image
from supportset.extract.decode.streams import open_video

How = Literal["as it is", "copied", "converted"]

# What Chromium, Firefox and Safari all play
_VIDEO = {"h264": {"yuv420p", "yuvj420p"}, "vp8": {"yuv420p"}, "vp9": {"yuv420p"}, "av1": {"yuv420p", "yuv420p10le"}}
_IN_WEBM = ({"vp8", "vp9", "av1"}, {"opus", "vorbis", None})
_IN_MP4 = ({"h264", "vp9", "av1"}, {"aac", "mp3", "opus", "flac", None})
_COPIED_FROM = ("matroska,webm", "mov,mp4", "flv", "mpegts")  # containers with times for each frame
PICTURES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif", "avif": "image/avif"}
_HEAD = 64  # bytes in which a WebM file says that it is one


@dataclass(frozen=True)
class Facts:
    """What was found in a file.

    Attributes
    ----------
    kind : {"video", "image"}
    media_type : str
        Of the file as it is.
    how : {"as it is", "copied", "converted"}
        What browsers need.
    duration_s : float or None
        From the first frame; None: not known.
    """

    kind: Literal["video", "image"]
    media_type: str
    how: How
    duration_s: float | None = None


def read_facts(path: Path) -> Facts:
    """Look into a file.

    Raises
    ------
    DecodeError
        It is no image, and no video that FFmpeg opens.
    """
    head = path.open("rb").read(_HEAD)
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return Facts("image", PICTURES["gif"], "as it is")
    if is_image(path):
        media_type = PICTURES.get(_picture_format(head))
        return Facts("image", media_type or "image/jpeg", "as it is" if media_type else "converted")
    with open_video(path) as (container, stream):
        name, video = container.format.name, stream.codec_context
        audio = container.streams.best("audio")
        sound = None if audio is None or audio.codec_context is None else audio.codec_context.name.removesuffix("float")
        duration = stream.duration * stream.time_base if stream.duration else None
        if duration is None and container.duration:
            duration = container.duration / av.time_base
        webm = b"webm" in head
        shown = video.pix_fmt in _VIDEO.get(video.codec.canonical_name, ())
        videos, sounds = _IN_WEBM if webm else _IN_MP4
        how: How = "converted"
        if shown and (webm or name.startswith("mov,mp4")) and video.codec.canonical_name in videos and sound in sounds:
            how = "as it is"
        elif shown and name.startswith(_COPIED_FROM) and video.codec.canonical_name in _IN_MP4[0]:
            how = "copied"
        return Facts("video", "video/webm" if webm else "video/mp4", how, None if duration is None else float(duration))


def _picture_format(head: bytes) -> str:
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG"):
        return "png"
    if head[8:12] == b"WEBP":
        return "webp"
    return "avif" if head[4:12] == b"ftypavif" else ""
