"""Folder of files that are made once for a user and used by all runs."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from supportset.store.errors import UsageError


def cache_folder() -> Path:
    """Return ``$SUPPORTSET_CACHE``, or ``supportset`` in the user's cache folder."""
    chosen = os.environ.get("SUPPORTSET_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "supportset"


def unpack_once(archive: Path, name: str) -> Path:
    """Unpack a zip archive into the folder ``name`` of the cache, unless it exists.

    Parameters
    ----------
    archive : Path
        Zip file.
    name : str
        Name of the folder, with a version, so that a newer archive gets another folder.

    Returns
    -------
    Path
        A complete folder: it gets its name when all files are in it.

    Raises
    ------
    UsageError
        The archive cannot be read, or the cache cannot be written.
    """
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        try:
            with zipfile.ZipFile(archive) as content:
                content.extractall(unfinished)
            try:
                unfinished.rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process made it, with the same content
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"cannot unpack {archive} into {folder} ({error}); set SUPPORTSET_CACHE to a folder that can be written, "
            "or install the package again"
        ) from None
    return folder
