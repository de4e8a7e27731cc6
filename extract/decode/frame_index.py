"""When each frame of a video file is shown, read from its packets without decoding.

Reading packets costs a few per cent of decoding them. It buys an exact plan before the first frame is decoded:
the video's true length (headers lie), the frame numbers of windows, the key frames worth seeking to, and how many
frames a cut file has lost.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from supportset.extract.decode.damage.lost_frames import find_lost
from supportset.extract.decode.damage.truncation import is_cut_short
from supportset.extract.decode.timeline import MAY_JUMP, FrameClock, decode_packet, nominal_duration, read_packets
from supportset.extract.outcome import DecodeError
from supportset.store.format.status import MISSING, NO_VIDEO, UNREADABLE

Heartbeat = Callable[[], None]
_LAST = 3  # packets: what is corrupt among these has no end; the decoding pass reports earlier corrupt packets
_WRONG = Fraction(10)  # seconds behind the stated end, and twice the stated length
_MATROSKA = "matroska,webm"
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_SEEKABLE = ("mov,mp4", _MATROSKA)  # demuxers with trustworthy timestamps and an index of key frames


@dataclass(frozen=True)
class FrameIndex:
    """The frames of one video stream in the order they are shown.

    Attributes
    ----------
    ticks : (n,) int64
        Presentation times, ascending, in units of ``time_base``.
    end : int
        When the last frame's time is over, in the same unit.
    time_base : Fraction
        Seconds of one tick.
    keys : (k,) int64
        Presentation time of each key frame, ascending; empty where seeking is not safe.
    timed : bool
        False if the file has no timestamps: frames are then counted.
    cut : bool
        The file is shorter than its container says.
    lost : int
        Frames that the header of a cut file promises beyond those found; not every header tells.
    stream : int
        The video stream's number among all streams of the file.
    gone : (g,) int64
        When frames would have been shown that a demuxer passed over, ascending, in ticks.
    """

    ticks: np.ndarray
    end: int
    time_base: Fraction
    keys: np.ndarray
    timed: bool
    cut: bool
    lost: int
    stream: int
    gone: np.ndarray

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last."""
        return (self.end - int(self.ticks[0])) * self.time_base

    def tick_at(self, seconds: Fraction) -> int:
        """Return the first tick that is not before ``seconds`` from the first frame."""
        return int(self.ticks[0]) - int(-seconds / self.time_base // 1)  # minus the floor of minus: rounded up

    def shown_before(self, tick: int) -> int:
        """Return the number of the last frame with a time smaller than ``tick``; -1 if there is none."""
        return int(np.searchsorted(self.ticks, tick, side="left")) - 1

    def gone_between(self, begin: int, end: int | None) -> int:
        """Return how many frames a demuxer passed over in a stretch of ticks, or from one on.

        Those before the first frame count everywhere: the times of clips count from that frame, so they all show
        something else.
        """
        inside = (self.gone >= begin) & ((self.gone < end) if end is not None else True)
        return int((inside | (self.gone < self.ticks[0])).sum())


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file with PyAV and yield (container, video stream), set up for one decoding thread.

    With a single thread a truncated stream raises; with several it ends quietly.

    Raises
    ------
    DecodeError
        ``missing``, ``unreadable`` or ``no_video``.
    """
    try:
        # `file:` and the whitelist keep odd names and playlist files from being taken for addresses.
        container = av.open(
            f"file:{path.absolute()}", container_options={"protocol_whitelist": "file"}, metadata_errors="ignore"
        )
    except FileNotFoundError as error:
        raise DecodeError(MISSING, "the file is not there any more") from error
    except PermissionError as error:
        raise DecodeError(UNREADABLE, "no permission to read the file") from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DecodeError(UNREADABLE, _why_unreadable(path, error)) from error
    with container:
        stream = _video_stream(container)
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        if stream.codec_context.name == "mjpeg":  # it marks no frame as corrupt, but can be told to refuse
            stream.codec_context.options = {"err_detect": "explode"}
        yield container, stream


def read_index(path: Path, heartbeat: Heartbeat) -> FrameIndex:
    """Read the times of all frames of a video.

    Parameters
    ----------
    path : Path
        The video file.
    heartbeat : callable
        Called for every packet, as a sign of life.

    Raises
    ------
    DecodeError
        ``missing``, ``unreadable`` (also where there are no packets at all) or ``no_video``.
    """
    ticks, ends, keys, broken, timed = array("q"), array("q"), array("q"), False, True
    corrupt, decoded, places = -_LAST, None, set[int]()
    with open_video(path) as (container, stream):
        base, nominal, place = stream.time_base, nominal_duration(stream), stream.index
        matroska = container.format.name.startswith(_MATROSKA)
        try:
            for packet in read_packets(container, stream):
                heartbeat()
                if matroska:
                    places.add(packet.pos or 0)
                if not packet.size or packet.is_discard:
                    continue
                if packet.is_corrupt:
                    corrupt = len(ticks)
                decoded = packet.dts
                if packet.pts is None:
                    timed = False
                    break
                ticks.append(packet.pts)
                ends.append(packet.pts + (packet.duration or nominal))
                if packet.is_keyframe:
                    keys.append(packet.pts)
        except (av.error.FFmpegError, OSError):
            broken = True
        jumps, seekable = container.format.name in MAY_JUMP, container.format.name.startswith(_SEEKABLE)
        declared = _declared_end(container, stream)
        counted = stream.frames if container.format.name == "avi" else 0
    if not timed:
        ticks = _count_frames(path, heartbeat)
        ends = array("q", [tick + nominal for tick in ticks[-1:]])
    if not len(ticks):
        raise DecodeError(UNREADABLE, "the video stream holds no frame")
    found = np.unique(np.frombuffer(ticks, np.int64))
    if jumps:  # its clock may be set anew, and FFmpeg's guess is wrong then: the decoding times are the second opinion
        declared = None if decoded is None else max(Fraction(0), (decoded + nominal - int(found[0])) * base)
    if timed:
        found = _without_wrong_times(found, base, declared)
    end = ends[int(np.argmax(np.frombuffer(ticks, np.int64) == found[-1])) if timed else 0]
    missing = _missing_frames(found, end, base, declared, counted - len(ticks))
    broken |= corrupt + _LAST > len(ticks)
    cut = broken or is_cut_short(path) or counted - len(ticks) > max(2, counted // 50)
    seekable_to = np.sort(np.array(keys, np.int64)) if seekable and timed else np.empty(0, np.int64)
    gone = np.empty(0, np.int64)
    if matroska and timed:
        length = None if cut or declared is None else int(declared / base)
        with suppress(OSError):  # the decoding pass will see to it
            gone = find_lost(path, places, found, end, length, heartbeat)
    return FrameIndex(found, end, base, seekable_to, timed, cut, missing if cut else 0, place, gone)


def _count_frames(path: Path, heartbeat: Heartbeat) -> array[int]:
    """Decode a file without timestamps (a raw stream) once, to know its frames."""
    ticks = array("q")
    with open_video(path) as (container, stream):
        clock = FrameClock(stream)
        try:
            for packet in read_packets(container, stream):
                for frame in decode_packet(packet) or ():
                    heartbeat()
                    ticks.append(clock.time(frame))
        except OSError:
            pass  # what was read so far counts; the decoding pass ends at the same place
    return ticks


def _video_stream(container: Any) -> Any:
    covers = av.stream.Disposition.attached_pic
    videos = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not videos:
        kinds = sorted({stream.type for stream in container.streams})
        if not kinds or kinds == ["subtitle"]:
            raise DecodeError(UNREADABLE, "the file is text, not a video or an image")
        raise DecodeError(NO_VIDEO, f"the file holds {' and '.join(kinds) or 'nothing'}, but no video stream")
    if videos[0].codec_context is None:
        raise DecodeError(UNREADABLE, "no decoder for the video's codec")
    return videos[0]


def _declared_end(container: Any, stream: Any) -> Fraction | None:
    """Seconds the header says the video lasts; None if it does not say."""
    if stream.duration:
        return Fraction(stream.duration) * stream.time_base
    tag = _CLOCK.fullmatch(stream.metadata.get("DURATION", ""))  # Matroska's; the container's own is of all tracks
    if tag:
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3])
    return Fraction(container.duration, av.time_base) if container.duration else None


def _without_wrong_times(ticks: np.ndarray, base: Fraction, declared: Fraction | None) -> np.ndarray:
    """Leave out a few times far behind the end that the header states: flipped bits, not frames."""
    if declared is None:
        return ticks
    right = ticks <= int(ticks[0]) + int((declared + max(declared, _WRONG)) / base)
    wrong = len(ticks) - int(right.sum())
    return ticks[right] if wrong <= max(2, len(ticks) // 100) else ticks


def _missing_frames(ticks: np.ndarray, end: int, base: Fraction, declared: Fraction | None, counted: int) -> int:
    """Frames promised by the header (by count, or by length at the mean rate found) and not there."""
    found = (end - int(ticks[0])) * base
    short = 0
    if declared is not None and declared > found > 0:
        short = round((declared - found) / found * len(ticks))
    return max(0, counted, short)


def _why_unreadable(path: Path, error: Exception) -> str:
    try:
        if path.is_dir():
            return "a folder, not a file"
        if not path.stat().st_size:
            return "the file is empty (0 bytes)"
        if is_cut_short(path):
            return "the file is cut short, before what is needed to read any of it: copy or download it again"
    except OSError:
        pass  # the first error says enough
    reason = getattr(error, "strerror", None) or str(error)
    return f"not a video or an image that FFmpeg can read ({reason})"
