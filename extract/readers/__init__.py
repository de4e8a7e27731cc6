"""Dataset readers: annotation files as distributed in, tables of clips, captions and splits out."""

from __future__ import annotations

from difflib import get_close_matches

from supportset.extract.readers.activitynet import ActivityNetReader
from supportset.extract.readers.base import Annotations, CaptionRow, ClipRow, Reader, SplitRow
from supportset.extract.readers.demo import DemoReader
from supportset.extract.readers.flickr8k import Flickr8kReader
from supportset.extract.readers.folder import FolderReader
from supportset.extract.readers.msrvtt import MSRVTTReader
from supportset.extract.readers.msvd import MSVDReader
from supportset.extract.readers.vatex import VATEXReader
from supportset.store.errors import UsageError

__all__ = ["READERS", "Annotations", "CaptionRow", "ClipRow", "Reader", "SplitRow", "get_reader"]

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        MSRVTTReader(),
        MSVDReader(),
        VATEXReader(),
        ActivityNetReader(),
        Flickr8kReader(),
        FolderReader(),
        DemoReader(),
    )
}


def get_reader(name: str) -> Reader:
    """The reader of a dataset by its name on the command line.

    Raises
    ------
    UsageError
        No dataset of that name: the nearest and the known ones are named.
    """
    if name in READERS:
        return READERS[name]
    close = get_close_matches(name, READERS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(f"unknown dataset {name!r}; {hint}known: {', '.join(READERS)} (your own videos: folder)")
