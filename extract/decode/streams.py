"""Open a video file with PyAV, and choose the stream that is the film."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import av
import av.error

from supportset.extract.decode.damage.truncation import is_cut_short
from supportset.extract.outcome import DecodeError
from supportset.store.format.status import MISSING, NO_VIDEO, UNREADABLE

MOST_PIXELS = 2**26  # of a frame: 8K has half as many; a header that states more would take gigabytes
_LISTS = (b"#EXTM3U", b"ffconcat ")  # how a text that names other files begins
# They open what a file names, on this machine or elsewhere; `tty` shows a text as a film.
_REFUSED_FORMATS = {
    "concat", "dash", "fbdev", "hls", "imf", "kmsgrab", "lavfi", "rtp", "rtsp", "sdp", "tty", "video4linux2", "vobsub",
    "webm_dash_manifest", "x11grab", "xcbgrab",
}  # fmt: skip
_OTHER = ("attached_pic", "timed_thumbnails", "dependent")  # dispositions of streams that are no film


@contextmanager
def open_video(path: Path, number: int | None = None, **options: str) -> Iterator[tuple[Any, Any]]:
    """Open a file with PyAV and yield (container, video stream), set up for one decoding thread.

    With a single thread a truncated stream raises; with several it ends quietly.

    Parameters
    ----------
    path : Path
    number : int, optional
        The stream's number in the file; default: the film, see :func:`_film`.
    **options : str
        For the demuxer.

    Raises
    ------
    DecodeError
        ``missing``, ``unreadable`` or ``no_video``.
    """
    with _opened(path, **options) as container:
        stream = _film(path, container) if number is None else container.streams[number]
        context = stream.codec_context
        if context.width * context.height > MOST_PIXELS:
            size = f"{context.width:,} x {context.height:,} pixels"
            raise DecodeError(UNREADABLE, f"frames of {size}: more than {MOST_PIXELS:,} are not decoded")
        stream.thread_type = "NONE"
        context.flags |= av.codec.context.Flags.unaligned  # crop as the stream states, to the pixel
        context.thread_count = 1
        context.options = {"max_pixels": str(MOST_PIXELS)}
        if context.name == "mjpeg":  # it marks no frame as corrupt, but can be told to refuse
            context.options |= {"err_detect": "explode"}
        yield container, stream


@contextmanager
def _opened(path: Path, **options: str) -> Iterator[Any]:
    try:
        # `file:` and the whitelist keep odd names and playlist files from being taken for addresses.
        container = av.open(
            f"file:{path.absolute()}",
            container_options={"protocol_whitelist": "file"},
            options={"max_pixels": str(MOST_PIXELS), "format_whitelist": _formats(), **options},
            metadata_errors="ignore",
        )
    except FileNotFoundError as error:
        raise DecodeError(MISSING, "the file is not there any more") from error
    except PermissionError as error:
        raise DecodeError(UNREADABLE, "no permission to read the file") from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DecodeError(UNREADABLE, _why_unreadable(path, error)) from error
    with container:
        yield container


@cache
def _formats() -> str:
    """The formats that a file may have: those that hold the film themselves."""
    return ",".join(sorted(av.formats_available - _REFUSED_FORMATS))


def _film(path: Path, container: Any) -> Any:
    """Choose a video stream: one that moves, then one marked as default, then the largest, as ffmpeg does."""
    videos = [stream for stream in container.streams.video if not _is_other(stream)]
    if not videos:
        kinds = sorted({stream.type for stream in container.streams})
        if not kinds or kinds == ["subtitle"]:
            raise DecodeError(UNREADABLE, "the file is text, not a video or an image")
        raise DecodeError(NO_VIDEO, f"the file holds {' and '.join(kinds) or 'nothing'}, but no video stream")
    decodable = [stream for stream in videos if stream.codec_context is not None]
    if not decodable:
        raise DecodeError(UNREADABLE, "no decoder for the video's codec")
    if len(decodable) == 1:
        return decodable[0]
    moving = _moving(path, {stream.index for stream in decodable})

    def rank(stream: Any) -> tuple[bool, bool, int]:
        default = bool(stream.disposition & av.stream.Disposition.default)
        return stream.index in moving, default, stream.codec_context.width * stream.codec_context.height

    return max(decodable, key=rank)


def _is_other(stream: Any) -> bool:
    return any(stream.disposition & av.stream.Disposition[name] for name in _OTHER)


def _moving(path: Path, numbers: set[int]) -> set[int]:
    """Which of the streams have more than one frame."""
    packets: Counter[int] = Counter()
    with _opened(path) as container, suppress(av.error.FFmpegError, OSError):
        for packet in container.demux([container.streams[number] for number in sorted(numbers)]):
            packets[packet.stream_index] += bool(packet.size)
            if all(packets[number] > 1 for number in numbers):
                break
    return {number for number in numbers if packets[number] > 1}


def _why_unreadable(path: Path, error: Exception) -> str:
    try:
        if path.is_dir():
            return "a folder, not a file"
        if not path.stat().st_size:
            return "the file is empty (0 bytes)"
        with path.open("rb") as file:
            if file.read(16).startswith(_LISTS):
                return "a list of other files, not a video: name the files in it"
        if is_cut_short(path):
            return "the file is cut short, before what is needed to read any of it: copy or download it again"
    except OSError:
        pass  # the first error says enough
    reason = getattr(error, "strerror", None) or str(error)
    return f"not a video or an image that FFmpeg can read ({reason})"
