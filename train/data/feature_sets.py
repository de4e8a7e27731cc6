"""The feature sets that a run names, and those that a run was trained on, found in a store."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import StorePath
from supportset.store.format.card import Recipe, is_feature_set
from supportset.store.format.dataset import list_datasets
from supportset.store.read.aligned import AlignedFeatures
from supportset.store.read.catalog import feature_set_path, find_feature_set, list_feature_sets
from supportset.store.read.feature_set import FeatureSet
from supportset.train.data.cached_text import CachedText, extraction_command


def open_features(store: str | Path, dataset: str, words: str, kind: Literal["video", "text"] = "video") -> FeatureSet:
    """The one feature set of a dataset that fits the words; a dataset in front of them (``msrvtt/...``) is optional.

    Parameters
    ----------
    kind : what the set must be of: ``data.features`` are of clips, ``text.features`` of captions

    Raises
    ------
    UsageError
        No set fits, several do, it belongs to another dataset, or is of the other kind.
    """
    key = "text.features" if kind == "text" else "data.features"
    named, slash, rest = words.partition("/")
    if not slash or named not in list_datasets(store):
        named, rest = dataset, words
    if named != dataset:
        raise UsageError(
            f"{key} names {words!r}, a set of dataset {named!r}, while data.dataset is {dataset!r}: "
            "features and captions must be of one dataset"
        )
    found = find_feature_set(store, f"{named}/{rest}", kind)
    if found.card.recipe.kind != kind:
        wanted, mend = (
            ("captions", "`extract-text` makes them")
            if kind == "text"
            else ("clips", "those of captions go into text.features")
        )
        raise UsageError(
            f"{key} names {words!r}, and {found.path.name} is of kind {found.card.recipe.kind!r}: name features of "
            f"{wanted}; {mend}"
        )
    return found


def feature_record(feature_set: FeatureSet) -> dict[str, Any]:
    """What a run keeps of a feature set: enough to open exactly that recipe again."""
    recipe = feature_set.card.recipe
    return {"folder": recipe.folder, "hash": recipe.hash, "recipe": recipe.to_json()}


def open_recorded_features(record: dict[str, Any], store: str | Path, dataset: str) -> AlignedFeatures:
    """Open the recipes that a run was trained on, in any dataset of a store.

    Parameters
    ----------
    record : the run's ``data.json``

    Raises
    ------
    UsageError
        The store has no features of exactly that recipe for the dataset; says which ones it has.
    SupportsetError
        The folder of that recipe holds another one.
    """
    sets = []
    for entry in record["features"]:
        recipe = Recipe.from_json(entry["recipe"])
        path = feature_set_path(store, dataset, recipe)
        if not is_feature_set(path):
            raise UsageError(_no_such_recipe(recipe, store, dataset))
        sets.append(_of_recipe(path, recipe))
    return AlignedFeatures(sets)


def open_recorded_text(record: dict[str, Any], store: str | Path, dataset: str) -> CachedText | None:
    """Open the text features of the recipe that a run was trained on; None where it reads tokens.

    Raises
    ------
    UsageError
        The store has no such text features of the dataset: says how to make them.
    SupportsetError
        The folder of that recipe holds another one.
    """
    entry = record.get("text_features")
    if entry is None:
        return None
    recipe = Recipe.from_json(entry["recipe"])
    path = feature_set_path(store, dataset, recipe)
    if not is_feature_set(path):
        raise UsageError(
            f"{store}: dataset {dataset!r} has no text features of the recipe the run was trained on, {recipe.folder}; "
            f"make them with: {extraction_command(recipe, dataset, store)}"
        )
    return CachedText(_of_recipe(path, recipe), dataset, store)


def clip_checksums(feature_set: FeatureSet, clip_ids: Iterable[str]) -> list[str]:
    """Checksum of each clip's stored bytes, as the index of the feature set has it."""
    return [str(checksum) for checksum in feature_set.checksums(clip_ids).tolist()]


def _of_recipe(path: StorePath, recipe: Recipe) -> FeatureSet:
    feature_set = FeatureSet.open(path)
    if feature_set.card.recipe != recipe:
        differing = ", ".join(feature_set.card.recipe.differences(recipe))
        raise SupportsetError(
            f"{path}: the run was trained on recipe {recipe.hash}, the card here differs in {differing}: extract "
            "the dataset again with the run's backbone and sampling, or train again"
        )
    return feature_set


def _no_such_recipe(recipe: Recipe, store: str | Path, dataset: str) -> str:
    there = ", ".join(found.name for found in list_feature_sets(store, dataset)) or "none"
    return (
        f"{store}: dataset {dataset!r} has no features of the recipe the run was trained on, {recipe.folder}; there: "
        f"{there}. Extract it with the same backbone and sampling (a different hash is a different recipe)"
    )
