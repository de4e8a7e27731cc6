"""Clips whose features were extracted before, and whose videos are gone: deleted, renamed, or no longer listed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import StorePath
from supportset.store.format.dataset import list_datasets, open_dataset
from supportset.store.format.index import has_features
from supportset.store.read.catalog import list_feature_sets
from supportset.store.transfer.import_card import IMPORTED

Choice = Literal["auto", "mark", "keep"]
MOST, FEW = 0.2, 10  # more gone clips than this share and this number: a missing mount, likelier than deleted files


class Listed(Protocol):
    """A clip as the annotation and the folder describe it; ``path`` is None where no file was found."""

    @property
    def clip_id(self) -> str: ...

    @property
    def path(self) -> str | None: ...


@dataclass(frozen=True)
class _Extracted:
    """The file that a clip's features were computed from."""

    path: str
    size: int | None


def find_gone(
    root: str | StorePath, name: str, clips: Iterable[Listed], videos_root: Path, choice: Choice = "auto"
) -> list[str]:
    """List the clips with extracted features whose videos are not in the folder of videos any more.

    Parameters
    ----------
    root : str or StorePath
        The store.
    name : str
        Name of the dataset; all its feature sets are looked at, except imported ones, as these were not computed from
        the videos.
    clips : iterable of Listed
        The clips as the annotation and the folder describe them now.
    videos_root : Path
        Folder that the clips' paths are relative to.
    choice : str
        ``auto``: refuse if more than ten clips are gone, and more than a fifth of those with features; ``mark``: any
        number; ``keep``: none is gone.

    Returns
    -------
    list of str
        Sorted. A clip is in it only if the file system says that its file does not exist, or if the file exists and
        is not this clip any more.

    Raises
    ------
    UsageError
        So many are gone that a disk may not be mounted, and the choice is ``auto``. Renamed files, of which there is
        a new one of equal size, do not count.
    """
    if choice == "keep":
        return []
    known, unread = _extracted(root, name)
    listed = {clip.clip_id: clip.path for clip in clips}
    gone = {clip_id for clip_id, file in known.items() if _is_gone(listed.get(clip_id), file, videos_root)}
    if unread and name in list_datasets(root):  # what was recorded before stays, unless the video is found
        gone.update(
            each for each in open_dataset(root, name).gone - known.keys() if _is_absent(listed.get(each), videos_root)
        )
    most = max(FEW, int(MOST * len(known)))
    if choice == "auto" and len(gone) > most:
        new = {_size(videos_root / path) for clip_id, path in listed.items() if path and clip_id not in known}
        lost = sorted(clip_id for clip_id in gone if clip_id not in known or known[clip_id].size not in new)
        if len(lost) > most:
            raise UsageError(
                f"{videos_root}: {len(lost):,} of the {len(known):,} clips with features have no video here any more "
                f"(as {lost[0]!r}): mount the missing disk; or --gone mark leaves them out of search, eval and "
                "training, --gone keep continues using their features"
            )
    return sorted(gone)


def _extracted(root: str | StorePath, name: str) -> tuple[dict[str, _Extracted], bool]:
    """The file of each clip that has extracted features; and whether a feature set could not be read."""
    known: dict[str, _Extracted] = {}
    errors: list[SupportsetError] = []
    for info in list_feature_sets(root, name, errors):
        try:
            feature_set = info.open()
            recipe = feature_set.card.recipe
            if recipe.kind != "video" or recipe.backbone.startswith(IMPORTED):
                continue
            rows = feature_set.rows()
        except SupportsetError as error:  # damaged: extraction into another set continues
            errors.append(error)
            continue
        found = rows.filter(has_features(rows))
        columns = (found[column].to_pylist() for column in ("clip_id", "source_path", "source_size"))
        for clip_id, path, size in zip(*columns, strict=True):
            if path is not None:
                known[clip_id] = _Extracted(path, size)
    return known, bool(errors)


def _is_gone(path: str | None, extracted: _Extracted, videos_root: Path) -> bool:
    if path is not None:
        return _is_absent(path, videos_root)
    try:  # the clip is not listed, or without a file
        os.stat(videos_root / extracted.path)
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)  # else a folder that cannot be read
    return True  # the file is another clip now, or no clip


def _is_absent(path: str | None, videos_root: Path) -> bool:
    try:
        return path is None or not os.stat(videos_root / path)
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None
