"""Paths of stores: local paths and URLs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from supportset.store.errors import UsageError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CUT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # the beginning of a URL that lost a slash
_MAGIC = re.compile(r"[*?\[\]]")  # fsspec would take such names as patterns


@dataclass(frozen=True, order=True)
class RemotePath:
    """Path in an object store, with the part of :class:`pathlib.Path` that the store needs.

    It is not an ``os.PathLike``, so that code for local files refuses it.

    Attributes
    ----------
    url : str
        Such as ``s3://bucket/features``, without a final slash.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}" if not self.url.endswith("/") else self.url + name)

    @property
    def name(self) -> str:
        """Last part."""
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """Path without the last part."""
        return RemotePath(self.url.rpartition("/")[0])


StorePath = Path | RemotePath


def store_path(path: str | StorePath) -> StorePath:
    """Parse a path or URL.

    Parameters
    ----------
    path : str or StorePath
        A local path, or a URL such as ``s3://bucket/features``; ``file://`` is a local path.

    Raises
    ------
    UsageError
        The URL is chained, lost a slash, or has characters of a pattern.
    """
    if isinstance(path, Path):
        return _not_cut(path)
    if not isinstance(path, str):
        return path
    match = _URL.match(path)
    if "::" in path and "://" in path:
        raise UsageError(f"{path}: chained URLs are not supported, the store has its cache: use the inner URL")
    if match is None:
        return _not_cut(Path(path))
    if match[1].lower() in ("file", "local"):
        return Path(path[match.end() :])
    check_name(path)
    rest = path[match.end() :].strip("/")
    return RemotePath(f"{match[1].lower()}://{rest}")


def local_path(path: str | Path, fix: str) -> Path:
    """Parse a local path; a URL is a UsageError with the fix."""
    place = store_path(path)
    if isinstance(place, RemotePath):
        raise UsageError(f"{place}: is not a local path: {fix}")
    return place


def _not_cut(path: Path) -> Path:
    """Return a local path; UsageError if it is a URL that lost a slash, which would make a folder ``s3:``."""
    if path.parts and _CUT.fullmatch(path.parts[0]) and not Path(path.parts[0]).exists():
        raise UsageError(
            f"{path}: there is no folder {path.parts[0]!r}, and a URL has two slashes: pass a string, such as "
            "'s3://bucket/features' (pathlib removes a slash)"
        )
    return path


def check_name(name: str) -> str:
    """Return a part of a URL; UsageError if fsspec would take it as a pattern."""
    if found := _MAGIC.search(name):
        raise UsageError(f"{name}: a name in a remote store cannot contain {found[0]!r}: use letters, digits, - and _")
    return name
