"""Where everything is at each moment: a scene and a look give positions, sizes and angles over time.

Lengths are shares of the (square) frame's side, y points down, angles are radians clockwise.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from supportset.extract.demo_world.concepts import ROUND, Scene, Thing

# Large enough for a frozen backbone to distinguish shape and colour.
RADII = {
    (1, "small"): 0.115,
    (1, "big"): 0.22,
    (2, "small"): 0.095,
    (2, "big"): 0.155,
    (3, "small"): 0.085,
    (3, "big"): 0.122,
}
PAIR_RADIUS = 0.135
# Backbones crop the border (an eighth of the side): nothing is drawn there.
MARGIN = 0.07


@dataclass(frozen=True, slots=True)
class Placed:
    """A thing at one moment."""

    thing: Thing
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True, slots=True)
class Look:
    """What captions do not mention and a clip's seed decides.

    Attributes
    ----------
    scale : float
        Radius relative to the usual one.
    tilt : float
        Angle at the start.
    sway : tuple of two floats
        -1 to 1: position of the group in the space that its motion leaves.
    way : int
        -1 or 1: which direction of rotation, or which side.
    steep : int
        -1 or 1: which diagonal.
    phase : float
        0 to 1: where a repeated motion starts.
    period : float
        Duration of a repeated motion relative to the usual one.
    formation : float
        0 to 1: arrangement of a group.
    """

    scale: float
    tilt: float
    sway: tuple[float, float]
    way: int
    steep: int
    phase: float
    period: float
    formation: float

    @classmethod
    def draw(cls, rng: random.Random) -> Look:
        """Draw a look."""
        return cls(
            scale=rng.uniform(0.92, 1.06),
            tilt=rng.uniform(-0.22, 0.22),
            sway=(rng.uniform(-1.0, 1.0), rng.uniform(-1.0, 1.0)),
            way=rng.choice((-1, 1)),
            steep=rng.choice((-1, 1)),
            phase=rng.random(),
            period=rng.uniform(0.85, 1.15),
            formation=rng.random(),
        )


def place(scene: Scene, look: Look, seconds: float, duration: float) -> list[Placed]:
    """Return what is visible at ``seconds`` of a clip of ``duration`` seconds, back to front; empty if blinked off."""
    if scene.other is not None:
        return _place_pair(scene, scene.other, look, seconds / duration)
    radius = RADII[scene.count, scene.size or "big"] * look.scale
    offsets = _formation(scene, look, radius)
    half_x = max(abs(x) for x, _ in offsets) + radius
    half_y = max(abs(y) for _, y in offsets) + radius
    room_x, room_y = max(0.5 - MARGIN - half_x, 0.0), max(0.5 - MARGIN - half_y, 0.0)
    if scene.motion == "blink" and (seconds + look.phase) % 1.0 >= 0.5:
        return []
    x, y, scale, angle = _move(scene.motion or "still", look, seconds, seconds / duration, room_x, room_y)
    if scene.thing.shape in ROUND and scene.motion in ("left", "right"):
        angle += x / radius
    return [Placed(scene.thing, 0.5 + x + dx, 0.5 + y + dy, radius * scale, look.tilt + angle) for dx, dy in offsets]


def _formation(scene: Scene, look: Look, radius: float) -> list[tuple[float, float]]:
    """Offsets of the things from the group's centre: perpendicular to the motion, or in a triangle."""
    if scene.count == 1:
        return [(0.0, 0.0)]
    gap = 1.15 * radius
    if scene.count == 2:
        line = [(-gap, 0.0), (gap, 0.0)]
    elif look.formation < 0.5:
        return [(-gap, gap), (gap, gap), (0.0, -gap)]
    else:
        line = [(-2 * gap, 0.0), (0.0, 0.0), (2 * gap, 0.0)]
    if scene.motion in ("left", "right"):
        return [(y, x) for x, y in line]
    if scene.motion in ("diagonal", "orbit"):
        return [(0.72 * x, -0.72 * x) for x, _ in line]
    return line


def _move(
    motion: str, look: Look, seconds: float, progress: float, room_x: float, room_y: float
) -> tuple[float, float, float, float]:
    """Return the group's x and y relative to the centre, its scale and its angle."""
    stand_x, stand_y = 0.6 * look.sway[0] * room_x, 0.6 * look.sway[1] * room_y
    along = 2.0 * progress - 1.0
    turn = 2.0 * math.pi * (look.way * seconds / (2.0 * look.period) + look.phase)
    match motion:
        case "left":
            return -along * room_x, stand_y, 1.0, 0.0
        case "right":
            return along * room_x, stand_y, 1.0, 0.0
        case "up":
            return stand_x, -along * room_y, 1.0, 0.0
        case "down":
            return stand_x, along * room_y, 1.0, 0.0
        case "diagonal":
            return look.way * along * room_x, look.way * look.steep * along * room_y, 1.0, 0.0
        case "orbit":
            reach = min(room_x, room_y, 0.26)
            return reach * math.cos(turn), reach * math.sin(turn), 1.0, 0.0
        case "bounce":
            height = abs(math.sin(math.pi * (seconds / (0.8 * look.period) + look.phase)))
            return stand_x, room_y * (1.0 - 2.0 * height), 1.0, 0.0
        case "grow":
            return 0.5 * stand_x, 0.5 * stand_y, 0.35 + 0.75 * progress, 0.0
        case "shrink":
            return 0.5 * stand_x, 0.5 * stand_y, 1.1 - 0.75 * progress, 0.0
        case "spin":
            return stand_x, stand_y, 1.0, turn
        case _:
            return stand_x, stand_y, 1.0, 0.0


def _place_pair(scene: Scene, other: Thing, look: Look, progress: float) -> list[Placed]:
    radius = PAIR_RADIUS * look.scale
    way, along = look.way, 2.0 * progress - 1.0
    shift = 0.05 * look.sway[1]
    angle = 0.0
    other_x, other_y, other_radius = 0.0, 0.0, radius
    match scene.relation:
        case "passes":
            x, y, other_x, other_y = way * 0.285 * along, -0.15 + shift, 0.12 * look.sway[0], 0.16 + shift
        case "orbits":
            turn = 2.0 * math.pi * (way * progress * 1.3 + look.phase)
            x, y = 0.27 * math.cos(turn), 0.27 * math.sin(turn)
            radius *= 0.85
        case "follows":
            x, other_x = way * (0.14 * along - 0.15), way * (0.14 * along + 0.15)
            y = other_y = 2 * shift
        case "jumps over":
            x, y = way * 0.285 * along, 0.2 - 0.46 * (1.0 - along * along)
            other_y, other_radius = 0.23, 0.9 * radius
        case _:  # pushes: run up, then both move together
            run = 0.32 * progress - 0.285
            x, other_x = way * run, way * max(0.11, run + 1.75 * radius)
            y = other_y = 2 * shift
    if scene.thing.shape in ROUND and scene.relation in ("passes", "follows", "pushes"):
        angle = x / radius
    tilt = look.tilt
    return [
        Placed(other, 0.5 + other_x, 0.5 + other_y, other_radius, -tilt),
        Placed(scene.thing, 0.5 + x, 0.5 + y, radius, tilt + angle),
    ]
