"""Plot a study: each variant's scores with intervals, and the differences to the first variant."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_SCALE = 2  # drawn larger, so that lines come out smooth on any screen
_LEFT, _WIDTH, _ROW, _TOP = 170, 330, 30, 70
_INK, _PALE, _POINT, _SEED = "#1a1a1a", "#d0d0d0", "#0b5fa5", "#9cc3e4"


def plot_png(table: Mapping[str, Any]) -> bytes:
    """PNG file with two panels: scores with every seed's value as a dot, and paired differences where there are any."""
    rows, metric = table["variants"], table["metric"]
    panels: list[tuple[str, list[tuple[str, Mapping[str, Any]]], float | None]] = [
        (f"{metric}, {table['dataset']} {table['split']}", [(row["name"], row["scores"][metric]) for row in rows], None)
    ]
    compared = [row for row in rows if row["difference"]]
    if compared:
        title = f"difference to {compared[0]['difference']['to']}"
        panels.append((title, [(row["name"], row["difference"]["scores"][metric]) for row in compared], 0.0))
    width = sum(_LEFT + _WIDTH + 40 for _ in panels)
    image = Image.new("RGB", (width * _SCALE, (_TOP + _ROW * len(rows) + 55) * _SCALE), "white")
    draw = ImageDraw.Draw(image)
    for place, (title, entries, line) in enumerate(panels):
        _panel(draw, place * (_LEFT + _WIDTH + 40), title, entries, line)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """At most ``count`` round numbers within a range; ``low < high``."""
    power = math.floor(math.log10((high - low) / count))
    step = next(
        each * 10.0**exponent
        for exponent in (power, power + 1)
        for each in (1, 2, 5)
        if (high - low) / (each * 10.0**exponent) < count
    )
    return [round(number * step, 6) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _panel(
    draw: ImageDraw.ImageDraw,
    left: int,
    title: str,
    entries: Sequence[tuple[str, Mapping[str, Any]]],
    line: float | None,
) -> None:
    """One panel: a row an entry, the interval as a bar, the mean as a dot."""
    values = [value for _, score in entries for value in (*score["interval"], *score.get("seeds", ()))]
    values += [] if line is None else [line]
    margin = 0.06 * (max(values) - min(values)) or 1.0
    low, high = min(values) - margin, max(values) + margin

    def across(value: float) -> float:
        return left + _LEFT + _WIDTH * (value - low) / (high - low)

    _text(draw, left + 12, 14, title, 15, _INK)
    bottom = _TOP + _ROW * len(entries)
    for tick in ticks(low, high):
        _line(draw, across(tick), _TOP - 12, across(tick), bottom, _PALE, 1)
        _text(draw, across(tick), bottom + 8, f"{tick:g}", 12, _INK, centred=True)
    if line is not None:
        _line(draw, across(line), _TOP - 12, across(line), bottom, _INK, 1)
    for number, (name, score) in enumerate(entries):
        middle = _TOP + _ROW * number + _ROW / 2 - 6
        _text(draw, left + 12, middle - 8, name[:22], 13, _INK)
        for value in score.get("seeds", ()):
            _dot(draw, across(value), middle, 3, _SEED)
        _line(draw, across(score["interval"][0]), middle, across(score["interval"][1]), middle, _POINT, 2)
        _dot(draw, across(score["mean"]), middle, 5, _POINT)


def _text(
    draw: ImageDraw.ImageDraw, x: float, y: float, words: str, size: int, colour: str, centred: bool = False
) -> None:
    font = ImageFont.load_default(size * _SCALE)
    shift = draw.textlength(words, font=font) / 2 if centred else 0.0
    draw.text((x * _SCALE - shift, y * _SCALE), words, fill=colour, font=font)


def _line(draw: ImageDraw.ImageDraw, x: float, y: float, to_x: float, to_y: float, colour: str, width: int) -> None:
    draw.line([x * _SCALE, y * _SCALE, to_x * _SCALE, to_y * _SCALE], fill=colour, width=width * _SCALE)


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: int, colour: str) -> None:
    x, y, radius = x * _SCALE, y * _SCALE, radius * _SCALE
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
