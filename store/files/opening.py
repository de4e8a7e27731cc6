"""From where a user says features are to the folder that reads and writes them."""

from __future__ import annotations

from pathlib import Path

from supportset.store.files.folder import Folder
from supportset.store.files.local import LocalFolder
from supportset.store.files.places import StorePath, store_path


def open_folder(path: str | StorePath) -> Folder:
    """The folder at a path or a URL, whether anything is there or not.

    Raises
    ------
    UsageError
        A URL of a kind whose driver is not installed, or that is not known.
    """
    place = store_path(path)
    if isinstance(place, Path):
        return LocalFolder(place)
    from supportset.store.files.remote import RemoteFolder  # fsspec takes its time to import

    return RemoteFolder(place)
