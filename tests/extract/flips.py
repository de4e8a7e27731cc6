"""One flipped bit a copy: what a file that nobody complains about shows."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from supportset.extract.decode.clips import Step
from supportset.extract.decode.sampling import Sampling
from tests.extract.films import outcome_of, picture, write_video

SIZE = (96, 64)
NOTICED, HARMLESS, SILENT = "noticed", "harmless", "silent"


def gifs(folder: Path) -> Iterator[tuple[bytes, range]]:
    """FFmpeg's and Pillow's writing: one palette for all, transparency; a palette each, changed parts only."""
    film = write_video(folder / "a.gif", 40, codec="gif", pixels="rgb8", rate=10, size=SIZE)
    yield (data := film.read_bytes()), range(6, len(data))
    images = [Image.fromarray(picture(number, SIZE)) for number in range(20)]
    images[0].save(folder / "b.gif", save_all=True, append_images=images[1:], duration=100, disposal=2, loop=0)
    yield (data := (folder / "b.gif").read_bytes()), range(6, len(data))


def photograph(seed: int) -> Image.Image:
    """Smooth areas, edges and some noise."""
    chance = np.random.default_rng(seed)
    coarse = Image.fromarray(chance.integers(0, 256, (6, 8, 3), np.uint8)).resize((160, 120), Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse).astype(int) + chance.normal(0, 6, (120, 160, 3))
    pixels[30:70, 40:90] = (200, 30, 60)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def jpegs(folder: Path) -> Iterator[tuple[bytes, range]]:
    """Four ways to write; flips anywhere from the first table on."""
    options: list[dict[str, object]] = [
        {"quality": 85},
        {"quality": 92, "progressive": True},
        {"quality": 75, "optimize": True, "subsampling": 0},
        {"quality": 85, "restart_marker_blocks": 4},
    ]
    for number, option in enumerate(options):
        file = io.BytesIO()
        photograph(number).save(file, "JPEG", **option)
        data = file.getvalue()
        yield data, range(20, len(data))


def tables(folder: Path) -> Iterator[tuple[bytes, range]]:
    """A film with B-frames; flips in the sample tables and headers of its `moov`."""
    film = write_video(folder / "a.mp4", 60, gop=20, options={"bf": "2", "b-pyramid": "none"}, size=SIZE)
    data = film.read_bytes()
    (at,) = (match.start() - 4 for match in re.finditer(b"moov", data))
    yield data, range(at + 4, at + int.from_bytes(data[at : at + 4], "big"))


def campaign(
    folder: Path,
    kind: Callable[[Path], Iterator[tuple[bytes, range]]],
    count: int,
    name: str,
    seed: int = 0,
    sampling: Sampling | None = None,
) -> tuple[Counter[str], list[tuple[int, int, float]]]:
    """Flip one bit in each of ``count`` copies; count the fates, and list (source, bit, how far off) of silent ones."""
    sources = list(kind(folder))
    goods = []
    for data, _ in sources:
        (folder / name).write_bytes(data)
        goods.append(outcome_of(folder / name, sampling))
    assert {good[:2] for good in goods} == {("ok", "")}, [good[:2] for good in goods]
    chance, fates = np.random.default_rng(seed), Counter[str]()
    silent: list[tuple[int, int, float]] = []
    for number in range(count):
        which = number % len(sources)
        content, places = sources[which]
        bit = int(chance.integers(8 * places.start, 8 * places.stop))
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(flipped)
        status, _, steps = outcome_of(folder / name, sampling)
        good = goods[which][2]
        if status != "ok":
            fate = NOTICED
        elif len(steps) == len(good) and all(
            np.array_equal(one.frames, other.frames) for one, other in zip(steps, good, strict=True)
        ):
            fate = HARMLESS
        else:
            fate = SILENT
            silent.append((which, bit, _far(steps, good)))
        fates[fate] += 1
    return fates, silent


def _far(steps: list[Step], good: list[Step]) -> float:
    """Grey levels between the pictures, on average over the worst step; infinity where steps or sizes differ."""
    if len(steps) != len(good) or steps[0].frames.shape != good[0].frames.shape:
        return np.inf
    return max(
        float(np.abs(one.frames.astype(int) - other.frames).max(-1).mean())
        for one, other in zip(steps, good, strict=True)
    )
