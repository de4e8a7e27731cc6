"""When each frame of a video file is shown, read from its packets; only the first few are decoded.

Reading packets costs a few per cent of decoding them. It gives an exact plan before decoding: the video's true length
(headers lie), the frame numbers of windows, the key frames that are safe to seek to, and how many frames a cut file has
lost.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from supportset.extract.decode.beginning import Beginning
from supportset.extract.decode.damage.lost_frames import find_lost
from supportset.extract.decode.damage.truncation import has_fragment_behind, is_cut_short
from supportset.extract.decode.damage.wrong_times import find_faults
from supportset.extract.decode.parameter_sets import ParameterSets
from supportset.extract.decode.pictures import lasting_matrix
from supportset.extract.decode.streams import open_video
from supportset.extract.decode.timeline import MAY_JUMP, FrameClock, Timing, nominal_duration, read_packets
from supportset.extract.outcome import DecodeError
from supportset.store.format.status import UNREADABLE

Heartbeat = Callable[[], None]
_LAST = 3  # packets: what is corrupt among these has no end; the decoding pass sees what is corrupt before
_WRONG = Fraction(10)  # seconds behind the stated end, and twice the stated length
_MATROSKA, _MP4 = "matroska,webm", "mov,mp4"
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_CROWD = 4  # frames a time: these are no times
_SEEKABLE = (_MP4, _MATROSKA)  # demuxers with trustworthy timestamps and an index of key frames


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
    timing : Timing
        Where the times come from.
    cut : bool
        The file is shorter than its container says.
    lost : int
        Frames that the header of a cut file promises beyond those found; not every header tells.
    stream : int
        The video stream's number among all streams of the file.
    gone : (g,) int64
        When frames would have been shown that a demuxer passed over, ascending, in ticks.
    note : str
        A remark on all clips of the file; mostly empty.
    fault : str
        What is wrong with all clips of the file; mostly empty.
    matrix : (9,) int32 or None
        Display matrix of the first frame, where it holds for all.
    """

    ticks: np.ndarray
    end: int
    time_base: Fraction
    keys: np.ndarray
    timing: Timing
    cut: bool
    lost: int
    stream: int
    gone: np.ndarray
    note: str = ""
    fault: str = ""
    matrix: np.ndarray | None = None

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


