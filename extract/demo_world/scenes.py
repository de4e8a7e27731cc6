"""The plan of a demo world: which scenes its clips show, split by split, drawn from a seed.

Training clips share their *concepts* (colour, shape and motion, or two things and their relation). About five clips
show each concept, with different numbers, sizes and backgrounds. So a caption can be rebuilt from other clips, which is
what a support set needs. Half of the held-out clips show a training concept in a combination of attributes that no
training clip has; the other half show a new concept. In a held-out gallery, all clips differ in what a single frame
shows, so a caption that mentions everything fits one clip.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from supportset.extract.demo_world.captions import SceneCaption, write_captions
from supportset.extract.demo_world.concepts import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    MOTIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
)
from supportset.store.errors import UsageError

PAIR_SHARE = 0.2  # of the clips: two different things in a relation
CLIPS_A_CONCEPT = 5  # training clips that show the same concept
MAX_CONCEPTS = 500  # of single things: leaves a third of all of them to the held-out clips
MIN_FRAMES, MAX_FRAMES = 22, 34  # a clip's length varies

# The example of the documents: every world with training clips shows it.
EXAMPLE = Scene(Thing("red", "ball"), BACKGROUNDS[0], motion="left")

_TRIES = 5000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PlannedClip:
    """One clip before it is rendered.

    Attributes
    ----------
    clip_id : str
        ``train-0001``, ...
    split : str
        ``train``, ``val`` or ``test``.
    scene : Scene
        What it shows.
    frames : int
        Number of frames.
    look_seed : str
        Seed of what captions do not mention: exact sizes, positions, phases, tones.
    captions : tuple of SceneCaption
        The first mentions every attribute.
    known_concept : bool
        Whether a training clip shows the same concept.
    """

    clip_id: str
    split: str
    scene: Scene
    frames: int
    look_seed: str
    captions: tuple[SceneCaption, ...]
    known_concept: bool

    def to_json(self, fps: int) -> dict[str, Any]:
        """Return the clip's entry of ``annotations.json``."""
        return {
            "id": self.clip_id,
            "file": f"videos/{self.clip_id}.mp4",
            "split": self.split,
            "frames": self.frames,
            "seconds": self.frames / fps,
            "attributes": self.scene.attributes(),
            "known_concept": self.known_concept,
            "captions": [
                {"id": f"{self.clip_id}#{i}", "text": caption.text, "mentions": list(caption.mentions)}
                for i, caption in enumerate(self.captions)
            ],
        }


class Deck(Generic[T]):
    """Draws from a fixed set of cards, all equally often: shuffled again when used up."""

    def __init__(self, cards: Sequence[T], rng: random.Random) -> None:
        self._cards = list(cards)
        self._rng = rng
        self._left: list[T] = []

    def draw(self) -> T:
        if not self._left:
            self._left = self._cards.copy()
            self._rng.shuffle(self._left)
        return self._left.pop()


class _Decks:
    """One deck an attribute."""

    def __init__(self, rng: random.Random) -> None:
        self.shape, self.colour = Deck(SHAPES, rng), Deck(tuple(COLOURS), rng)
        self.other_shape, self.other_colour = Deck(SHAPES, rng), Deck(tuple(COLOURS), rng)
        self.motion, self.relation = Deck(MOTIONS, rng), Deck(RELATIONS, rng)
        self.count, self.size, self.background = Deck(COUNTS, rng), Deck(SIZES, rng), Deck(BACKGROUNDS, rng)

    def single_concept(self) -> Scene:
        """Return a scene of which only the concept is used."""
        return Scene(Thing(self.colour.draw(), self.shape.draw()), BACKGROUNDS[0], motion=self.motion.draw())

    def pair_concept(self) -> Scene:
        """Return a scene of two things that differ in both colour and shape; only the concept is used."""
        thing = Thing(self.colour.draw(), self.shape.draw())
        other = Thing(self.other_colour.draw(), self.other_shape.draw())
        while other.colour == thing.colour or other.shape == thing.shape:
            other = Thing(self.other_colour.draw(), self.other_shape.draw())
        return Scene(thing, BACKGROUNDS[0], relation=self.relation.draw(), other=other)

    def instance(self, concept: Scene) -> Scene:
        """Return a concept's scene with a number, a size and a place."""
        place = self.background.draw()
        if concept.other is not None:
            return Scene(concept.thing, place, relation=concept.relation, other=concept.other)
        return Scene(concept.thing, place, count=self.count.draw(), size=self.size.draw(), motion=concept.motion)


