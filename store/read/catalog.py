"""Search for feature sets in a store: ``<root>/<dataset>/features/<set>``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import TEMPORARY, StorePath, open_folder, store_path
from supportset.store.format.card import CARD, FeatureCard, Recipe
from supportset.store.read.feature_set import FeatureSet

FEATURES = "features"
_REMOVAL = re.compile(re.escape(TEMPORARY) + r"[0-9a-f]{8}-(.+)")  # note of a removal in an object store


@dataclass(frozen=True)
class FeatureSetInfo:
    """Entry of a feature set in a listing.

    Attributes
    ----------
    dataset : str
        Name.
    name : str
        Name of the set's folder.
    path : StorePath
        Path of the set's folder.
    """

    dataset: str
    name: str
    path: StorePath

    @property
    def card(self) -> FeatureCard:
        """Card of the set, read now."""
        return FeatureCard.load(self.path)

    def open(self) -> FeatureSet:
        """Open the feature set."""
        return FeatureSet.open(self.path)


def feature_set_path(root: str | StorePath, dataset: str, recipe: Recipe) -> StorePath:
    """Return the folder of the features of a dataset by a recipe."""
    return store_path(root) / dataset / FEATURES / recipe.folder


def list_feature_sets(
    root: str | StorePath, dataset: str | None = None, errors: list[SupportsetError] | None = None
) -> list[FeatureSetInfo]:
    """List the feature sets of a store, or of one dataset in it, sorted by name.

    Parameters
    ----------
    root : str or StorePath
        The store; an absent folder has no sets.
    dataset : str, optional
        Only sets of this dataset.
    errors : list of SupportsetError, optional
        If given, a folder that cannot be listed, and a set without a card, add an error here.

    Raises
    ------
    SupportsetError
        A folder cannot be listed, and ``errors`` is None.
    """
    place = store_path(root)
    found = []
    datasets = open_folder(place).names() if dataset is None else [] if "/" in dataset else [dataset]
    for of in datasets:
        try:
            for name in _sets_of(place / of, errors):
                found.append(FeatureSetInfo(of, name, place / of / FEATURES / name))
        except SupportsetError as error:  # the other datasets are listed all the same
            if errors is None:
                raise
            errors.append(error)
    return found


def _sets_of(dataset: StorePath, errors: list[SupportsetError] | None) -> list[str]:
    """Names of the feature sets in a dataset's folder."""
    if dataset.name.startswith("."):  # being removed
        return []
    folder = open_folder(dataset / FEATURES)
    names = [name.partition("/")[0] for name in folder.glob(f"*/{CARD}")]
    beside = folder.names() if errors is not None else []
    removed = {match[1] for name in beside if (match := _REMOVAL.fullmatch(name))}
    for name in sorted({*beside} - {*names} - removed):
        if errors is not None and not name.startswith(".") and folder.child(name).child("shards").names():
            errors.append(SupportsetError(f"{folder}/{name}/{CARD}: missing, and the set has shards: restore it"))
    return sorted(name for name in names if not name.startswith("."))


def find_feature_set(root: str | StorePath, words: str, kind: str | None = None) -> FeatureSet:
    """Open the feature set that :func:`locate_feature_set` finds."""
    return locate_feature_set(root, words, kind).open()


def locate_feature_set(root: str | StorePath, words: str, kind: str | None = None) -> FeatureSetInfo:
    """Find the feature set that some words name; it is not opened, and may be damaged.

    Parameters
    ----------
    root : str or StorePath
        The store.
    words : str
        ``DATASET/WORDS``, e.g. ``msrvtt/open_clip-ViT-B-32``: the set whose folder is called so, or whose
        folder's name has each of the words (apart by blanks, in any case) in it. A backbone may be written as
        for ``extract``, ``open_clip:ViT-B-32/laion2b_s34b_b79k``. ``DATASET`` alone: its only set.
    kind : str, optional
        ``video`` or ``text``: of several sets that fit, only those of this kind count. A lone one is found
        whatever its kind.

    Raises
    ------
    UsageError
        None fits, or several do: lists them.
    """
    dataset, _, rest = words.strip().partition("/")
    listed = list_feature_sets(root)
    of_dataset = [info for info in listed if info.dataset == dataset]
    if not of_dataset:
        known = sorted({info.dataset for info in listed})
        there = f"there are {', '.join(known)}" if known else "the store is empty: run `extract` first, or give --store"
        raise UsageError(f"{root}: no features of a dataset {dataset!r} (asked for {words!r}); {there}")
    exact = [info for info in of_dataset if info.name == rest]
    wanted = [re.sub(r"[^a-z0-9._+]+", "-", word.lower()) for word in rest.split()]
    fitting = exact or [info for info in of_dataset if all(word in info.name.lower() for word in wanted)]
    if kind is not None and len(fitting) > 1:  # the towers of one model have one name
        fitting = [info for info in fitting if info.card.recipe.kind == kind] or fitting
    if len(fitting) == 1:
        return fitting[0]
    which = "several feature sets fit" if fitting else "no feature set fits"
    listing = ", ".join(f"{info.dataset}/{info.name}" for info in fitting or of_dataset)
    raise UsageError(f"{root}: {which} {words!r}: name one of {listing}")
