"""A video as MP4 that browsers play: its streams copied, or a part of it encoded anew."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import av.filter
import numpy as np
from PIL import Image

from supportset.extract.decode.images import read_image
from supportset.extract.decode.pictures import display_matrix
from supportset.extract.decode.streams import open_video
from supportset.store.errors import SupportsetError

_CLOCK = Fraction(1, 90_000)  # of encoded frames
_SHORT_SIDE, _LONG_SIDE = 720, 1600  # pixels of an encoded video
_COPIED_SOUND = {"aac", "mp3", "opus", "flac"}
_SOUND_RATE = 48_000
_ENCODER = {"preset": "ultrafast", "crf": "23"}
_KEY_FRAMES = 48  # frames from one to the next, at most: jumps inside the part are fast
_MARGINS = (0, 10, 30)  # seconds
PICTURE_SIDE = 2560  # pixels of a converted picture


class NothingThere(SupportsetError):  # noqa: N818 - not an error by itself
    """The video has no frame in the part."""


def copy_video(source: Path, target: Path) -> None:
    """Copy the video stream into an MP4; sound that MP4 cannot hold for browsers is encoded anew.

    Raises
    ------
    FFmpegError
        The streams cannot be copied.
    DecodeError
        The file cannot be read.
    """
    with open_video(source) as (container, stream), _created(target) as out:
        zero = Fraction(stream.start_time or 0) * stream.time_base
        audio = _audio(container)
        video_out: Any = out.add_stream_from_template(stream)
        sound = None if audio is None else _Sound(out, audio, zero)
        waiting: list[Any] = []
        for packet in container.demux([stream] if audio is None else [stream, audio]):
            if packet.stream.index != stream.index:
                assert sound is not None
                sound.take(packet)
            elif packet.size:
                waiting.append(packet)
                if packet.dts is not None:
                    _copy(out, _dated(waiting), video_out, zero)
                    waiting = []
        if sound is not None:
            sound.end()


def encode_part(source: Path, target: Path, start_s: float, end_s: float | None) -> None:
    """Encode a part of a video as H.264 and AAC, no larger than 720 lines, upright, with square pixels.

    Parameters
    ----------
    source, target : Path
    start_s, end_s : float
        In seconds from the video's first frame; None: to its end.

    Raises
    ------
    NothingThere
        The video ends before the part.
    DecodeError, FFmpegError
        The file cannot be read or decoded.
    """
    place = _place(source, start_s) if start_s > 0 else None
    with open_video(source) as (container, stream), _created(target) as out:
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = 0
        zero = Fraction(stream.start_time or 0) * stream.time_base
        audio = _audio(container)
        if place is not None:
            container.seek(place, stream=stream, backward=True)
        picture, held = _Picture(out, stream), list[Any]()
        sound = None if audio is None else _Sound(out, audio, zero, (start_s, end_s))
        rate = stream.average_rate or Fraction(25)
        due, open_streams = zero, {stream.index} | ({audio.index} if audio is not None else set())
        for packet in container.demux([stream] if audio is None else [stream, audio]):
            if packet.stream.index != stream.index:
                assert audio is not None
                assert sound is not None
                if end_s is not None and packet.dts is not None and packet.dts * audio.time_base - zero > end_s:
                    open_streams.discard(audio.index)
                elif audio.index in open_streams:
                    held.append(packet)
            elif stream.index in open_streams:
                for frame in _decode(packet):
                    due = frame.pts * stream.time_base if frame.pts is not None else due
                    seconds, due = due - zero, due + 1 / rate
                    if end_s is not None and seconds >= end_s:
                        open_streams.discard(stream.index)
                    elif seconds + 1 / rate > start_s:
                        picture.take(frame, max(0.0, float(seconds) - start_s))
            if sound is not None and picture.frames:  # the file's header is written with all streams
                for each in held:
                    sound.take(each)
                held = []
            if not open_streams:
                break
        if picture.frames == 0:
            raise NothingThere(f"the video has no picture from second {start_s:g} on")
        picture.end()
        if sound is not None:
            sound.end()


def picture_as_jpeg(source: Path, target: Path) -> None:
    """Write a still image as a JPEG, upright, no larger than `PICTURE_SIDE`."""
    pixels, _ = read_image(source)
    image = Image.fromarray(pixels)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    image.save(target, "JPEG", quality=90)


def _created(target: Path) -> Any:
    return av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"})


def _audio(container: Any) -> Any:
    """The sound of a file, if it can be decoded."""
    found = container.streams.best("audio")
    return None if found is None or found.codec_context is None else found


def _dated(packets: list[Any]) -> list[Any]:
    """Packets of which the last has a decoding time: those before it, at a stream's start, get theirs."""
    for number in range(len(packets) - 2, -1, -1):
        packets[number].dts = packets[number + 1].dts - max(1, packets[number].duration or 1)
    return packets


def _copy(out: Any, packets: list[Any], stream: Any, zero: Fraction) -> None:
    """Write packets, their times counted from ``zero``."""
    for packet in packets:
        first = math.floor(zero / packet.time_base)
        packet.dts -= first
        packet.pts = packet.dts if packet.pts is None else packet.pts - first
        packet.stream = stream
        out.mux(packet)


