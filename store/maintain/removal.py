"""Deletion of a feature set or a dataset, so that a reader never takes a half-deleted one as complete."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supportset.store.errors import UsageError
from supportset.store.files import StorePath, open_folder, store_path
from supportset.store.format.card import CARD
from supportset.store.format.dataset import DATASET, list_datasets
from supportset.store.format.tables import ALL_TABLES
from supportset.store.format.thumbnails import has_thumbnails, thumbnails_path
from supportset.store.maintain.orphans import find_orphans
from supportset.store.read.catalog import FEATURES, FeatureSetInfo, list_feature_sets

_STAGED = re.compile(rf"\.(?:{'|'.join(ALL_TABLES)})\.[0-9a-f]{{32}}\.parquet")


@dataclass(frozen=True)
class Removal:
    """What a deletion removes.

    Attributes
    ----------
    path : StorePath
        Path of the feature set, or of the dataset.
    feature_sets : tuple of FeatureSetInfo
        Sets that are removed.
    files : int
        Number of files, tables included.
    bytes : int
        Size of these files.
    """

    path: StorePath
    feature_sets: tuple[FeatureSetInfo, ...]
    files: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        sets = [info.name for info in self.feature_sets]
        return {"path": str(self.path), "feature_sets": sets, "files": self.files, "bytes": self.bytes}


def plan_removal(info: FeatureSetInfo) -> Removal:
    """List what the deletion of a feature set removes.

    Raises
    ------
    UsageError
        The folder is a link, or holds files that are not the store's.
    """
    _refuse_foreign(info)
    return Removal(info.path, (info,), *_measure([info.path]))


def remove_feature_set(info: FeatureSetInfo) -> Removal:
    """Delete a feature set: first its card, so that no reader finds it, then its features.

    The next deletion in the dataset completes one that was killed.

    Raises
    ------
    UsageError
        As :func:`plan_removal`.
    SupportsetError
        A file cannot be removed.
    """
    removal = plan_removal(info)
    open_folder(info.path.parent).discard(info.path.name, CARD)
    return removal


def thumbnails_of(info: FeatureSetInfo) -> FeatureSetInfo:
    """Return the thumbnails of a feature set as a set that can be removed alone.

    Raises
    ------
    UsageError
        It has none.
    """
    if not has_thumbnails(info.path):
        raise UsageError(f"{info.path}: has no thumbnails")
    path = thumbnails_path(info.path)
    return FeatureSetInfo(info.dataset, f"{info.name}/{path.name}", path)


def plan_dataset_removal(root: str | StorePath, name: str) -> Removal:
    """List what the deletion of a dataset removes: its tables, and all its feature sets.

    Raises
    ------
    UsageError
        The dataset does not exist; or as :func:`plan_removal`.
    """
    sets = tuple(list_feature_sets(root, name))
    path = store_path(root) / name
    if name not in list_datasets(root) and not sets:
        known = ", ".join(list_datasets(root)) or "none"
        raise UsageError(f"{root}: no dataset {name!r}; there are {known}")
    for info in sets:
        _refuse_foreign(info)
    return Removal(path, sets, *_measure([info.path for info in sets] + [path / file for file in _tables(path)]))


def remove_dataset(root: str | StorePath, name: str) -> Removal:
    """Delete a dataset: feature sets, then ``dataset.json``, then the tables, and the folder if it is empty.

    Raises
    ------
    UsageError
        As :func:`plan_dataset_removal`.
    SupportsetError
        A file cannot be removed.
    """
    removal = plan_dataset_removal(root, name)
    for info in removal.feature_sets:
        remove_feature_set(info)
    folder = open_folder(removal.path)
    for file in _tables(removal.path):
        folder.remove(file)
    for empty in (removal.path / FEATURES, removal.path):
        open_folder(empty.parent).prune(empty.name)
    return removal


def _tables(path: StorePath) -> list[str]:
    """The store's files in a dataset's folder, the committing one first."""
    known = {DATASET, *(f"{key}.parquet" for key in ALL_TABLES)}
    there = [file for file in open_folder(path).names() if file in known or _STAGED.fullmatch(file)]
    return sorted(there, key=lambda file: (file != DATASET, file))


def _refuse_foreign(info: FeatureSetInfo) -> None:
    if isinstance(info.path, Path) and info.path.is_symlink():
        raise UsageError(f"{info.path}: is a link to {info.path.resolve()}: remove the link, or what it points to")
    places = (info.path, thumbnails_path(info.path))
    foreign = [orphan.path for place in places for orphan in find_orphans(place) if orphan.kind == "foreign"]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UsageError(f"{foreign[0]}{more}: is not a file of the store, and would be lost: move it away first")


def _measure(paths: list[StorePath]) -> tuple[int, int]:
    """Number and bytes of all files."""
    sizes = [size for path in paths for size in open_folder(path.parent).files(path.name).values()]
    return len(sizes), sum(sizes)