def read_index(path: Path, heartbeat: Heartbeat) -> FrameIndex:
    """Read the times of all frames of a video.

    Parameters
    ----------
    path : Path
        The video file.
    heartbeat : callable
        Called for every packet.

    Raises
    ------
    DecodeError
        ``missing``, ``unreadable`` (also where there are no packets at all) or ``no_video``.
    """
    read = _Packets.read(path, heartbeat)
    base, nominal, declared, timing = read.base, read.nominal, read.declared, read.timing
    times, spans = np.frombuffer(read.times, np.int64), np.frombuffer(read.lengths, np.int64)
    note, gone, matrix = "", np.empty(0, np.int64), read.beginning.matrix
    fault = "its times contradict each other" if read.contradict else ""
    if read.kind.startswith(_MP4) and timing == Timing.TIMES and 0 < len(times) == len(read.decoded):
        stated = int(declared / base) if declared is not None and read.frames == len(times) else None
        decoded, fragmented = np.frombuffer(read.decoded, np.int64), not read.frames
        wrong, gone, stretched = find_faults(times, decoded, spans, nominal, stated, fragmented=fragmented)
        fault = "its times contradict the length that it states" if stretched else fault
        times, spans = times[~wrong], spans[~wrong]
    found = np.unique(times)
    if timing != Timing.COUNT and 1 <= len(found) * _CROWD <= len(times):
        timing, note = Timing.COUNT, "no usable timestamps: frames are counted at the stated rate"
    if timing == Timing.COUNT:
        counted, nominal, matrix = _count_frames(path, read.number, heartbeat)
        times = np.frombuffer(counted, np.int64)
        spans, found, gone = np.full(len(times), nominal), np.unique(times), gone[:0]
    if not len(found):
        raise DecodeError(UNREADABLE, "the video stream holds no frame")
    if read.kind in MAY_JUMP:  # its clock may jump, and FFmpeg then guesses a wrong length
        declared = max(Fraction(0), (read.decoded[-1] + nominal - int(found[0])) * base) if read.decoded else None
    if timing != Timing.COUNT:
        found = _without_wrong_times(found, base, declared)
    end = int(found[-1] + spans[np.argmax(times == found[-1])])
    cut = read.is_cut or is_cut_short(path) or read.short > max(2, (read.short + len(found)) // 50)
    # The table counts those, too, that are missing between frames that are there
    missing = _missing_frames(found, end, base, declared, read.short - len(gone)) if cut else 0
    if read.kind.startswith(_MATROSKA) and timing != Timing.COUNT:
        length = None if cut or declared is None else int(declared / base)
        with suppress(OSError):  # the decoding pass meets the same error
            gone = find_lost(path, read.places, found, end, length, heartbeat)
    if timing == Timing.TIMES and read.beginning.undecodable is not None:
        decodable = found[found >= read.beginning.undecodable]
        if 0 < len(decodable) < len(found):
            before, found = len(found) - len(decodable), decodable
            note = f"begins inside a group of pictures: its first {before} frames cannot be decoded, and do not count"
    safe = read.kind.startswith(_SEEKABLE) and timing == Timing.TIMES and read.beginning.seekable
    keys = np.sort(np.array(read.keys if safe else [], np.int64))
    keys = keys[keys >= found[0]]
    return FrameIndex(found, end, base, keys, timing, cut, missing, read.number, gone, note, fault, matrix)


@dataclass
class _Packets:
    """What the packets of a stream say; times in ticks, in the order of decoding."""

    kind: str  # FFmpeg's name of the container
    number: int  # of the stream
    base: Fraction
    nominal: int
    beginning: Beginning
    timing: Timing = Timing.TIMES
    times: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    decoded: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("q"))
    places: set[int] = field(default_factory=set)  # first bytes of the packets of a Matroska file
    frames: int = 0  # as the file states, 0 if it does not
    declared: Fraction | None = None  # seconds
    short: int = 0  # frames that an AVI or MP4 file states and does not have
    contradict: bool = False  # the times of an MP4 file, or those of frames that its edit list leaves out
    is_cut: bool = False  # the file ends inside a packet, with an error, or before fragments that are there

    @classmethod
    def read(cls, path: Path, heartbeat: Heartbeat) -> _Packets:
        with open_video(path) as (container, stream):
            kind, corrupt, position = container.format.name, -_LAST, 0
            read = cls(kind, stream.index, stream.time_base, nominal_duration(stream), Beginning(stream))
            matroska, sets = kind.startswith(_MATROSKA), ParameterSets(stream)
            try:
                for packet in read_packets(container, stream):
                    heartbeat()
                    read.beginning.packet(packet)
                    if matroska:
                        read.places.add(packet.pos or 0)
                    if not packet.size or packet.is_discard:
                        continue
                    corrupt = len(read.times) if packet.is_corrupt else corrupt
                    position = max(position, packet.pos or 0)
                    if packet.dts is not None:
                        read.decoded.append(packet.dts)
                    if packet.pts is None:
                        read.timing = Timing.COUNT
                        break
                    read.times.append(packet.pts)
                    read.lengths.append(packet.duration or read.nominal)
                    if packet.is_keyframe and sets.are_known_at(packet):
                        read.keys.append(packet.pts)
            except (av.error.FFmpegError, OSError):
                read.is_cut = True
            read.is_cut |= corrupt + _LAST > len(read.times)
            if kind.startswith(_MP4):
                read.is_cut |= has_fragment_behind(path, position, stream.id)
            read.frames, read.declared = stream.frames, _declared_end(container, stream)
            if kind.startswith(_MP4) and 0 < len(read.times) != read.frames > 0:
                read.short, read.contradict = _look_behind_edits(path, stream.index, read.frames)
            if kind == "avi" and read.frames and read.decoded:
                read.short = read.frames - 1 - read.decoded[-1]  # empty chunks count: they repeat a frame
            guessed = read.beginning.out_of_order or (kind == "avi" and stream.codec_context.has_b_frames)
            if guessed and read.timing == Timing.TIMES:
                read.timing = Timing.ORDER
                # MP4 has times of showing, or none: then they are those of decoding
                read.contradict |= kind.startswith(_MP4) and read.times != read.decoded
            return read


def _look_behind_edits(path: Path, number: int, frames: int) -> tuple[int, bool]:
    """Read an MP4 track without its edit list: how many frames are missing, and whether the times contradict."""
    with open_video(path, number, ignore_editlist="1") as (container, stream):
        rows: list[tuple[int, int, int]] = []
        with suppress(av.error.FFmpegError, OSError):
            for packet in container.demux(stream):
                if packet.size and packet.pts is not None and packet.dts is not None:
                    rows.append((packet.pts, packet.dts, packet.duration))
        if len(rows) < frames:
            return frames - len(rows), False
        shown, decoded, lengths = np.array(rows, np.int64).T
        faults = find_faults(
            shown, decoded, lengths, nominal_duration(stream), stream.duration or None, fragmented=False
        )
        return 0, bool(faults.wrong.any() or len(faults.gone) or faults.stretched)


def _count_frames(path: Path, number: int, heartbeat: Heartbeat) -> tuple[array[int], int, np.ndarray | None]:
    """Decode a file without usable times once: times of its frames, ticks of one, display matrix of the first."""
    ticks, matrix = array("q"), None
    with open_video(path, number) as (container, stream):
        clock = FrameClock(stream, Timing.COUNT)
        with suppress(OSError):  # what was read so far counts; the decoding pass ends at the same place
            for packet in read_packets(container, stream):
                for frame, tick, _ in clock.decode(packet) or ():
                    heartbeat()
                    matrix = matrix if ticks else lasting_matrix(stream, frame)
                    ticks.append(tick)
        return ticks, nominal_duration(stream, counted=True), matrix


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
