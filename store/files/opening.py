"""Folder of a path or a URL."""

from __future__ import annotations

from pathlib import Path

from supportset.store.files.folder import Folder
from supportset.store.files.local import LocalFolder
from supportset.store.files.places import StorePath, store_path


def open_folder(path: str | StorePath) -> Folder:
    """Open the folder at a path or a URL; it need not exist.

    Raises
    ------
    UsageError
        The kind of URL is unknown, or its driver is not installed.
    """
    place = store_path(path)
    if isinstance(place, Path):
        return LocalFolder(place)
    from supportset.store.files.remote import RemoteFolder  # fsspec takes its time to import

    return RemoteFolder(place)
