"""Paraphrased captions: what a person might write about a scene, and which attributes each sentence mentions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from supportset.extract.demo_world.concepts import ROUND, Scene, Thing

CAPTIONS_A_CLIP = 5

# Nouns as (singular, plural); no noun means two shapes.
NOUNS: dict[str, tuple[tuple[str, str], ...]] = {
    "ball": (("ball", "balls"), ("disc", "discs")),
    "square": (("square", "squares"), ("box", "boxes"), ("block", "blocks")),
    "triangle": (("triangle", "triangles"), ("wedge", "wedges")),
    "star": (("star", "stars"), ("five-pointed star", "five-pointed stars")),
    "ring": (("ring", "rings"), ("hoop", "hoops")),
    "cross": (("cross", "crosses"), ("plus sign", "plus signs")),
    "heart": (("heart", "hearts"), ("heart shape", "heart shapes")),
    "moon": (("moon", "moons"), ("crescent", "crescents")),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "white": ("white",),
    "black": ("black",),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
COUNT_WORDS = {1: ("a", "one", "a single"), 2: ("two", "a pair of", "a couple of"), 3: ("three", "a trio of")}

# Places as (after the verb): every phrase names its background and no other.
PLACES: dict[str, tuple[str, ...]] = {
    "plain": ("in front of a plain wall", "on a plain background", "against an empty wall"),
    "stripes": ("in front of a striped wall", "on a striped background", "over stripes"),
    "checkerboard": ("on a checkerboard", "in front of a chequered wall", "over a checkerboard pattern"),
    "sunset": ("at sunset", "before an evening sky", "under a sunset sky"),
    "night": ("at night", "under a starry sky", "in the night sky"),
    "meadow": ("over a meadow", "on the grass", "in a field of grass"),
    "bricks": ("in front of a brick wall", "before a wall of bricks", "against bricks"),
    "water": ("over the sea", "above the waves", "on the water"),
}


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb with what follows it: "a ball {third} {tail}", "two balls {plural} {tail}", "a ball {ing} {tail}"."""

    third: str
    plural: str
    ing: str
    tail: str = ""


def _verb(stem: str, tail: str = "", *, third: str | None = None, ing: str | None = None) -> Verb:
    return Verb(third or stem + "s", stem, ing or stem + "ing", tail)


def _moves(*tails: str) -> tuple[Verb, ...]:
    kinds = (_verb("move", ing="moving"), _verb("slide", ing="sliding"), _verb("travel", ing="travelling"))
    return tuple(Verb(kind.third, kind.plural, kind.ing, tail) for tail in tails for kind in kinds)


VERBS: dict[str, tuple[Verb, ...]] = {
    "left": _moves("to the left", "leftward", "from right to left"),
    "right": _moves("to the right", "rightward", "from left to right"),
    "up": (
        _verb("rise", ing="rising"),
        _verb("move", "up", ing="moving"),
        _verb("float", "upward"),
        _verb("climb", "to the top"),
    ),
    "down": (
        _verb("fall"),
        _verb("move", "down", ing="moving"),
        _verb("sink", "downward"),
        _verb("drop", "to the bottom", ing="dropping"),
    ),
    "diagonal": (
        _verb("move", "diagonally", ing="moving"),
        _verb("drift", "from corner to corner"),
        _verb("slide", "along a diagonal", ing="sliding"),
    ),
    "orbit": (
        _verb("move", "in a circle", ing="moving"),
        _verb("go", "round and round", third="goes"),
        _verb("travel", "along a circle", ing="travelling"),
    ),
    "bounce": (_verb("bounce", "up and down", ing="bouncing"), _verb("hop", ing="hopping"), _verb("jump", "in place")),
    "grow": (_verb("grow"), _verb("get", "bigger", ing="getting"), _verb("swell")),
    "shrink": (_verb("shrink"), _verb("get", "smaller", ing="getting"), _verb("dwindle", ing="dwindling")),
    "spin": (_verb("spin", "on the spot", ing="spinning"), _verb("rotate", ing="rotating"), _verb("twirl")),
    "blink": (
        _verb("blink", "on and off"),
        _verb("flash", third="flashes"),
        Verb("appears and disappears", "appear and disappear", "appearing and disappearing"),
    ),
    "still": (
        _verb("stand", "still"),
        _verb("rest", "without moving"),
        _verb("stay", "put"),
    ),
}
# Round things also roll.
ROLLING: dict[str, tuple[Verb, ...]] = {
    "left": (_verb("roll", "to the left"), _verb("roll", "leftward")),
    "right": (_verb("roll", "to the right"), _verb("roll", "rightward")),
}
RELATION_VERBS: dict[str, tuple[Verb, ...]] = {
    "passes": (_verb("pass", third="passes"), _verb("move", "past", ing="moving"), _verb("go", "by", third="goes")),
    "orbits": (_verb("circle", "around", ing="circling"), _verb("orbit"), _verb("revolve", "around", ing="revolving")),
    "follows": (_verb("follow"), _verb("chase", ing="chasing"), _verb("run", "after", ing="running")),
    "jumps over": (_verb("jump", "over"), _verb("hop", "over", ing="hopping"), _verb("leap", "over")),
    "pushes": (_verb("push", third="pushes"), _verb("shove", ing="shoving"), _verb("bump", "into")),
}

