"""One timeline for the packets and frames of a stream, also where its timestamps have gaps, jumps or errors."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av.error

MAY_JUMP = ("mpegts", "mpeg")  # streams that may be joined or run past midnight: their clock may jump
_FORWARD, _BACK = Fraction(10), Fraction(1, 10)  # seconds: a larger step is a jump, as for the ffmpeg program


def nominal_duration(stream: Any) -> int:
    """Ticks of one frame at the stream's stated rate, at least 1."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate or Fraction(25)
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
    """Return the frames that the decoder gives, or None if it refuses the packet."""
    try:
        return list(packet.decode())
    except av.error.FFmpegError:
        return None


class FrameClock:
    """Gives each decoded frame its time: never before the frame before it, and counted where the file has none.

    AVI files with B-frames have guessed timestamps that can run backwards; the decoder's order is right.

    Parameters
    ----------
    stream : av.VideoStream
    end : int, optional
        When the video is over, in ticks: a frame that claims a later time has a wrong one.
    """

    def __init__(self, stream: Any, end: int | None = None) -> None:
        self._nominal, self._end = nominal_duration(stream), end
        self._last: int | None = None
        self._next = 0

    def time(self, frame: Any) -> int:
        """Return the frame's presentation time in ticks."""
        tick = frame.pts
        if tick is None or self.is_wrong(frame):
            tick = self._next
        self._last = tick if self._last is None else max(tick, self._last)
        self._next = self._last + self._nominal
        return self._last

    def is_wrong(self, frame: Any) -> bool:
        """Whether the frame's time is after the video's end."""
        return frame.pts is not None and self._end is not None and frame.pts >= self._end
