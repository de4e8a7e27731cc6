"""The demo world's backgrounds: eight kinds, with varying tones, slants and phases."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise

from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]


def draw_background(name: str, size: int, rng: random.Random) -> Image.Image:
    """Return a background of ``size`` x ``size`` RGB pixels; its tones and phases vary with ``rng``."""
    return _BACKGROUNDS[name](size * 2, rng).reduce(2)


def mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    """Return ``a`` with ``share`` (0..1) of ``b``."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


# Pale tones that no object has.
_PALE: tuple[Rgb, ...] = ((226, 216, 200), (206, 216, 224), (214, 222, 206), (226, 210, 216), (212, 208, 222))


def _gradient(size: int, stops: list[tuple[float, Rgb]]) -> Image.Image:
    """A vertical gradient through (height 0..1, colour) stops."""
    column = Image.new("RGB", (1, size))
    for y in range(size):
        at = y / (size - 1)
        for (low, first), (high, second) in pairwise(stops):
            if at <= high:
                column.putpixel((0, y), mix(first, second, (at - low) / (high - low)))
                break
    return column.resize((size, size), Image.Resampling.NEAREST)


def _plain(size: int, rng: random.Random) -> Image.Image:
    tone = rng.choice(_PALE)
    return _gradient(size, [(0.0, mix(tone, (255, 255, 255), 0.35)), (1.0, mix(tone, (0, 0, 0), 0.06))])


def _stripes(size: int, rng: random.Random) -> Image.Image:
    tone = rng.choice(_PALE)
    image = Image.new("RGB", (size, size), mix(tone, (255, 255, 255), 0.45))
    pen = ImageDraw.Draw(image)
    width = size * rng.uniform(0.055, 0.075)
    slant = rng.choice((0.0, 0.0, size * 0.35, -size * 0.35))
    ink = mix(tone, (60, 60, 80), 0.38)
    x = -size - width * 2 * rng.random()
    while x < 2 * size:
        pen.polygon([(x, 0), (x + width, 0), (x + width + slant, size), (x + slant, size)], ink)
        x += 2 * width
    return image


def _checkerboard(size: int, rng: random.Random) -> Image.Image:
    tone = rng.choice(_PALE)
    image = Image.new("RGB", (size, size), mix(tone, (255, 255, 255), 0.6))
    pen = ImageDraw.Draw(image)
    side = size / rng.choice((7, 8, 9))
    ink = mix(tone, (40, 40, 60), 0.5)
    ahead = rng.random()
    for row in range(-1, 10):
        for column in range(-1, 10):
            if (row + column) % 2:
                x, y = (column + ahead) * side, (row + ahead) * side
                pen.rectangle([x, y, x + side, y + side], ink)
    return image


def _sunset(size: int, rng: random.Random) -> Image.Image:
    low = rng.uniform(0.72, 0.8)
    image = _gradient(
        size,
        [
            (0.0, (86, 62, 128)),
            (0.4, (206, 98, 120)),
            (low, (255, 186, 110)),
            (low + 0.001, (92, 60, 84)),
            (1.0, (50, 34, 58)),
        ],
    )
    x, y, radius = size * rng.uniform(0.2, 0.8), size * low, size * 0.11
    ImageDraw.Draw(image).pieslice([x - radius, y - radius, x + radius, y + radius], 180, 360, fill=(255, 228, 160))
    return image


def _night(size: int, rng: random.Random) -> Image.Image:
    image = _gradient(size, [(0.0, (10, 12, 34)), (1.0, (38, 42, 86))])
    pen = ImageDraw.Draw(image)
    for _ in range(70):
        x, y, radius = rng.random() * size, rng.random() * size, size * rng.choice((0.002, 0.003, 0.003, 0.006))
        shine = rng.randint(150, 255)
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], (shine, shine, min(255, shine + 15)))
    return image


def _meadow(size: int, rng: random.Random) -> Image.Image:
    line = rng.uniform(0.5, 0.62)
    image = _gradient(
        size, [(0.0, (128, 188, 236)), (line, (214, 234, 246)), (line + 0.001, (128, 190, 92)), (1.0, (72, 140, 60))]
    )
    pen = ImageDraw.Draw(image)
    for _ in range(260):
        x, y = rng.random() * size, size * rng.uniform(line, 1.0)
        height = size * (0.012 + 0.03 * (y / size - line))
        pen.line([x, y, x + rng.uniform(-4, 4), y - height], (58, 122, 52), 2)
    for _ in range(3):
        x, y = rng.random() * size, size * rng.uniform(0.06, line - 0.25)
        for dx, radius in ((-0.06, 0.035), (0.0, 0.05), (0.06, 0.035)):
            cx, r = x + dx * size, radius * size
            pen.ellipse([cx - r, y - 0.7 * r, cx + r, y + 0.7 * r], (246, 250, 252))
    return image


def _bricks(size: int, rng: random.Random) -> Image.Image:
    image = Image.new("RGB", (size, size), (206, 196, 186))
    pen = ImageDraw.Draw(image)
    height, width, joint = size / 11, size / 5, size / 90
    ahead = rng.random()
    for row in range(-1, 12):
        for column in range(-1, 7):
            x = (column + ahead - 0.5 * (row % 2)) * width
            y = (row + ahead) * height
            tone = mix((176, 98, 78), (140, 74, 62), rng.random())
            pen.rectangle([x, y, x + width - joint, y + height - joint], tone)
    return image


def _water(size: int, rng: random.Random) -> Image.Image:
    image = _gradient(size, [(0.0, (96, 178, 206)), (1.0, (20, 92, 138))])
    pen = ImageDraw.Draw(image)
    length, ahead = size / rng.uniform(4.5, 6.5), rng.random()
    for row in range(1, 10):
        y, start = row * size / 9.5, (ahead + 0.37 * row) * length
        wave = [(x, y + size * 0.012 * math.sin(2.0 * math.pi * (x + start) / length)) for x in range(0, size + 8, 8)]
        pen.line(wave, mix((214, 238, 246), (60, 140, 176), row / 14), max(2, size // 110), joint="curve")
    return image


_BACKGROUNDS: dict[str, Callable[[int, random.Random], Image.Image]] = {
    "plain": _plain,
    "stripes": _stripes,
    "checkerboard": _checkerboard,
    "sunset": _sunset,
    "night": _night,
    "meadow": _meadow,
    "bricks": _bricks,
    "water": _water,
}
