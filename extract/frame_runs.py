"""Decoding the wanted frames of a video, and as few others as possible, with an eye on damage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import av.error
import numpy as np

from extract.frame_index import Beat, FrameClock, FrameIndex, open_video
from extract.outcome import UNREADABLE, DecodeError

_SEEK_GAIN = 12  # frames: seeking forward costs about as much as decoding some frames


@dataclass
class Health:
    """Frames that should have come out of the decoder, and those that did not come out whole."""

    expected: int = 0
    lost: int = 0

    def add(self, expected: int, whole: int, complaints: int) -> None:
        """Count a run of frames; without complaints, packets that give no frame are none lost (VP8 hides some)."""
        self.expected += max(expected, whole + complaints)
        self.lost += max(expected - whole, complaints) if complaints else 0


def wanted_frames(
    path: Path, index: FrameIndex, wanted: list[int], health: Health, beat: Beat
) -> Iterator[tuple[int, Any]]:
    """Yield (number, frame) for each wanted frame number, in order; for a lost frame the one shown before it.

    Where enough frames can be skipped it seeks to a key frame, and decodes from the start of the file instead if
    that does not lead where the index says: the frames are the same.

    Raises
    ------
    DecodeError
        ``unreadable`` if nothing can be decoded.
    """
    done = 0
    with open_video(path) as (container, stream):
        for run in _runs(index, wanted):
            try:
                for item in _decode_run(container, stream, index, run, health, beat):
                    done += 1
                    yield item
            except _BadSeekError:
                break
    if done < len(wanted):
        with open_video(path) as (container, stream):
            yield from _decode_run(container, stream, index, _Run(None, wanted[done:]), health, beat)


class _Run(NamedTuple):
    """Frames decoded in one go, after a seek to a key frame (presentation, decoding time) or from the file's start."""

    key: tuple[int, int] | None
    wanted: list[int]


class _BadSeekError(Exception):
    """The file does not go on as its index says."""


def _runs(index: FrameIndex, wanted: list[int]) -> list[_Run]:
    """Split the wanted frames where seeking to a key frame skips enough frames to be worth it."""
    keys = np.searchsorted(index.ticks, index.keys[:, 0]) if len(index.keys) else np.empty(0, np.int64)
    runs: list[_Run] = []
    for number in wanted:
        at = runs[-1].wanted[-1] if runs else 0
        near = int(np.searchsorted(keys, number, side="right")) - 1
        if near >= 0 and keys[near] - at > _SEEK_GAIN:
            runs.append(_Run((int(index.keys[near, 0]), int(index.keys[near, 1])), [number]))
        elif runs:
            runs[-1].wanted.append(number)
        else:
            runs.append(_Run(None, [number]))
    return runs


def _decode_run(
    container: Any, stream: Any, index: FrameIndex, run: _Run, health: Health, beat: Beat
) -> Iterator[tuple[int, Any]]:
    wanted = iter(run.wanted)
    number: int | None = next(wanted)
    shown, first, whole, complaints, time = None, None, 0, 0, 0
    try:
        for frame, time in _frames(container, stream, run.key, beat):
            if frame is None:
                complaints += 1
                continue
            if first is None:
                first = time
            whole, complaints = whole + (not frame.is_corrupt), complaints + bool(frame.is_corrupt)
            while number is not None and int(index.ticks[number]) < time:
                yield number, frame if shown is None else shown
                number = next(wanted, None)
            while number is not None and int(index.ticks[number]) == time:
                yield number, frame
                number = next(wanted, None)
            shown = frame
            if number is None:
                return
    finally:
        if first is not None:
            expected = index.shown_before(time + 1) - index.shown_before(first)
            health.add(expected, whole, complaints)
    if shown is None:
        if run.key is not None:
            raise _BadSeekError
        raise DecodeError(UNREADABLE, "no frame of the video can be decoded")
    while number is not None:
        yield number, shown
        number = next(wanted, None)


def _frames(container: Any, stream: Any, key: tuple[int, int] | None, beat: Beat) -> Iterator[tuple[Any, int]]:
    """Decode on from a key frame: (frame, its tick) in the order shown; (None, 0) for data that does not decode."""
    clock = FrameClock(stream)
    if key is not None:
        container.seek(key[1], stream=stream, backward=True, any_frame=False)
    started = key is None
    for packet in _packets(container, stream):
        beat()
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            yield None, 0
            continue
        for frame in frames:
            time = clock.time(frame)
            if not started and key is not None:
                if time > key[0]:
                    raise _BadSeekError
                started = time == key[0]
            if started:
                yield frame, time


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    try:
        yield from container.demux(stream)
    except (av.error.FFmpegError, OSError):
        return  # the file ends here, as the index pass has noticed
