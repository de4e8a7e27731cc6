"""Find the feature sets that a configuration names, and those that a run was trained on."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import StorePath
from supportset.store.format.card import Recipe, is_feature_set
from supportset.store.format.dataset import list_datasets
from supportset.store.read.aligned import AlignedFeatures
from supportset.store.read.catalog import feature_set_path, find_feature_set, list_feature_sets
from supportset.store.read.feature_set import FeatureSet

if TYPE_CHECKING:
    from supportset.train.data.cached_text import CachedText  # imports torch


def open_features(store: str | Path, dataset: str, words: str, kind: Literal["video", "text"] = "video") -> FeatureSet:
    """Find the one feature set of a dataset that matches some words.

    Parameters
    ----------
    store : str or Path
        Folder of the feature store.
    dataset : str
        Name of the dataset.
    words : str
        Parts of the set's name; the dataset may be in front (``msrvtt/...``).
    kind : str
        ``video`` for ``data.features``, ``text`` for ``text.features``.

    Raises
    ------
    UsageError
        No set matches, several do, it belongs to another dataset, or is of the other kind.
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
    try:
        found = find_feature_set(store, f"{named}/{rest}", kind)
    except UsageError as error:
        raise UsageError(f"{error}; {key}=NAME chooses it") from None
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
    """Describe a feature set for ``data.json``: enough to open exactly that recipe again."""
    recipe = feature_set.card.recipe
    return {"folder": recipe.folder, "hash": recipe.hash, "recipe": recipe.to_json()}


def open_recorded_features(
    record: dict[str, Any], store: str | Path, dataset: str, without: Collection[str] = frozenset()
) -> AlignedFeatures:
    """Open the recipes that a run was trained on, in any dataset of a store; checksums are compared on reading.

    Parameters
    ----------
    record : dict
        The run's ``data.json``.
    store : str or Path
        Folder of the feature store.
    dataset : str
        Name of the dataset.
    without : collection of str
        Clips to leave out: those of the dataset whose videos are gone.

    Raises
    ------
    UsageError
        The store has no features of exactly that recipe for the dataset.
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
    return AlignedFeatures(sets, without)


def open_recorded_text(record: dict[str, Any], store: str | Path, dataset: str) -> CachedText | None:
    """Open the text features that a run was trained on, checked like clips; None where it reads tokens.

    Raises
    ------
    UsageError
        The store has no such text features of the dataset.
    SupportsetError
        The folder of that recipe holds another one.
    """
    entry = record.get("text_features")
    if entry is None:
        return None
    from supportset.train.data.cached_text import CachedText, extraction_command

    recipe = Recipe.from_json(entry["recipe"])
    path = feature_set_path(store, dataset, recipe)
    if not is_feature_set(path):
        raise UsageError(
            f"{store}: dataset {dataset!r} has no text features of the recipe the run was trained on, {recipe.folder}; "
            f"make them with: {extraction_command(recipe, dataset, store)}"
        )
    return CachedText(_of_recipe(path, recipe), dataset, store)


def clip_checksums(feature_set: FeatureSet, clip_ids: Iterable[str]) -> list[str]:
    """Checksum of each clip's stored bytes, from the index."""
    return [str(checksum) for checksum in feature_set.checksums(clip_ids).tolist()]


def _of_recipe(path: StorePath, recipe: Recipe) -> FeatureSet:
    feature_set = FeatureSet.open(path, check=True)
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
