"""A searched collection that stays open: its searcher, its thumbnails, and the files of its clips."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from supportset.search.run import Run
from supportset.search.searcher import NoClips, Searcher
from supportset.search.zero_shot import open_zero_shot
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import hash_parts, open_folder
from supportset.store.format.dataset import DATASET
from supportset.store.format.thumbnails import thumbnails_path
from supportset.store.read.thumbnails import Thumbnails

OpenSearcher = Callable[[Searcher | None], Searcher]


class NotFound(UsageError):  # noqa: N818 - not an error by itself
    """A library, a clip or a file that does not exist."""


class NotReady(SupportsetError):  # noqa: N818 - not an error by itself
    """A library without features so far."""


@dataclass(frozen=True)
class _Opened:
    """A library as it was when its store was opened."""

    searcher: Searcher
    thumbnails: Thumbnails | None
    stamp: str

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row of the clips' table by clip id."""
        return {clip_id: row for row, clip_id in enumerate(self.searcher.dataset.clips["clip_id"].to_pylist())}

    @cached_property
    def recorded(self) -> dict[str, tuple[int | None, int | None]]:
        """Size and modification time, in ns, of the file of each clip when it was extracted."""
        rows = self.searcher.features.sets[0].rows()
        columns = (rows[name].to_pylist() for name in ("clip_id", "source_size", "source_mtime_ns"))
        return {clip_id: (size, mtime) for clip_id, size, mtime in zip(*columns, strict=True)}


