"""The values of every attribute of the demo world, and a scene as a choice among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SHAPES = ("ball", "square", "triangle", "star", "ring", "cross", "heart", "moon")
ROUND = frozenset({"ball", "ring"})  # what rolls

# Fill colours, far enough from each other that a frame's features distinguish them.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (216, 38, 38),
    "orange": (246, 132, 28),
    "yellow": (252, 212, 40),
    "green": (44, 162, 66),
    "blue": (34, 98, 224),
    "purple": (128, 54, 184),
    "pink": (255, 132, 188),
    "white": (246, 246, 244),
    "black": (42, 42, 48),
}
COUNTS = (1, 2, 3)
SIZES = ("small", "big")
BACKGROUNDS = ("plain", "stripes", "checkerboard", "sunset", "night", "meadow", "bricks", "water")
MOTIONS = ("left", "right", "up", "down", "diagonal", "orbit", "bounce", "grow", "shrink", "spin", "blink", "still")
# What one thing does with another.
RELATIONS = ("passes", "orbits", "follows", "jumps over", "pushes")

# Colours that are hard to see on these backgrounds.
CLASHES = frozenset(
    {
        ("white", "plain"),
        ("black", "night"),
        ("blue", "water"),
        ("green", "meadow"),
        ("red", "bricks"),
        ("orange", "sunset"),
        ("pink", "sunset"),
    }
)


@dataclass(frozen=True, slots=True)
class Thing:
    """A coloured shape."""

    colour: str
    shape: str


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that the captions of one clip may mention: its ground truth.

    A scene shows either ``count`` equal things of one ``size`` that move together (``motion`` is set), or two
    different things in a relation (``relation`` and ``other`` are set, ``count`` is 1 and ``size`` is None).
    """

    thing: Thing
    background: str
    count: int = 1
    size: str | None = None
    motion: str | None = None
    relation: str | None = None
    other: Thing | None = None

    @property
    def concept(self) -> str:
        """What clips share: who does what, without the number, the size and the background."""
        words = [self.thing.colour, self.thing.shape, self.motion or self.relation or ""]
        if self.other is not None:
            words += [self.other.colour, self.other.shape]
        return " ".join(words)

    @property
    def appearance(self) -> tuple[object, ...]:
        """What a single frame shows, without motion and size: distinct for every clip of a held-out gallery."""
        if self.other is None:
            return (self.count, self.thing, self.background)
        return (frozenset((self.thing, self.other)), self.background)

    @property
    def clashes(self) -> bool:
        """Whether something in it is hard to see."""
        things = [self.thing] if self.other is None else [self.thing, self.other]
        return any((thing.colour, self.background) in CLASHES for thing in things)

    def attributes(self) -> dict[str, Any]:
        """Return the scene as flat, JSON-able ground truth; what it does not have is None."""
        return {
            "concept": self.concept,
            "count": self.count,
            "size": self.size,
            "colour": self.thing.colour,
            "shape": self.thing.shape,
            "motion": self.motion,
            "relation": self.relation,
            "other_colour": self.other.colour if self.other else None,
            "other_shape": self.other.shape if self.other else None,
            "background": self.background,
        }
