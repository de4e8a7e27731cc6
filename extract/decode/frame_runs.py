"""Decoding the wanted frames of a video with PyAV, and as few others as possible, with an eye on damage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av.error
import numpy as np

from supportset.extract.decode.clip_health import ClipHealth
from supportset.extract.decode.damage import gif
from supportset.extract.decode.frame_index import FrameIndex, Heartbeat
from supportset.extract.decode.pictures import PictureMaker
from supportset.extract.decode.seek_plan import Run, split_runs
from supportset.extract.decode.streams import open_video
from supportset.extract.decode.timeline import FrameClock, read_packets
from supportset.extract.outcome import DecodeError
from supportset.store.format.status import UNREADABLE


def wanted_pictures(
    path: Path, index: FrameIndex, wanted: list[int], health: ClipHealth, heartbeat: Heartbeat
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number, picture) for each wanted frame number, in order; for a lost frame the one shown before it.

    Where enough frames can be skipped it seeks to a key frame. If that does not lead where the index says, if the
    decoder does not call it a key frame, or needs some frames before it gives one (intra refresh), it seeks to the key
    frame before. If that does not help either, it decodes from the start of the file: the frames are the same.

    Parameters
    ----------
    path : Path
    index : FrameIndex
        Of the file.
    wanted : list of int
        Ascending, each once.
    health : ClipHealth
        Told of each packet and frame.
    heartbeat : callable
        Called for every packet.

    Yields
    ------
    number : int
    picture : (H, W, 3) uint8
        RGB, upright; the same array where one frame serves several numbers.

    Raises
    ------
    DecodeError
        ``unreadable`` if nothing can be decoded.
    """
    maker, last, picture = PictureMaker(index.matrix), None, np.empty((0, 0, 3), np.uint8)
    for number, frame in _wanted_frames(path, index, wanted, health, heartbeat):
        if frame is not last:
            last, picture = frame, maker.rgb(frame)
        yield number, picture


class _BadSeekError(Exception):
    """After the seek, the file differs from its index."""


def _wanted_frames(
    path: Path, index: FrameIndex, wanted: list[int], health: ClipHealth, heartbeat: Heartbeat
) -> Iterator[tuple[int, Any]]:
    done, early = 0, False
    with open_video(path, index.stream) as (container, stream):
        for run in split_runs(index, wanted):
            for place in _places(index, run, early):
                try:
                    for item in _decode_run(container, stream, index, run, place, health, heartbeat):
                        done += 1
                        yield item
                    break
                except _BadSeekError:  # before it gave a frame; a file that needs it once needs it always
                    early = True
                    health.restart(run.key)
            else:
                break
    if done < len(wanted):
        health.restart()
        with open_video(path, index.stream) as (container, stream):
            yield from _decode_run(container, stream, index, Run(None, wanted[done:]), None, health, heartbeat)


def _places(index: FrameIndex, run: Run, early: bool) -> list[int | None]:
    """Times to seek to for a run, one after the other until one leads there; None is the file's start.

    ``early``: only to the key frame before.
    """
    if run.key is None:
        return [None]
    at = int(np.searchsorted(index.keys, run.key))
    return [*([] if early else [run.key]), *([int(index.keys[at - 1])] if at else [])]


def _decode_run(
    container: Any,
    stream: Any,
    index: FrameIndex,
    run: Run,
    place: int | None,
    health: ClipHealth,
    heartbeat: Heartbeat,
) -> Iterator[tuple[int, Any]]:
    wanted = iter(run.wanted)
    number: int | None = next(wanted)
    shown = None
    for frame, time in _frames(container, stream, index, run.key, place, health, heartbeat):
        while number is not None and int(index.ticks[number]) < time:
            yield number, frame if shown is None else shown
            number = next(wanted, None)
        while number is not None and int(index.ticks[number]) == time:
            yield number, frame
            number = next(wanted, None)
        shown = frame
        if number is None:
            return
    if shown is None:
        if run.key is not None:
            raise _BadSeekError
        raise DecodeError(UNREADABLE, "no frame of the video can be decoded")
    while number is not None:
        yield number, shown
        number = next(wanted, None)


def _frames(
    container: Any,
    stream: Any,
    index: FrameIndex,
    key: int | None,
    place: int | None,
    health: ClipHealth,
    heartbeat: Heartbeat,
) -> Iterator[tuple[Any, int]]:
    """Decode from ``place`` and give what is shown from a key frame on: (frame, its tick), in the order shown."""
    clock = FrameClock(stream, index.timing, index.end)
    health.packet(key)
    if key is not None:
        try:
            # Both demuxers that are sought in take presentation times; by its decoding time they find the key before.
            container.seek(place, stream=stream, backward=True, any_frame=False)
        except (av.error.FFmpegError, OSError) as error:
            raise _BadSeekError from error
    started, corrupt, is_gif = key is None, set(), stream.codec_context.name == "gif"
    for packet in _packets(container, stream):
        heartbeat()
        if packet.pts is not None:
            health.packet(packet.pts)
        # A part of it is missing, as the container says, or as its data do: many decoders do not mind.
        if packet.is_corrupt or (is_gif and packet.size and not gif.is_whole(bytes(packet))):
            corrupt.add(packet.pts)
        frames = clock.decode(packet)
        if frames is None:
            health.complaint(packet.pts)
            continue
        for frame, time, right in frames:
            if time == place and not frame.key_frame:
                raise _BadSeekError  # the container marks it as a key frame, the decoder does not
            if not started and key is not None:
                if time > key:
                    raise _BadSeekError
                started = time == key
            if started:
                health.frame(time, right and not (frame.is_corrupt or frame.pts in corrupt))
                yield frame, time


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    try:
        yield from read_packets(container, stream)
    except (av.error.FFmpegError, OSError):
        return  # the file ends here, as the index pass has noticed
