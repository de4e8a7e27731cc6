"""Cards: one recipe, one hash, one folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.card import FeatureCard, Recipe
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter
from tests.store.samples import card, clips, recipe, write


def test_hash_does_not_depend_on_how_it_is_said() -> None:
    one = recipe(sampling={"fps": 1.0, "max_steps": 512}, transform={"mean": (0.5, 0.25), "size": np.float64(2.0)})
    two = recipe(sampling={"max_steps": 512, "fps": 1}, transform={"size": 2, "mean": [0.5, 0.25]})
    assert one == two
    assert one.hash == two.hash
    assert hash(one) == hash(two)
    assert one.folder == two.folder


def test_hash_is_sha256_of_plain_json() -> None:
    fields = json.loads(json.dumps(recipe().to_json()))
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    assert recipe().hash == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_hash_is_the_same_for_ever() -> None:
    assert recipe().hash == "f05796eb29796425"


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "text"},
        {"backbone": "other"},
        {"weights": "other"},
        {"weights_hash": "xxh3-128:00"},
        {"transform": {"resize": 32.5, "mean": [0.5, 0.25, 0.125]}},
        {"transform": {"resize": True}},
        {"sampling": {"fps": 2.0, "max_steps": 64}},
        {"layer": "last"},
        {"pooling": "none"},
        {"dim": 7},
        {"dtype": "float32"},
    ],
)
def test_every_field_counts(change: dict[str, Any]) -> None:
    other = recipe(**change)
    assert other != recipe()
    assert other.hash != recipe().hash
    assert other.folder != recipe().folder
    assert recipe().differences(other) == list(change)


def test_folder_says_backbone_and_sampling() -> None:
    name = "open_clip:ViT-B-32/laion2b_s34b_b79k"
    assert recipe(backbone=name).folder == f"open_clip-ViT-B-32-laion2b_s34b_b79k-1fps-{recipe(backbone=name).hash}"
    assert "-8frames-" in recipe(sampling={"frames": 8}).folder
    assert "-0.5fps-16window-" in recipe(sampling={"fps": 0.5, "window": 16}).folder
    assert "-text-" in recipe(kind="text", sampling={}).folder
    strange = recipe(backbone="../../..:~/ä weights/" + "x" * 300).folder
    assert "/" not in strange
    assert not strange.startswith(".")
    assert len(strange) < 200


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "audio"}, "kind = 'audio'"),
        ({"dim": 0}, "dim = 0"),
        ({"dim": True}, "dim = True"),
        ({"dtype": "bfloat16"}, "bfloat16.*float16, float32"),
        ({"backbone": None}, "backbone = None should be of type str"),
        ({"transform": {"mean": float("nan")}}, "transform.mean = nan"),
        ({"transform": {"crop": {1: 2}}}, "transform.crop has the key 1"),
        ({"sampling": {"fps": np.float32(1)}}, "sampling.fps"),
        ({"sampling": {"list": [1, object()]}}, r"sampling.list\[1\]"),
    ],
)
def test_recipe_that_cannot_be_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        recipe(**change)


def test_recipe_does_not_follow_the_callers_dict() -> None:
    transform = {"mean": [1, 2]}
    made = recipe(transform=transform)
    transform["mean"].append(3)
    assert made.transform == {"mean": [1, 2]}


def test_card_round_trip(tmp_path: Path) -> None:
    write(tmp_path, {})
    loaded = FeatureCard.load(tmp_path)
    assert loaded == card()
    assert Recipe.from_json(loaded.recipe.to_json()) == recipe()
    stored = json.loads((tmp_path / "card.json").read_text())
    assert (stored["format"], stored["format_version"], stored["hash"]) == ("supportset-features", 1, recipe().hash)


def test_first_card_stays(tmp_path: Path) -> None:
    write(tmp_path, {})
    before = (tmp_path / "card.json").read_bytes()
    FeatureWriter(tmp_path, FeatureCard(recipe(), {"device": "another"}))
    assert (tmp_path / "card.json").read_bytes() == before


def test_two_recipes_never_share_a_folder(tmp_path: Path) -> None:
    write(tmp_path, clips(1))
    with pytest.raises(SupportsetError, match=r"card\.json: .*another recipe \(different: weights, dim\)"):
        FeatureWriter(tmp_path, card(weights="red", dim=9))
    assert len(FeatureSet.open(tmp_path)) == 1


def test_reader_gets_the_recipe_it_asks_for(tmp_path: Path) -> None:
    write(tmp_path, clips(1))
    assert len(FeatureSet.open(tmp_path, recipe())) == 1
    with pytest.raises(UsageError, match="different: layer"):
        FeatureSet.open(tmp_path, recipe(layer="other"))


def edited(path: Path, **changes: Any) -> None:
    content = json.loads((path / "card.json").read_text())
    (path / "card.json").write_text(json.dumps({**content, **changes}))


def test_newer_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path, clips(1))
    edited(tmp_path, format_version=2, recipe="something new")
    with pytest.raises(SupportsetError, match=r"card\.json: format version 2 is newer .*update supportset"):
        FeatureSet.open(tmp_path)
    with pytest.raises(SupportsetError, match="format version 2 is newer"):
        FeatureWriter(tmp_path, card())


def test_edited_recipe_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, clips(1))
    edited(tmp_path, recipe={**recipe().to_json(), "weights": "red"})
    with pytest.raises(SupportsetError, match="edited by hand or damaged"):
        FeatureSet.open(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[]", "not a supportset-features file"),
        (b'{"format": "other"}', "not a supportset-features file"),
        (b'{"format": "supportset-features", "format_version": "1"}', "format_version '1'"),
        (b'{"format": "supportset-features", "format_version": 1}', "damaged card"),
        (b'{"format": "supportset-features", "format_version": 1, "recipe": {"dim": 1}, "hash": ""}', "lacks backbone"),
    ],
)
def test_damaged_card_is_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "card.json").write_bytes(content)
    for use in (FeatureSet.open, lambda path: FeatureWriter(path, card())):
        with pytest.raises(SupportsetError, match=f"card.json: .*{says}") as caught:
            use(tmp_path)
        assert "\n" not in str(caught.value)


def test_missing_card(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match=r"not a feature set, it has no card\.json"):
            FeatureSet.open(path)


def test_index_of_another_recipe_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", clips(1))
    write(tmp_path / "b", clips(1, "other"), card=card(weights="red"))
    for path in (tmp_path / "b" / "shards").iterdir():
        path.rename(tmp_path / "a" / "shards" / path.name)
    with pytest.raises(SupportsetError, match=r"parquet: belongs to the recipe .* move the shard"):
        FeatureSet.open(tmp_path / "a")
