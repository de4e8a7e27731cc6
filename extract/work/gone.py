"""Clips that have features, and whose videos are gone: deleted, renamed, no longer listed, or another file now."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import StorePath
from supportset.store.format.dataset import recorded_gone
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
    look = _Look(videos_root, {clip.clip_id: clip.path for clip in clips})
    recorded = recorded_gone(root, name)
    doubtful = frozenset(suspects) | recorded
    known, extracted, unread = _extracted(root, name, lambda each: each in doubtful or look.size(each) is None)
    gone = {each for each, files in extracted.items() if look.is_gone(each, files, doubtful=each in doubtful)}
    if unread:  # what was recorded before stays, unless the video is found
        gone.update(each for each in recorded - known if look.size(each) is None)
    fresh, before = gone - doubtful, known - recorded
    most = max(FEW, int(MOST * len(before)))
    if choice == "auto" and len(fresh) > most:
        new = {look.size(each) for each in look.paths if each not in known}
        lost = sorted(each for each in fresh if extracted[each].sizes.isdisjoint(new))
        if len(lost) > most:
            raise UsageError(
                f"{videos_root}: {len(lost):,} of the {len(before):,} clips with features have no video here any more "
                f"(as {lost[0]!r}): mount the missing disk; or --gone mark leaves them out of search, eval and "
                "training, --gone keep continues using their features"
            )
    return sorted(gone)


def _extracted(
    root: str | StorePath, name: str, asked: Callable[[str], bool]
) -> tuple[set[str], dict[str, _Extracted], bool]:
    """All clips with features, the files of those that are asked for, and whether a feature set could not be read."""
    known: set[str] = set()
    extracted: dict[str, _Extracted] = defaultdict(_Extracted)
    errors: list[SupportsetError] = []
    for info in list_feature_sets(root, name, errors):
        try:
            feature_set = info.open()
            recipe = feature_set.card.recipe
            if recipe.kind != "video" or recipe.backbone.startswith(IMPORTED):
                continue
            known.update(feature_set.clip_ids)
            wanted = [clip_id for clip_id in feature_set.clip_ids if asked(clip_id)]
            if not wanted:  # then the index files need not be read
                continue
            rows = feature_set.rows()
        except SupportsetError as error:  # damaged: extraction into another set continues
            errors.append(error)
            continue
        rows = rows.filter(pc.is_in(rows["clip_id"], pa.array(wanted, pa.string())))
        columns = (rows[column].to_pylist() for column in ("clip_id", "source_path", "source_size"))
        for clip_id, path, size in zip(*columns, strict=True):
            if path is not None:
                extracted[clip_id].paths.add(path)
                extracted[clip_id].sizes.add(size)
    return known, extracted, bool(errors)


class _Look:
    """Looks at the files of clips, at each once.

    Attributes
    ----------
    paths : dict
        By clip, its file relative to the folder of videos; None where no file was found.
    """

    def __init__(self, videos_root: Path, paths: dict[str, str | None]) -> None:
        self.paths = paths
        self._root = videos_root
        self._sizes: dict[str, int | None] = {}

    def size(self, clip_id: str) -> int | None:
        """Size of the clip's file; None if it has none, -1 where the file system does not say."""
        if clip_id not in self._sizes:
            path = self.paths.get(clip_id)
            self._sizes[clip_id] = None if path is None else _size(self._root / path)
        return self._sizes[clip_id]

    def is_gone(self, clip_id: str, files: _Extracted, *, doubtful: bool) -> bool:
        """Whether the video of a clip with features is not there any more."""
        if self.paths.get(clip_id) is None:  # if its file exists, it is another clip now, or none
            return all(_size(self._root / each) != -1 for each in files.paths)
        size = self.size(clip_id)
        return size is None or (doubtful and size != -1 and size not in files.sizes)


def _size(path: Path) -> int | None:
    """Size of a file; None if it does not exist, -1 if that cannot be known, as its folder cannot be read."""
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return -1
