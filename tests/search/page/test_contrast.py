"""Colours of the page: every pair of text and ground that the style uses can be read, in both schemes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from supportset.search import page

CSS = (Path(page.__file__).parent / "static" / "style.css").read_text(encoding="utf-8")
PAIRS = [
    ("ink", "paper"), ("ink", "raised"), ("ink", "well"), ("muted", "paper"), ("muted", "raised"), ("muted", "well"),
    ("accent", "paper"), ("accent", "raised"), ("on-accent", "accent"), ("on-tint", "tint"), ("warn", "warn-tint"),
    ("warn", "paper"), ("warn", "raised"),
]  # fmt: skip
GRAPHICS = [("accent", "well"), ("below", "well")]  # bars on their rail


def schemes() -> list[dict[str, str]]:
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.S)
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", block)) for block in blocks]


def light(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    high, low = sorted((light(first), light(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_both_schemes_have_the_same_colours() -> None:
    both = schemes()
    assert len(both) == 2
    assert both[0].keys() == both[1].keys()
    assert {name for pair in PAIRS + GRAPHICS for name in pair} <= both[0].keys()


@pytest.mark.parametrize(("text", "ground"), PAIRS)
def test_texts_have_a_contrast_of_4_5(text: str, ground: str) -> None:
    assert all(contrast(scheme[text], scheme[ground]) >= 4.5 for scheme in schemes())  # WCAG 2, AA


@pytest.mark.parametrize(("mark", "ground"), GRAPHICS)
def test_graphics_have_a_contrast_of_3(mark: str, ground: str) -> None:
    assert all(contrast(scheme[mark], scheme[ground]) >= 3 for scheme in schemes())


def test_texts_use_only_colours_that_are_measured() -> None:
    measured = {text for text, _ in PAIRS} | {"below"}
    used = re.findall(r"(?<![-\w])color: (?:var\(--([\w-]+)\)|(#\w+|\w+))", CSS)
    assert {name for name, _ in used if name} <= measured
    assert {value for _, value in used if value} <= {"#fff", "inherit", "currentColor"}, (
        "white stands on near black only"
    )
