"""Videos for the benchmark: made here, the same each time."""

from __future__ import annotations

import random
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 25
_PIECE_SECONDS = 10  # encoded once; a long film repeats it
_DISTINCT = 15  # films that are encoded; more are copies of these
_GROUP = 250  # frames from a key frame to the next at most: what x264 does unless told otherwise


def write_films(folder: Path, count: int, seconds: tuple[int, int], shape: tuple[int, int]) -> list[Path]:
    """Write ``count`` films of H.264, as long as a generator with a fixed seed says; after some they are copies."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    paths = []
    for number in range(count):
        path = folder / f"film{number:04}.mp4"
        paths.append(path)
        if number >= _DISTINCT:
            shutil.copyfile(paths[number % _DISTINCT], path)
            continue
        _encode(path, _pictures(number, chance.randint(*seconds) * RATE, shape), shape, {"preset": "veryfast"})
    return paths


def write_long_film(path: Path, seconds: int, shape: tuple[int, int]) -> Path:
    """Write a film of any length in little time: some seconds are encoded, and their packets repeated."""
    piece = path.with_name(f"piece-{path.name}")
    length = min(seconds, _PIECE_SECONDS)
    options = {"preset": "ultrafast", "crf": "35", "bf": "0"}  # without B-frames a repetition fits to the one before
    _encode(piece, _pictures(0, length * RATE, shape, still=True), shape, options)
    with av.open(str(piece)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        base = Fraction(stream.time_base or 1)
        copy = target.add_stream_from_template(stream)
        packets = [(packet.pts, packet.is_keyframe, bytes(packet)) for packet in source.demux(stream) if packet.size]
        period = round(length / base)
        for repeat in range(-(-seconds // length)):
            for pts, is_key, content in packets:
                packet = av.Packet(content)
                packet.pts = packet.dts = (pts or 0) + repeat * period
                packet.time_base, packet.stream, packet.is_keyframe = base, copy, is_key
                target.mux(packet)
    piece.unlink()
    return path


def _encode(path: Path, pictures: Any, shape: tuple[int, int], options: dict[str, str]) -> None:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = *shape, "yuv420p"
        stream.codec_context.gop_size = _GROUP
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


def _pictures(seed: int, count: int, shape: tuple[int, int], *, still: bool = False) -> Any:
    """A textured background that drifts (or stands still: a small file), and a square that moves faster."""
    width, height = shape
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    background = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    fine = random.integers(0, 24, background.shape, dtype=np.uint8)
    background = background // 2 + fine + 40
    side = max(8, height // 4)
    for number in range(count):
        moved = background if still else np.roll(background, (number // 3, number // 2), axis=(0, 1))
        picture = moved[:height, :width].copy()
        left, top = (number * 3) % (width - side), (number * 2) % (height - side)
        picture[top : top + side, left : left + side] = (number % 256, 200, 255 - number % 256)
        yield picture
