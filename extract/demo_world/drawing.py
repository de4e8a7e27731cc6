"""Pictures of the demo world's things, anti-aliased by drawing large and averaging down."""

from __future__ import annotations

import math
from functools import cache

from PIL import Image, ImageDraw

from supportset.extract.demo_world.backgrounds import Rgb, mix
from supportset.extract.demo_world.concepts import COLOURS
from supportset.extract.demo_world.motions import Placed

SCALE = 3  # times larger each way while drawing

Points = tuple[tuple[float, float], ...]


def _circle(radius: float = 1.0, x: float = 0.0, y: float = 0.0, corners: int = 60) -> Points:
    turns = (2.0 * math.pi * i / corners for i in range(corners))
    return tuple((x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns)


def _wedge(start: float, end: float, radius: float) -> Points:
    turns = (start + (end - start) * i / 12 for i in range(13))
    return ((0.0, 0.0), *((radius * math.cos(turn), radius * math.sin(turn)) for turn in turns))


def _band(start: float, end: float, inner: float, outer: float) -> Points:
    turns = [start + (end - start) * i / 48 for i in range(49)]
    there = ((outer * math.cos(turn), outer * math.sin(turn)) for turn in turns)
    back = ((inner * math.cos(turn), inner * math.sin(turn)) for turn in reversed(turns))
    return (*there, *back)


def _regular(corners: int, radius: float, inner: float | None = None) -> Points:
    """A polygon with its tip upwards; every second corner at ``inner`` where given."""
    number = corners if inner is None else 2 * corners
    points = []
    for i in range(number):
        turn = 2.0 * math.pi * i / number - math.pi / 2.0
        reach = radius if inner is None or i % 2 == 0 else inner
        points.append((reach * math.cos(turn), reach * math.sin(turn)))
    return tuple(points)


def _heart(size: float) -> Points:
    points = []
    for i in range(60):
        t = 2.0 * math.pi * i / 60
        x = 16.0 * math.sin(t) ** 3
        y = -(13.0 * math.cos(t) - 5.0 * math.cos(2 * t) - 2.0 * math.cos(3 * t) - math.cos(4 * t))
        points.append((size * x / 17.0, size * (y - 2.5) / 17.0))
    return tuple(points)


def _cross(reach: float, half: float) -> Points:
    r, h = reach, half
    return ((-h, -r), (h, -r), (h, -h), (r, -h), (r, h), (h, h), (h, r), (-h, r), (-h, h), (-r, h), (-r, -h), (-h, -h))


def _moon(grow: float) -> Points:
    """A crescent: the outer arc and back along the inner one; ``grow`` thickens it on every side."""
    outer, inner, shift = 1.0 + grow, 0.78 - grow, 0.46
    # The circles meet where both equations hold.
    x = (outer * outer - inner * inner + shift * shift) / (2.0 * shift)
    y = math.sqrt(max(outer * outer - x * x, 0.0))
    first, second = math.atan2(y, x), math.atan2(y, x - shift)
    points = [(outer * math.cos(a), outer * math.sin(a)) for a in _steps(first, 2.0 * math.pi - first)]
    points += [(shift + inner * math.cos(a), inner * math.sin(a)) for a in _steps(2.0 * math.pi - second, second)]
    return tuple((px + 0.12, py) for px, py in points)


def _steps(start: float, end: float) -> list[float]:
    return [start + (end - start) * i / 40 for i in range(41)]


# A layer: a polygon in units of the thing's radius, and its tone.
Layer = tuple[Points, str]


@cache
def _layers(shape: str) -> tuple[Layer, ...]:
    """Outline, fill, and lighter facets that make rotation visible."""
    sixth = math.pi / 3.0
    match shape:
        case "ball":
            facets = [(_wedge(i * 2 * sixth, (i * 2 + 1) * sixth, 0.9), "light") for i in range(3)]
            return (
                (_circle(), "dark"),
                (_circle(0.9), "fill"),
                *facets,
                (_circle(0.2), "dark"),
                (_circle(0.13), "light"),
            )
        case "square":
            s = 0.88
            box = [_rectangle(s * k) for k in (1.0, 0.885, 0.56, 0.48)]
            return ((box[0], "dark"), (box[1], "fill"), (box[2], "light"), (box[3], "fill"))
        case "triangle":
            return (
                (_regular(3, 1.14), "dark"),
                (_regular(3, 0.94), "fill"),
                (_regular(3, 0.5), "light"),
            )
        case "star":
            halves = []
            tips = _regular(5, 0.9, 0.4)
            for i in range(0, 10, 2):
                halves.append((((0.0, 0.0), tips[i], tips[i - 1]), "light"))
            return ((_regular(5, 1.14, 0.5), "dark"), (_regular(5, 0.9, 0.4), "fill"), *halves)
        case "ring":
            arcs = [(_band(i * 2 * sixth, (i * 2 + 1) * sixth, 0.52, 0.9), "light") for i in range(3)]
            whole = 2.0 * math.pi
            return ((_band(0.0, whole, 0.42, 1.0), "dark"), (_band(0.0, whole, 0.52, 0.9), "fill"), *arcs)
        case "cross":
            return ((_cross(1.0, 0.38), "dark"), (_cross(0.9, 0.28), "fill"), (_cross(0.62, 0.09), "light"))
        case "heart":
            return ((_heart(1.06), "dark"), (_heart(0.92), "fill"), (_circle(0.17, -0.42, -0.38), "light"))
        case "moon":
            craters = ((_circle(0.13, -0.5, -0.25), "light"), (_circle(0.09, -0.58, 0.2), "light"))
            return ((_moon(0.04), "dark"), (_moon(-0.05), "fill"), *craters)
        case _:
            raise ValueError(f"no shape is called {shape!r}")


def _rectangle(half: float) -> Points:
    return ((-half, -half), (half, -half), (half, half), (-half, half))


@cache
def _tones(colour: str) -> dict[str, Rgb]:
    fill = COLOURS[colour]
    dark = mix(fill, (0, 0, 0), 0.45)
    light = mix(fill, (255, 255, 255), 0.34)
    if colour == "white":
        dark, light = (130, 130, 136), (222, 222, 226)
    return {"fill": fill, "dark": dark, "light": light}


def draw_thing(frame: Image.Image, placed: Placed) -> None:
    """Draw one thing with a soft shadow onto an RGB frame, at a third of a pixel's precision."""
    size = frame.width
    radius = placed.radius * size
    reach = math.ceil(radius * 1.36) + 1
    left, top = math.floor(placed.x * size) - reach, math.floor(placed.y * size) - reach
    side = 2 * reach + 1
    # Drawn over an enlarged piece of the frame: averaging restores the pixels outside the thing exactly.
    patch = frame.crop((left, top, left + side, top + side)).resize(
        (SCALE * side, SCALE * side), Image.Resampling.NEAREST
    )
    x, y = SCALE * (placed.x * size - left), SCALE * (placed.y * size - top)
    cos, sin = math.cos(placed.angle) * radius * SCALE, math.sin(placed.angle) * radius * SCALE
    tones = _tones(placed.thing.colour)
    layers = _layers(placed.thing.shape)
    drop = 0.07 * radius * SCALE
    shadow = [(x + drop + px * cos - py * sin, y + 1.4 * drop + px * sin + py * cos) for px, py in layers[0][0]]
    ImageDraw.Draw(patch, "RGBA").polygon(shadow, (0, 0, 0, 70))
    pen = ImageDraw.Draw(patch)
    for points, tone in layers:
        pen.polygon([(x + px * cos - py * sin, y + px * sin + py * cos) for px, py in points], tones[tone])
    frame.paste(patch.reduce(SCALE), (left, top))


def draw_frame(background: Image.Image, things: list[Placed]) -> Image.Image:
    """Return a new RGB frame: the things on the background."""
    frame = background.copy()
    for placed in things:
        draw_thing(frame, placed)
    return frame
