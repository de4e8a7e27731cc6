"""From where a user says features are to the folder that reads and writes them."""

from __future__ import annotations

from pathlib import Path

from store.files.folder import Folder
from store.files.local import LocalFolder


def open_folder(path: str | Path) -> Folder:
    """The folder at a path."""
    return LocalFolder(path)