def _place(source: Path, start_s: float) -> int | None:
    """Tick to seek to, so that all frames from a second on are decoded; None: the file is read from its start.

    Containers without an index lead anywhere near the time that they are asked for.
    """
    with open_video(source) as (container, stream):
        time = Fraction(stream.start_time or 0) * stream.time_base + Fraction(start_s)
        for margin in _MARGINS:
            place = math.floor((time - margin) / stream.time_base)
            try:
                container.seek(place, stream=stream, backward=True)
                first = next((frame for packet in container.demux(stream) for frame in _decode(packet)), None)
            except (av.error.FFmpegError, OSError):
                return None
            if first is not None and first.pts is not None and first.pts * stream.time_base <= time:
                return place
    return None


def _decode(packet: Any) -> list[Any]:
    try:
        return list(packet.decode())
    except av.error.InvalidDataError:
        return []  # a damaged place: the rest is played


class _Picture:
    """Frames into an H.264 stream."""

    def __init__(self, out: Any, stream: Any) -> None:
        self._out, self._source = out, stream
        self._stream: Any = None
        self._form: tuple[Any, ...] = ()
        self._graph: Any = None
        self._last = -1
        self._turn: list[tuple[str, str]] | None = None
        self.frames = 0

    def take(self, frame: Any, at_s: float) -> None:
        if self._turn is None:
            self._turn = _turning(display_matrix(frame))
        form = (frame.width, frame.height, frame.format.name)
        if form != self._form:
            self._form, self._graph = form, self._make_graph(frame)
        self._graph.vpush(frame)
        shown = self._graph.vpull()
        shown.pts = self._last = max(self._last + 1, round(at_s / _CLOCK))
        shown.time_base = _CLOCK
        shown.pict_type = 0
        if self._stream is None:
            self._stream = self._out.add_stream("libx264", rate=self._rate(), options=_ENCODER)
            self._stream.width, self._stream.height, self._stream.pix_fmt = shown.width, shown.height, "yuv420p"
            self._stream.time_base = self._stream.codec_context.time_base = _CLOCK
            self._stream.codec_context.gop_size = _KEY_FRAMES
        self._out.mux(self._stream.encode(shown))
        self.frames += 1

    def end(self) -> None:
        self._out.mux(self._stream.encode(None))

    def _rate(self) -> Fraction:
        rate = self._source.average_rate
        return rate if rate and 1 <= rate <= 120 else Fraction(25)

    def _make_graph(self, frame: Any) -> Any:
        if self._stream is not None:  # a video that changes its form on its way keeps the size of its first frame
            size, turn = f"{self._stream.width}:{self._stream.height}", self._turn or []
            chain = [*turn, ("scale", size)]
        else:
            width, height = _size(frame.width, frame.height, self._source.sample_aspect_ratio)
            chain = [("scale", f"{width}:{height}:flags=bilinear"), *(self._turn or [])]
        graph = av.filter.Graph()
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_CLOCK)
        nodes = [graph.add(*each) for each in (*chain, ("setsar", "1"), ("format", "yuv420p"))]
        graph.link_nodes(source, *nodes, graph.add("buffersink")).configure()
        return graph


def _size(width: int, height: int, pixel: Fraction | None) -> tuple[int, int]:
    """Even size with square pixels, within the bounds."""
    wide = width * float(pixel or 1)
    share = min(1.0, _SHORT_SIDE / min(wide, height), _LONG_SIDE / max(wide, height))
    return max(2, round(wide * share / 2) * 2), max(2, round(height * share / 2) * 2)


def _turning(matrix: np.ndarray | None) -> list[tuple[str, str]]:
    """FFmpeg's filters for a display matrix (a b u, c d v, x y w) that turns by quarters or mirrors."""
    if matrix is None:
        return []
    a, b, c, d = (float(matrix[place]) for place in (0, 1, 3, 4))
    turned = abs(a) + abs(d) < abs(b) + abs(c)
    across, down = (c, b) if turned else (a, d)
    filters = [("transpose", "cclock_flip")] if turned else []
    filters += [("hflip", "")] if across < 0 else []
    return filters + ([("vflip", "")] if down < 0 else [])


class _Sound:
    """Packets of sound into a stream of the target: copied, or decoded and encoded as AAC."""

    def __init__(self, out: Any, source: Any, zero: Fraction, part: tuple[float, float | None] | None = None) -> None:
        self._out, self._source, self._zero, self._part = out, source, zero, part
        self._resampler: Any = None
        self._next: int | None = None
        if part is None and source.codec_context.name.removesuffix("float") in _COPIED_SOUND:
            self._stream: Any = out.add_stream_from_template(source)
        else:
            self._stream = out.add_stream("aac", rate=_SOUND_RATE, layout="stereo")
            self._stream.codec_context.open()  # the header needs what it decides
            self._resampler = av.AudioResampler("fltp", "stereo", _SOUND_RATE, frame_size=1024)

    def take(self, packet: Any) -> None:
        if self._resampler is None:
            if packet.dts is not None:
                _copy(self._out, [packet], self._stream, self._zero)
            return
        start_s, end_s = self._part or (0.0, None)
        for frame in _decode(packet):
            if frame.time is None:
                continue
            at_s = frame.time - float(self._zero) - start_s
            if at_s < 0 or (end_s is not None and at_s >= end_s - start_s):
                continue
            frame.pts, frame.time_base = round(at_s * frame.sample_rate), Fraction(1, frame.sample_rate)
            self._encode(self._resampler.resample(frame))

    def end(self) -> None:
        if self._resampler is not None:
            self._encode(self._resampler.resample(None))
            self._out.mux(self._stream.encode(None))

    def _encode(self, frames: Iterator[Any]) -> None:
        for frame in frames:
            frame.pts = frame.pts if self._next is None else max(frame.pts, self._next)
            self._next = frame.pts + frame.samples
            self._out.mux(self._stream.encode(frame))