_SINGLE = ("count", "size", "colour", "shape", "motion", "background")
_PAIR = ("colour", "shape", "relation", "other_colour", "other_shape", "background")
# Attributes that each caption of a clip omits: the first two mention all.
_SINGLE_LEFT_OUT: tuple[tuple[str, ...], ...] = (
    (),
    (),
    ("background",),
    ("size",),
    ("motion",),
    ("size", "background"),
)
_PAIR_LEFT_OUT: tuple[tuple[str, ...], ...] = ((), (), ("background",), ("other_colour",), ("relation",), ("colour",))


@dataclass(frozen=True, slots=True)
class SceneCaption:
    """One sentence and the names of the attributes that it mentions."""

    text: str
    mentions: tuple[str, ...]


def write_captions(scene: Scene, rng: random.Random, number: int = CAPTIONS_A_CLIP) -> list[SceneCaption]:
    """Write ``number`` different captions of a scene; the first two mention every attribute, others omit some."""
    attributes, left_out = (_SINGLE, _SINGLE_LEFT_OUT) if scene.other is None else (_PAIR, _PAIR_LEFT_OUT)
    partial = list(left_out[2:])
    rng.shuffle(partial)
    plan = [*left_out[:2], *partial]
    captions: list[SceneCaption] = []
    seen: set[str] = set()
    while len(captions) < number:
        told = tuple(name for name in attributes if name not in plan[len(captions) % len(plan)])
        text = _sentence(scene, told, rng)
        if text not in seen:
            seen.add(text)
            captions.append(SceneCaption(text, told))
    return captions


def _sentence(scene: Scene, told: Sequence[str], rng: random.Random) -> str:
    subject = _noun_phrase(scene.thing, rng, scene.count, scene.size if "size" in told else None, "colour" in told)
    be = "is" if scene.count == 1 else "are"
    place = rng.choice(PLACES[scene.background]) if "background" in told else ""
    if scene.other is not None:
        target = _noun_phrase(scene.other, rng, coloured="other_colour" in told)
        if "relation" not in told:
            pair = f"{subject} and {target}"
            return _join(rng.choice((f"{pair} {place}", f"there is {pair} {place}", f"{place} there is {pair}")))
        verb = rng.choice(RELATION_VERBS[scene.relation or ""])
        after = f"{verb.tail} {target}"
    elif "motion" not in told:
        return _join(
            rng.choice((f"{subject} {place}", f"there {be} {subject} {place}", f"{place} there {be} {subject}"))
        )
    else:
        verb = rng.choice(_motion_verbs(scene))
        after = verb.tail
    finite = verb.third if scene.count == 1 else verb.plural
    forms = [
        f"{subject} {finite} {after} {place}",
        f"{subject} {be} {verb.ing} {after} {place}",
        f"{subject} {verb.ing} {after} {place}",
        f"there {be} {subject} {verb.ing} {after} {place}",
        f"the video shows {subject} {verb.ing} {after} {place}",
    ]
    if place:
        forms.append(f"{place} {subject} {finite} {after}")
    return _join(rng.choice(forms))


def _motion_verbs(scene: Scene) -> tuple[Verb, ...]:
    motion = scene.motion or ""
    usual = VERBS[motion]
    rolling = ROLLING.get(motion, ()) if scene.thing.shape in ROUND else ()
    # Rolling verbs are as likely as all others together.
    return usual + rolling * (len(usual) // len(rolling)) if rolling else usual


def _noun_phrase(
    thing: Thing, rng: random.Random, count: int = 1, size: str | None = None, coloured: bool = True
) -> str:
    singular, plural = rng.choice(NOUNS[thing.shape])
    adjectives = [rng.choice(SIZE_WORDS[size])] if size else []
    if coloured:
        adjectives.append(rng.choice(COLOUR_WORDS[thing.colour]))
    rest = " ".join([*adjectives, singular if count == 1 else plural])
    number = rng.choice(COUNT_WORDS[count])
    if number == "a" and rest[0] in "aeiou":
        number = "an"
    return f"{number} {rest}"


def _join(text: str) -> str:
    return " ".join(text.split())
