"""From a dataset's annotation files to its tables in the store."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from supportset.extract.readers import get_reader
from supportset.extract.readers.base import Annotations
from supportset.extract.readers.origin import Origin, origin_of, refuse_other
from supportset.extract.work.gone import Choice, find_gone
from supportset.extract.work.selection import require_videos
from supportset.store.errors import UsageError
from supportset.store.format.dataset import Dataset, write_dataset

_LONGEST = 100
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{_LONGEST - 1}}}")


@dataclass(frozen=True)
class AnnotatedDataset:
    """A dataset as its annotation describes it, not yet in the store.

    Attributes
    ----------
    name : str
        Name in the store.
    videos_root : Path
        Folder that the clips' paths are relative to.
    annotations : Annotations
        The rows, and notes for the user.
    origin : dict
        Where it was read from; see :func:`supportset.extract.readers.origin.origin_of`.
    """

    name: str
    videos_root: Path
    annotations: Annotations
    origin: Origin

    def refuse_other(self, root: str | Path) -> None:
        """Raise UsageError if the store ``root`` has tables of another folder under this name."""
        refuse_other(root, self.name, self.origin, self.annotations)

    def write(
        self,
        root: str | Path,
        gone: Choice | None = None,
        suspects: Iterable[str] = (),
        *,
        replace: bool = False,
    ) -> Dataset:
        """Write the tables into the store ``root``; equal tables are kept.

        A run writes them before it extracts, and afterwards again, with ``suspects``, if any clip is gone.

        Parameters
        ----------
        root : str or Path
        gone : str, optional
            Which clips are recorded as gone, see :func:`supportset.extract.work.gone.find_gone`; by default those that
            the store has recorded, for a run that does not look for videos.
        suspects : iterable of str
            Clips that the run found to be gone, for :func:`~supportset.extract.work.gone.find_gone`.
        replace : bool
            Replace the tables of another folder; then any number of its clips may be gone.

        Raises
        ------
        UsageError
            The store has tables of another folder under this name, or so many videos are gone that a disk may not be
            mounted. Nothing is written then.
        """
        found = self.annotations
        if not replace:
            self.refuse_other(root)
        elif gone == "auto":
            gone = "mark"
        marked = None if gone is None else find_gone(root, self.name, found.clips, self.videos_root, gone, suspects)
        return write_dataset(
            root,
            self.name,
            clips=found.clips,
            captions=found.captions,
            splits=found.splits,
            attributes=found.attributes,
            protocols=found.protocols,
            sources=found.sources,
            origin=self.origin,
            gone=marked,
        )


def read_dataset(
    reader: str, data: Path | None, videos: Path | None = None, name: str | None = None, *, need_videos: bool = True
) -> AnnotatedDataset:
    """Read a dataset's annotation and find its videos; nothing is written.

    Parameters
    ----------
    reader : str
        A name of :func:`supportset.extract.readers.reader_names`.
    data : Path, optional
        Folder of the annotation files; default: ``data/<reader>``.
    videos : Path, optional
        Folder of the videos; default: ``data``.
    name : str, optional
        Name in the store; default: the reader's name, for ``folder`` that of ``data``.
    need_videos : bool
        Refuse a dataset without any video file.

    Raises
    ------
    UsageError
        If the reader is unknown, the annotation absent or malformed, or no video is found.
    """
    read = get_reader(reader)
    data = data or Path("data") / read.name
    if videos is not None and not videos.is_dir():
        raise UsageError(f"{videos}: no such folder; --videos names the folder that the videos are in")
    found = read.read(data, videos)
    if need_videos:
        require_videos(found.clips, videos or data)
    name = name or (data.resolve().name if read.name == "folder" else read.name)
    if not _NAME.fullmatch(name):
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:_LONGEST] or "mine"
        raise UsageError(
            f"dataset name {name!r}: use at most {_LONGEST} letters, digits, - and _ without accents: --name {plain}"
        )
    return AnnotatedDataset(name, videos or data, found, origin_of(read.name, data, videos))
