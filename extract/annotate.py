"""From a dataset's annotation files to its tables in the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from extract.readers import get_reader
from store.dataset import Dataset, write_dataset
from store.errors import UsageError


@dataclass(frozen=True)
class Annotated:
    """A dataset whose tables are in the store.

    Attributes
    ----------
    dataset : its tables
    videos_root : folder that the clips' paths are relative to
    notes : one-line messages for the user
    """

    dataset: Dataset
    videos_root: Path
    notes: list[str]


def annotate(reader: str, data: Path | None, videos: Path | None, name: str | None, root: str | Path) -> Annotated:
    """Read a dataset's annotation and write its tables into the store.

    Parameters
    ----------
    reader : one of ``extract.readers.READERS``
    data : folder of the annotation files; default ``data/<reader>``
    videos : folder of the videos; default ``data``
    name : in the store; default the reader's name, for ``folder`` that of ``data``
    root : the store

    Raises
    ------
    UsageError
        Unknown reader, absent or malformed annotation.
    """
    read = get_reader(reader)
    data = data or Path("data") / read.name
    if read.name == "folder" and name is None:
        name = data.resolve().name
    if videos is not None and not videos.is_dir():
        raise UsageError(f"{videos}: no such folder; --videos names the folder that the videos are in")
    found = read.read(data, videos)
    dataset = write_dataset(
        root,
        name or read.name,
        clips=found.clips,
        captions=found.captions,
        splits=found.splits,
        protocols=found.protocols,
        sources=found.sources,
    )
    return Annotated(dataset, videos or data, found.notes)
