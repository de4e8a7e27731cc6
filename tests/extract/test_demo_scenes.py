"""The plan of the demo world: shared concepts, distinct galleries, captions that tell the truth."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from supportset.extract.demo_world.concepts import BACKGROUNDS, COLOURS, COUNTS, MOTIONS, RELATIONS, SHAPES, SIZES
from supportset.extract.demo_world.motions import Look, place
from supportset.extract.demo_world.scenes import PlannedClip, plan_world
from supportset.store.errors import UsageError

# What a reader of the captions would look for, written down once more: word -> the value it stands for.
WORDS = {
    "count": {
        1: {"a", "an", "one", "single"},
        2: {"two", "pair", "couple"},
        3: {"three", "trio"},
    },
    "size": {"small": {"small", "little", "tiny"}, "big": {"big", "large", "huge"}},
    "colour": {
        "red": {"red", "scarlet"},
        "purple": {"purple", "violet"},
        "pink": {"pink", "rose"},
        **{name: {name} for name in ("orange", "yellow", "green", "blue", "white", "black")},
    },
    "shape": {
        "ball": {"ball", "disc"},
        "square": {"square", "box", "block"},
        "triangle": {"triangle", "wedge"},
        "star": {"star"},
        "ring": {"ring", "hoop"},
        "cross": {"cross", "plus"},
        "heart": {"heart"},
        "moon": {"moon", "crescent"},
    },
    "motion": {
        "left": {"to the left", "leftward", "right to left"},
        "right": {"to the right", "rightward", "left to right"},
        "up": {"rise", "rises", "rising", "moves up", "move up", "moving up", "upward", "top"},
        "down": {"fall", "falls", "falling", "moves down", "move down", "moving down", "downward", "bottom"},
        "diagonal": {"diagonally", "diagonal", "corner"},
        "orbit": {"in a circle", "along a circle", "round and round"},
        "bounce": {"bounce", "bounces", "bouncing", "hop", "hops", "hopping", "jump", "jumps", "jumping"},
        "grow": {"grow", "grows", "growing", "bigger", "swell", "swells", "swelling"},
        "shrink": {"shrink", "shrinks", "shrinking", "smaller", "dwindle", "dwindles", "dwindling"},
        "spin": {"spin", "spins", "spinning", "rotate", "rotates", "rotating", "twirl", "twirls", "twirling"},
        "blink": {"blink", "blinks", "blinking", "flash", "flashes", "flashing", "appear", "appears", "appearing"},
        "still": {"still", "without moving", "put"},
    },
    "relation": {
        "passes": {"passes", "passing", "past", "by"},
        "orbits": {"orbits", "orbiting", "circles", "circling", "revolves", "revolving"},
        "follows": {"follows", "following", "chases", "chasing", "after"},
        "jumps over": {"jumps over", "jumping over", "hops over", "hopping over", "leaps over", "leaping over"},
        "pushes": {"pushes", "pushing", "shoves", "shoving", "bumps into", "bumping into"},
    },
    "background": {
        "plain": {"plain", "empty"},
        "stripes": {"striped", "stripes"},
        "checkerboard": {"checkerboard", "chequered"},
        "sunset": {"sunset", "evening"},
        "night": {"night", "starry"},
        "meadow": {"meadow", "grass"},
        "bricks": {"brick", "bricks"},
        "water": {"sea", "waves", "water"},
    },
}


def says(text: str, words: set[str]) -> bool:
    return any(f" {word} " in f" {text} " for word in words)


def named(text: str, attribute: str) -> set[object]:
    """The values of an attribute that a caption names."""
    return {value for value, words in WORDS[attribute].items() if says(text, words)}


def singular(text: str) -> str:
    """The text with its plural nouns made singular (verbs that end in s lose it too)."""
    text = text.replace("boxes", "box").replace("crosses", "cross")
    return " ".join(
        word[:-1] if word.endswith("s") and word not in ("plus", "cross") else word for word in text.split()
    )


@pytest.fixture(scope="module")
def world() -> list[PlannedClip]:
    return plan_world(7, 500, 80, 160)


def test_the_same_seed_gives_the_same_world_and_another_seed_another(world: list[PlannedClip]) -> None:
    assert plan_world(7, 500, 80, 160) == world
    other = plan_world(8, 500, 80, 160)
    assert [clip.clip_id for clip in other] == [clip.clip_id for clip in world]
    assert sum(a.scene == b.scene for a, b in zip(world, other, strict=True)) < 20


def test_splits_have_their_sizes_and_ids_are_unique(world: list[PlannedClip]) -> None:
    assert Counter(clip.split for clip in world) == {"train": 500, "val": 80, "test": 160}
    assert len({clip.clip_id for clip in world}) == 740


def test_training_clips_share_concepts(world: list[PlannedClip]) -> None:
    concepts = Counter(clip.scene.concept for clip in world if clip.split == "train")
    assert 4 <= min(concepts.values()) <= max(concepts.values()) <= 6
    instances = {(clip.scene.concept, clip.scene) for clip in world if clip.split == "train"}
    assert len(instances) == 500, "clips of one concept differ in number, size or place"


def test_every_value_is_trained_about_equally_often(world: list[PlannedClip]) -> None:
    rows = [clip.scene.attributes() for clip in world if clip.split == "train"]
    expected = {
        "shape": SHAPES,
        "colour": COLOURS,
        "motion": MOTIONS,
        "relation": RELATIONS,
        "background": BACKGROUNDS,
        "count": COUNTS,
        "size": SIZES,
    }
    for attribute, values in expected.items():
        seen = Counter(row[attribute] for row in rows if row[attribute] is not None)
        assert set(seen) == set(values)
        assert min(seen.values()) > 0.4 * max(seen.values()) or attribute == "count"


@pytest.mark.parametrize("split", ["val", "test"])
def test_held_out_clips_look_different_and_were_never_trained(world: list[PlannedClip], split: str) -> None:
    trained = {clip.scene for clip in world if clip.split == "train"}
    concepts = {scene.concept for scene in trained}
    gallery = [clip for clip in world if clip.split == split]
    assert len({clip.scene.appearance for clip in gallery}) == len(gallery)
    assert not {clip.scene for clip in gallery} & trained
    for clip in gallery:
        assert clip.known_concept == (clip.scene.concept in concepts)
    assert 0.45 <= sum(clip.known_concept for clip in gallery) / len(gallery) <= 0.55
    assert sum(clip.scene.other is not None for clip in gallery) == len(gallery) // 5


def test_validation_and_test_share_no_scene(world: list[PlannedClip]) -> None:
    val, test = ({clip.scene for clip in world if clip.split == split} for split in ("val", "test"))
    assert not val & test


def test_nothing_is_hidden_before_its_background(world: list[PlannedClip]) -> None:
    for clip in world:
        seen = {(thing.colour, clip.scene.background) for thing in (clip.scene.thing, clip.scene.other) if thing}
        assert not seen & {("white", "plain"), ("black", "night"), ("blue", "water"), ("green", "meadow")}


def test_first_two_captions_tell_everything_and_no_caption_tells_anything_wrong(world: list[PlannedClip]) -> None:
    for clip in world:
        truth = clip.scene.attributes()
        assert len({caption.text for caption in clip.captions}) == 5
        for number, caption in enumerate(clip.captions):
            single = singular(caption.text)
            for attribute in ("colour", "shape"):
                expected = {truth[name] for name in (attribute, f"other_{attribute}") if name in caption.mentions}
                assert named(single, attribute) == expected, caption.text
            told = {name: named(caption.text, name) for name in ("size", "motion", "relation", "background")}
            if clip.scene.other is not None:
                told["motion"] = set()  # relations use verbs of motion
            else:
                told["relation"] = set()
            for attribute, values in told.items():
                assert values == ({truth[attribute]} if attribute in caption.mentions else set()), caption.text
            if "count" in caption.mentions:
                assert named(caption.text.replace("in a ", "").replace("on a ", ""), "count") >= {truth["count"]}
            if number < 2:
                assert set(caption.mentions) >= {name for name in told if truth[name] is not None}


def test_verbs_agree_with_the_number(world: list[PlannedClip]) -> None:
    for clip in world:
        for caption in clip.captions:
            words = f" {caption.text} "
            wrong = (
                (" are ", " move ", " roll ") if clip.scene.count == 1 else (" is ", " moves ", " rolls ", " grows ")
            )
            assert not any(word in words for word in wrong), caption.text
            assert " a orange" not in words
            assert " an orange" not in words or clip.scene.count == 1


def test_captions_paraphrase(world: list[PlannedClip]) -> None:
    """The same fact is told in several words over the world."""
    texts = [caption.text for clip in world for caption in clip.captions if clip.scene.thing.shape == "ball"]
    assert any("disc" in text for text in texts)
    assert any("ball" in text for text in texts)
    assert any(" roll" in f" {text}" for text in texts)
    assert len({text for text in texts}) > 0.95 * len(texts)


def test_things_stay_where_a_centre_crop_sees_them(world: list[PlannedClip]) -> None:
    """Backbones crop 1/16 of each side away."""
    for clip in world:
        look = Look.draw(random.Random(clip.look_seed))
        for i in range(clip.frames):
            for thing in place(clip.scene, look, i / 10, clip.frames / 10):
                assert 0.0625 < thing.x - thing.radius < thing.x + thing.radius < 0.9375
                assert 0.0625 < thing.y - thing.radius < thing.y + thing.radius < 0.9375


def test_things_move_as_their_captions_say(world: list[PlannedClip]) -> None:
    checked = set()
    for clip in world:
        scene, seconds = clip.scene, clip.frames / 10
        look = Look.draw(random.Random(clip.look_seed))
        steps = [place(scene, look, i / 10, seconds) for i in range(clip.frames)]
        if scene.motion == "blink":
            off = sum(not step for step in steps)
            assert 0.3 * clip.frames < off < 0.7 * clip.frames
            continue
        assert all(len(step) == (scene.count if scene.other is None else 2) for step in steps)
        last, first = steps[-1][-1], steps[0][-1]
        dx, dy, growth = last.x - first.x, last.y - first.y, last.radius / first.radius
        match scene.motion:
            case "left":
                assert dx < -0.05
                assert dy == 0
            case "right":
                assert dx > 0.05
                assert dy == 0
            case "up":
                assert dy < -0.05
                assert dx == 0
            case "down":
                assert dy > 0.05
                assert dx == 0
            case "diagonal":
                assert abs(dx) > 0.05
                assert abs(dy) > 0.05
            case "grow":
                assert growth > 2
            case "shrink":
                assert growth < 0.5
            case "still":
                assert steps[0] == steps[-1]
            case "spin":
                assert (dx, dy) == (0, 0)
                assert abs(last.angle - first.angle) > 3
            case "bounce":
                heights = [step[0].y for step in steps]
                turns = sum((b - a) * (c - b) < 0 for a, b, c in zip(heights, heights[1:], heights[2:], strict=False))
                assert turns >= 3
        checked.add(scene.motion)
    assert checked >= set(MOTIONS) - {"blink"}


def test_a_red_ball_rolls_left_in_every_world_without_sliding() -> None:
    clips = [clip for clip in plan_world(11, 60, 0, 0) if clip.scene.concept == "red ball left"]
    assert len(clips) >= 4
    for clip in clips:
        look = Look.draw(random.Random(clip.look_seed))
        first, last = (place(clip.scene, look, at, 3.0)[0] for at in (0.0, 3.0))
        assert last.angle - first.angle == pytest.approx((last.x - first.x) / first.radius)


@pytest.mark.parametrize("numbers", [(0, 0, 0), (1, 0, 0), (0, 0, 3), (5, 1, 1)])
def test_small_worlds_have_what_was_asked(numbers: tuple[int, int, int]) -> None:
    assert Counter(clip.split for clip in plan_world(1, *numbers)) == Counter(
        {split: number for split, number in zip(("train", "val", "test"), numbers, strict=True) if number}
    )


def test_impossible_numbers_are_told() -> None:
    with pytest.raises(UsageError, match="test=-1"):
        plan_world(1, 1, 1, -1)
    with pytest.raises(UsageError, match="4000 test clips that all look different"):
        plan_world(1, 10, 0, 4000)
