"""Dataset readers: annotation files as distributed in, tables of clips, captions and splits out."""

from __future__ import annotations

from logging import getLogger

from supportset.extract.readers.base import Reader
from supportset.extract.readers.builder import Annotations, CaptionRow, ClipRow, SplitRow
from supportset.store.errors import UsageError
from supportset.store.plugins import load_plugin, nearest, plugins

__all__ = ["Annotations", "CaptionRow", "ClipRow", "Reader", "SplitRow", "get_reader", "list_readers", "reader_names"]

_PLACE = ("supportset.readers", "supportset.extract.readers.datasets", "READER")


def reader_names() -> list[str]:
    """List the known datasets: one module of ``datasets/`` each, then those of other packages."""
    return list(plugins(*_PLACE))


def get_reader(name: str) -> Reader:
    """Return the reader of a dataset by its name on the command line.

    Raises
    ------
    UsageError
        If no dataset has that name (the nearest and the known ones are listed), or its plugin cannot be loaded.
    """
    known = plugins(*_PLACE)
    if name not in known:
        raise UsageError(
            f"dataset {name!r} is unknown{nearest(name, known)}: known are {', '.join(known)} (your own videos: folder)"
        )
    reader: Reader = load_plugin(known[name])
    return reader


def list_readers() -> list[Reader]:
    """Return all readers; one that cannot be loaded is left out with a warning."""
    readers = []
    for name in reader_names():
        try:
            readers.append(get_reader(name))
        except UsageError as error:
            getLogger(__name__).warning("%s", error)
    return readers
