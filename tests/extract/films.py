"""Small video files for tests, and the naive way to pick frames from them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from supportset.extract.decode.clips import Outcome, Step, decode_clip, decode_clips
from supportset.extract.decode.sampling import Sampling


@lru_cache(maxsize=1024)
def picture(number: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """A picture that differs from its neighbours, with a corner that differs from the other corners."""
    width, height = size
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = (number * 5) % 256
    image[..., 1] = (np.arange(width) * 3 + number * 2) % 256
    image[..., 2] = np.random.default_rng(number).integers(0, 80, (height, width))
    image[: height // 3, : width // 3] = (250, 10, 10)
    return image


def write_video(
    path: Path,
    count: int = 50,
    *,
    codec: str = "libx264",
    rate: int | Fraction = 25,
    size: tuple[int, int] = (64, 48),
    pixels: str = "yuv420p",
    gop: int | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    container: str | None = None,
    ticks: Sequence[int] | None = None,
    base: Fraction = Fraction(1, 1000),
    rotation: int = 0,
) -> Path:
    """Encode ``count`` pictures; ``ticks`` (in units of ``base``) makes the frame rate variable."""
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    with av.open(str(path), "w", format=container, options=muxer or {}) as file:
        stream: Any = file.add_stream(codec, rate=rate, options=quiet | (options or {}))
        stream.codec_context.thread_count = 1  # x264's threads gave other pictures now and then, on a busy machine
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        if gop:
            stream.codec_context.gop_size = gop
        if codec == "mpeg4":
            stream.bit_rate = 600_000
        if ticks is not None:
            stream.time_base = stream.codec_context.time_base = base
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24").reformat(format=pixels)
            if ticks is not None:
                frame.pts, frame.time_base = ticks[number], base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    if rotation:
        _turn(path, rotation)
    return path


def repeated(film: Path, path: Path, times: int) -> Path:
    """Write a film several times in a row into one file, without encoding it anew."""
    with av.open(str(film)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.pts is not None and packet.dts is not None]
        length = sum(packet.duration for packet in packets)
        whole = [(packet.pts, packet.dts, bytes(packet), packet.is_keyframe, packet.duration) for packet in packets]
        for time in range(times):
            for pts, dts, data, key, duration in whole:
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, packets[0].time_base
                packet.pts, packet.dts, packet.duration = pts + time * length, dts + time * length, duration
                packet.is_keyframe = key
                target.mux(packet)
    return path


def write_audio(path: Path, seconds: float = 1.0) -> Path:
    """Encode a tone without any picture."""
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, int(16000 * seconds), 1024):
            wave = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def _turn(path: Path, degrees: int) -> None:
    """Overwrite the display matrix in an MP4's track header: turn clockwise when shown."""
    one = 65536
    turned = {90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0), -1: (-one, 0, 0, one)}[degrees]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, ids, duration, layer, volume: then the matrix
    identity = np.array([one, 0, 0, 0, one, 0, 0, 0, 1 << 30], ">i4")
    assert data[at : at + 36] == identity.tobytes()
    identity[[0, 1, 3, 4]] = turned
    data[at : at + 36] = identity.tobytes()
    path.write_bytes(data)


def filtered(path: Path, *filters: str) -> list[np.ndarray]:
    """RGB of what comes out of ``ffmpeg -i PATH -vf FILTERS -pix_fmt rgb24`` (it would turn the picture, too)."""
    images: list[np.ndarray] = []
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_type = "NONE"
        graph = av.filter.Graph()
        nodes = [graph.add_buffer(template=stream)]
        nodes += [graph.add(*one.split("=", 1)) for one in (*filters, "format=rgb24")]
        graph.link_nodes(*nodes, graph.add("buffersink")).configure()
        for frame in [*file.decode(stream), None]:
            graph.push(frame)
            while True:
                try:
                    images.append(graph.vpull().to_ndarray())
                except (av.error.BlockingIOError, av.error.EOFError):
                    break
    return images


def decode_all(path: Path) -> tuple[list[tuple[Fraction, np.ndarray]], Fraction]:
    """Every frame of a file, the plain way: (seconds from the first frame, RGB); and the last one's end."""
    images = iter(filtered(path))
    frames: list[tuple[Fraction, np.ndarray]] = []
    end = Fraction(0)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_type = "NONE"
        base = stream.time_base
        assert base is not None
        for frame in file.decode(stream):
            assert frame.pts is not None
            time = frame.pts * base
            frames.append((time, next(images)))
            end = time + frame.duration * base
    zero = frames[0][0]
    return [(time - zero, image) for time, image in frames], end - zero


def pick(frames: list[tuple[Fraction, np.ndarray]], moment: Fraction) -> np.ndarray:
    """The frame shown just before a moment, the first one if there is none: the rule, said once more."""
    chosen = frames[0][1]
    for time, image in frames:
        if time < moment:
            chosen = image
    return chosen


def steps_of(path: Path, sampling: Sampling, start: float | None = None, end: float | None = None) -> list[Step]:
    """Decode a clip that must be complete."""
    return list(decode_clip(path, start, end, sampling))


def outcome_of(path: Path, sampling: Sampling | None = None, **span: Any) -> tuple[str, str, list[Step]]:
    """Decode a clip: (status, message, steps that came out)."""
    part = span.pop("start_s", None), span.pop("end_s", None)
    items = [item for _, item in decode_clips(path, [part], sampling, **span)]
    steps = [item for item in items if isinstance(item, Step)]
    (outcome,) = (item for item in items if isinstance(item, Outcome))
    return outcome.status, outcome.message, steps