class Library:
    """One searched collection: a retriever, the clips of a dataset, and the folder of its videos.

    Parameters
    ----------
    name : str
        Of the library in URLs; other characters than letters, digits, ``.``, ``_`` and ``-`` become ``-``.
    open_searcher : callable
        Opens the store as it is now. It gets the searcher that it replaces, or None, and may keep its loaded model.
    videos : str or Path, optional
        Folder of the videos; by default the one that the dataset was read from.
    index : str
        What finds moments, see `supportset.search.index.open_index`.
    wait : bool
        Whether a library without features is no error: `refresh` opens it when there are some.

    Attributes
    ----------
    name : str
    index : str
        What finds moments, see `supportset.search.index.open_index`.

    Raises
    ------
    UsageError
        No such features or run, or no clip to search (not with ``wait``).
    """

    def __init__(
        self,
        name: str,
        open_searcher: OpenSearcher,
        *,
        videos: str | Path | None = None,
        wait: bool = False,
        index: str = "exact",
    ) -> None:
        self.name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "library"
        self.index = index
        self._open, self._videos = open_searcher, None if videos is None else Path(videos)
        self._refreshing = threading.Lock()
        self._opened: _Opened | None = None
        try:
            self.refresh()
        except UsageError:
            if not wait:
                raise

    @classmethod
    def of_run(cls, run: str | Path, store: str | Path, *, device: str = "auto", **options: Any) -> Library:
        """Open a trained run and the dataset that it was trained on; ``options`` are those of the class."""
        retriever = Run(run, device)

        def open_searcher(previous: Searcher | None) -> Searcher:
            return Searcher(retriever, store)

        return cls(options.pop("name", Path(run).resolve().name), open_searcher, **options)

    @classmethod
    def of_features(
        cls,
        features: str,
        store: str | Path,
        *,
        encoder: str | None = None,
        device: str = "auto",
        pairing: dict[str, Any] | None = None,
        **options: Any,
    ) -> Library:
        """Open the features of an encoder pair, named as ``DATASET/FEATURES``; ``options`` are those of the class."""

        def open_searcher(previous: Searcher | None) -> Searcher:
            if previous is not None:
                return Searcher(previous.retriever.reopened())
            return Searcher(open_zero_shot(features, store, encoder=encoder, device=device, **(pairing or {})))

        return cls(options.pop("name", features.partition("/")[0]), open_searcher, **options)

    @property
    def ready(self) -> bool:
        """Whether there is something to search."""
        return self._opened is not None

    @property
    def searcher(self) -> Searcher:
        """The searcher of the store as it was at the last `refresh`; take it once for all that one answer needs.

        Raises
        ------
        NotReady
            No features so far.
        """
        return self._now().searcher

    @property
    def videos(self) -> Path | None:
        """Folder of the videos; None where it is not known."""
        if self._videos is not None or self._opened is None:
            return self._videos
        origin = self._opened.searcher.dataset.info.get("origin")
        folder = origin.get("videos") if isinstance(origin, dict) else None
        return Path(folder) if isinstance(folder, str) else None

    @videos.setter
    def videos(self, folder: Path | None) -> None:
        self._videos = folder

    @property
    def thumbnails(self) -> Thumbnails | None:
        """Pictures of the clips; None where none were taken."""
        return None if self._opened is None else self._opened.thumbnails

    def refresh(self) -> bool:
        """Open the store again if it has changed; searches that run meanwhile end on what they began with.

        Returns
        -------
        bool
            Whether anything is new.

        Raises
        ------
        SupportsetError
            The store cannot be opened; what was open stays in use.
        """
        with self._refreshing:
            opened = self._opened
            if opened is not None and _stamp(opened.searcher) == opened.stamp:
                return False
            try:
                searcher = self._open(None if opened is None else opened.searcher)
            except NoClips:
                if opened is None:
                    raise
                self._opened = None  # all videos are gone
                return True
            # Loads and makes what the first searches need, and shows that they work
            searcher.search(["a video"], 1, "moment", index=self.index)
            if searcher.retriever.weighting is None:
                searcher.search(["a video"], 1, "clip")
            searcher.describe_columns()  # seconds, for hundreds of thousands of captions
            self._opened = _Opened(searcher, Thumbnails.open(searcher.features.sets[0].path), _stamp(searcher))
            return True

    def row(self, clip_id: str) -> dict[str, Any]:
        """The row of a clip in the clips' table.

        Raises
        ------
        NotFound
            No such clip.
        """
        opened = self._now()
        if clip_id not in opened.rows:
            raise NotFound(f"library {self.name!r} has no clip {clip_id!r}")
        row: dict[str, Any] = opened.searcher.dataset.clips.slice(opened.rows[clip_id], 1).to_pylist()[0]
        return row

    def video_file(self, clip_id: str) -> Path:
        """The file of a clip: the only way from an id to a file.

        Raises
        ------
        NotFound
            No such clip, no file of it, or one that lies outside the folder of the videos, also through a link. Where
            the folder is the one that the store names, also a file that is not the one that was extracted: a store
            from elsewhere cannot know the times of this machine's files.
        """
        relative = self.row(clip_id)["path"]
        if relative is None:
            raise NotFound(f"the file of clip {clip_id!r} is not known: the last extraction did not find it")
        if self.videos is None:
            raise NotFound(f"the folder of the videos of {self.name!r} is not known: start serve with --videos-root")
        try:
            root = self.videos.resolve(strict=True)
            file = (root / relative).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):  # absent; a loop of links; a NUL
            raise NotFound(f"the file of clip {clip_id!r} is not there any more") from None
        if not file.is_relative_to(root) or os.path.isabs(relative):
            raise NotFound(f"the file of clip {clip_id!r} lies outside the folder of the videos")
        if not file.is_file():
            raise NotFound(f"the file of clip {clip_id!r} is not a file")
        found = file.stat()
        if self._videos is None and self._now().recorded.get(clip_id) != (found.st_size, found.st_mtime_ns):
            raise NotFound(
                f"the file of clip {clip_id!r} is not the one that was extracted: extract again, or start serve with "
                "--videos-root"
            )
        return file

    def _now(self) -> _Opened:
        if self._opened is None:
            raise NotReady(f"library {self.name!r} has nothing to search yet: no clip has features")
        return self._opened


def _stamp(searcher: Searcher) -> str:
    """What changes when clips are added or removed: the dataset's commit, and the index files of its features."""
    sets = searcher.features.sets
    parts = [open_folder(sets[0].path.parent.parent).read(DATASET) or b""]
    for path in (*(feature_set.path for feature_set in sets), thumbnails_path(sets[0].path)):
        names = open_folder(path).child("shards").stamps()
        parts += [name.encode() for name in sorted(names) if name.endswith(".parquet")]
    return hash_parts(parts)
