"""Clips that have features, and whose videos are gone: deleted, renamed, no longer listed, or another file now."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import StorePath
from supportset.store.format.dataset import recorded_gone
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


@dataclass
class _Extracted:
    """The files that a clip's features were computed from, one by one feature set."""

    paths: set[str] = field(default_factory=set)
    sizes: set[int | None] = field(default_factory=set)


def find_gone(
    root: str | StorePath,
    name: str,
    clips: Iterable[Listed],
    videos_root: Path,
    choice: Choice = "auto",
    suspects: Iterable[str] = (),
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
        ``auto``: refuse if more than ten clips, and more than a fifth of those with features, are gone since the last
        run; ``mark``: any number; ``keep``: none is gone.
    suspects : iterable of str
        Clips whose file may be another one than that of their features, besides those that are recorded as gone.

    Returns
    -------
    list of str
        Sorted. A clip is in it only if the file system says that its file does not exist, or if the file exists and
        is not this clip; a suspect also if no feature set has features of a file of that size.

    Raises
    ------
    UsageError
        So many are gone since the last run that a disk may not be mounted, and the choice is ``auto``. Renamed files,
        of which there is a new one of equal size, do not count.
    """
    if choice == "keep":
        return []
    known, unread = _extracted(root, name)
    listed = {clip.clip_id: clip.path for clip in clips}
    recorded = recorded_gone(root, name)
    doubtful = frozenset(suspects) | recorded
    gone = {
        clip_id
        for clip_id, files in known.items()
        if _is_gone(listed.get(clip_id), files, videos_root, doubtful=clip_id in doubtful)
    }
    if unread:  # what was recorded before stays, unless the video is found
        gone.update(each for each in recorded - known.keys() if _size(videos_root, listed.get(each)) is None)
    fresh, before = gone - doubtful, known.keys() - recorded
    most = max(FEW, int(MOST * len(before)))
    if choice == "auto" and len(fresh) > most:
        new = {_size(videos_root, path) for clip_id, path in listed.items() if clip_id not in known}
        lost = sorted(clip_id for clip_id in fresh if known[clip_id].sizes.isdisjoint(new))
        if len(lost) > most:
            raise UsageError(
                f"{videos_root}: {len(lost):,} of the {len(before):,} clips with features have no video here any more "
                f"(as {lost[0]!r}): mount the missing disk; or --gone mark leaves them out of search, eval and "
                "training, --gone keep continues using their features"
            )
    return sorted(gone)


def _extracted(root: str | StorePath, name: str) -> tuple[dict[str, _Extracted], bool]:
    """The files of each clip that has extracted features; and whether a feature set could not be read."""
    known: dict[str, _Extracted] = defaultdict(_Extracted)
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
                known[clip_id].paths.add(path)
                known[clip_id].sizes.add(size)
    return dict(known), bool(errors)


def _is_gone(path: str | None, files: _Extracted, videos_root: Path, *, doubtful: bool) -> bool:
    if path is None:  # the clip is not listed, or without a file; if its file exists, that is another clip now, or none
        return not any(_is_unreadable(videos_root / each) for each in files.paths)
    try:
        size = os.stat(videos_root / path).st_size
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)  # else a folder that cannot be read
    return doubtful and size not in files.sizes


def _is_unreadable(path: Path) -> bool:
    """Whether the file system does not say if the file exists."""
    try:
        os.stat(path)
    except OSError as error:
        return not isinstance(error, FileNotFoundError | NotADirectoryError)
    return False


def _size(videos_root: Path, path: str | None) -> int | None:
    """Size of a clip's file; None if there is none."""
    try:
        return None if path is None else os.stat(videos_root / path).st_size
    except OSError:
        return None