def plan_world(seed: int, train: int, validation: int, test: int) -> list[PlannedClip]:
    """Plan a world's clips: the same arguments give the same clips and captions, on any machine.

    Parameters
    ----------
    seed : int
        Decides everything.
    train, validation, test : int
        Numbers of clips, 0 or more.

    Raises
    ------
    UsageError
        If a number is negative, or a held-out split is larger than the number of scenes that look different.
    """
    for name, number in (("train", train), ("validation", validation), ("test", test)):
        if number < 0:
            raise UsageError(f"demo world: {name}={number}: give 0 or more clips")
    rng = random.Random(f"demo world {seed}")
    decks = _Decks(rng)
    singles, pairs = _shares(train)
    known_singles = _concepts(decks.single_concept, min(-(-singles // CLIPS_A_CONCEPT), MAX_CONCEPTS), EXAMPLE)
    known_pairs = _concepts(decks.pair_concept, -(-pairs // CLIPS_A_CONCEPT))
    scenes = _training_scenes(decks, rng, known_singles, singles) + _training_scenes(decks, rng, known_pairs, pairs)
    rng.shuffle(scenes)
    known = {scene.concept for scene in scenes}
    used = set(scenes)
    clips = _clips(seed, "train", scenes, known)
    for split, number in (("val", validation), ("test", test)):
        held_out = _gallery(decks, rng, split, number, known_singles, known_pairs, used)
        clips += _clips(seed, split, held_out, known)
    return clips


def _shares(clips: int) -> tuple[int, int]:
    pairs = round(clips * PAIR_SHARE)
    return clips - pairs, pairs


def _concepts(draw: Callable[[], Scene], number: int, *first: Scene) -> list[Scene]:
    """Draw distinct concepts, ``first`` among them."""
    found = {concept.concept: concept for concept in first[:number]}
    while len(found) < number:
        concept = draw()
        found.setdefault(concept.concept, concept)
    return list(found.values())


def _training_scenes(decks: _Decks, rng: random.Random, concepts: list[Scene], number: int) -> list[Scene]:
    """Give each concept its clips, all different as long as possible."""
    deck = Deck(concepts, rng)
    scenes: list[Scene] = []
    seen: set[Scene] = set()
    for _ in range(number):
        concept = deck.draw()
        scene = decks.instance(concept)
        tries = 0
        while scene.clashes or (scene in seen and tries < _TRIES):
            scene = decks.instance(concept)
            tries += 1
        seen.add(scene)
        scenes.append(scene)
    return scenes


def _gallery(
    decks: _Decks,
    rng: random.Random,
    split: str,
    number: int,
    known_singles: list[Scene],
    known_pairs: list[Scene],
    used: set[Scene],
) -> list[Scene]:
    """Draw unused scenes that all look different, and add them to ``used``."""
    singles, pairs = _shares(number)
    taken: set[tuple[object, ...]] = set()
    scenes: list[Scene] = []
    for wanted, known, draw in (
        (singles, known_singles, decks.single_concept),
        (pairs, known_pairs, decks.pair_concept),
    ):
        names = {concept.concept for concept in known}
        deck = Deck(known, rng)
        for i in range(wanted):
            seen = bool(known) and i % 2 == 0
            for _ in range(_TRIES):
                concept = deck.draw() if seen else draw()
                scene = decks.instance(concept)
                fresh = scene not in used and scene.appearance not in taken
                if fresh and not scene.clashes and (seen or concept.concept not in names):
                    break
            else:
                raise UsageError(
                    f"demo world: {number} {split} clips that all look different do not exist: ask for fewer"
                )
            used.add(scene)
            taken.add(scene.appearance)
            scenes.append(scene)
    rng.shuffle(scenes)
    return scenes


def _clips(seed: int, split: str, scenes: list[Scene], known: set[str]) -> list[PlannedClip]:
    clips = []
    for i, scene in enumerate(scenes):
        clip_id = f"{split}-{i:04d}"
        rng = random.Random(f"demo world {seed} {clip_id}")
        frames = rng.randint(MIN_FRAMES, MAX_FRAMES)
        captions = tuple(write_captions(scene, rng))
        clips.append(PlannedClip(clip_id, split, scene, frames, f"{seed} {clip_id}", captions, scene.concept in known))
    return clips
