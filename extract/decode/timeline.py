"""One timeline for the packets and frames of a stream, also where its timestamps have gaps, jumps or errors."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from enum import Enum
from fractions import Fraction
from typing import Any

import av.error

MAY_JUMP = ("mpegts", "mpeg")  # streams that may be joined or run past midnight: their clock may jump
_FASTEST = 1000  # frames a second; a higher rate is a time base
_FORWARD, _BACK = Fraction(10), Fraction(1, 10)  # seconds: a larger step is a jump, as for the ffmpeg program


class Timing(Enum):
    """Where the times of frames come from, see :class:`FrameClock`."""

    TIMES = "times"
    ORDER = "order"
    COUNT = "count"


def nominal_duration(stream: Any, *, counted: bool = False) -> int:
    """Ticks of one frame at the stream's stated rate, at least 1; ``counted``: of a stream without usable times."""
    rates = [stream.average_rate, stream.guessed_rate, stream.base_rate]
    if counted:  # a raw stream's average is FFmpeg's default, the guess is what the stream states
        rates = [stream.guessed_rate, stream.codec_context.framerate, stream.average_rate]
    rate = next((rate for rate in rates if rate and (not counted or rate <= _FASTEST)), Fraction(25))
    return max(1, round(1 / (rate * stream.time_base)))


def read_packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream up to the last that can be read.

    In MPEG streams, whose clock may jump, a jump by more than ten seconds, or back, is closed: each packet follows the
    one before it.

    Raises
    ------
    FFmpegError, OSError
        Where the file cannot be read further.
    """
    if container.format.name not in MAY_JUMP:
        yield from container.demux(stream)
        return
    forward, back = int(_FORWARD / stream.time_base), int(_BACK / stream.time_base)
    offset, due, nominal = 0, None, nominal_duration(stream)
    for packet in container.demux(stream):
        if packet.dts is not None:
            late = 0 if due is None else packet.dts + offset - due
            if late > forward or late < -back:
                offset -= late
            packet.dts += offset
            due = packet.dts + (packet.duration or nominal)
            if packet.pts is not None:
                packet.pts += offset
        yield packet


def decode_packet(packet: Any) -> list[Any] | None:
    """Return the frames that the decoder gives, or None if it refuses the packet; MemoryError is passed on."""
    try:
        return list(packet.decode())
    except av.error.MemoryError:  # says nothing of the packet
        raise
    except av.error.FFmpegError:
        return None


class FrameClock:
    """Gives each decoded frame its time.

    Parameters
    ----------
    stream : av.VideoStream
    timing : Timing
        ``TIMES``: the frame's time, but never before the frame before it. ``ORDER``: the times are right, but for
        other frames (AVI with B-frames stores no presentation times, and FFmpeg guesses); the decoder's order is right,
        so each frame gets the smallest time that is left. ``COUNT``: frames are counted at the stream's rate.
    end : int, optional
        When the video is over, in ticks: a frame with a later time has a wrong one.
    """

    def __init__(self, stream: Any, timing: Timing = Timing.TIMES, end: int | None = None) -> None:
        self._timing, self._end = timing, end
        self._nominal = nominal_duration(stream, counted=timing == Timing.COUNT)
        self._left: list[int] = []
        self._last: int | None = None
        self._next = 0

    def decode(self, packet: Any) -> list[tuple[Any, int, bool]] | None:
        """Return the frames of a packet, each with its tick and whether the file states that; None: it is refused."""
        frames = decode_packet(packet)
        if frames is None:
            return None
        if self._timing == Timing.ORDER and packet.size and packet.pts is not None:
            heapq.heappush(self._left, packet.pts)
        return [self._timed(frame) for frame in frames]

    def _timed(self, frame: Any) -> tuple[Any, int, bool]:
        tick, right = frame.pts, True
        if self._timing == Timing.ORDER and self._left:
            tick = heapq.heappop(self._left)
        elif tick is None or self._timing == Timing.COUNT:
            tick = self._next
        elif self._end is not None and tick >= self._end:
            tick, right = self._next, False  # after the video's end
        if self._last is not None and tick < self._last:
            tick, right = self._last, self._timing != Timing.TIMES  # decoders give frames in the order of showing
        self._last, self._next = tick, tick + self._nominal
        return frame, tick, right
