"""Where a store is: a path of this machine, or a URL. The one place that tells them apart and joins names to them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from supportset.store.errors import UsageError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CUT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # what is left of a URL's beginning with one slash
_MAGIC = re.compile(r"[*?\[\]]")  # fsspec takes names with these for patterns, and would touch other objects


@dataclass(frozen=True, order=True)
class RemotePath:
    """A place in an object store, with as much of :class:`pathlib.Path` as the store needs.

    It is no ``os.PathLike``: what takes local files only must refuse it, not look for a folder called ``s3:``.

    Attributes
    ----------
    url : such as ``s3://bucket/features``, without a slash at the end
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}" if not self.url.endswith("/") else self.url + name)

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The place that this one lies in."""
        return RemotePath(self.url.rpartition("/")[0])


StorePath = Path | RemotePath


def store_path(path: str | StorePath) -> StorePath:
    """A place by what a user wrote.

    Parameters
    ----------
    path : a local path, or a URL such as ``s3://bucket/features``; ``file://`` is a local path

    Raises
    ------
    UsageError
        A URL that several storages are chained in, or with characters that fsspec takes for a pattern; one that lost
        a slash.
    """
    if isinstance(path, Path):
        return _not_cut(path)
    if not isinstance(path, str):
        return path
    match = _URL.match(path)
    if "::" in path and "://" in path:
        raise UsageError(f"{path}: chained URLs are not taken, the store keeps a cache of its own: name the inner one")
    if match is None:
        return _not_cut(Path(path))
    if match[1].lower() in ("file", "local"):
        return Path(path[match.end() :])
    check_name(path)
    rest = path[match.end() :].strip("/")
    return RemotePath(f"{match[1].lower()}://{rest}")


def local_path(path: str | Path, mend: str) -> Path:
    """A path of this machine, for what takes no other; UsageError with the mend where it is a URL."""
    place = store_path(path)
    if isinstance(place, RemotePath):
        raise UsageError(f"{place}: is not on this machine: {mend}")
    return place


def _not_cut(path: Path) -> Path:
    """Give a local path back; UsageError where a folder called ``s3:`` would be made of a URL."""
    if path.parts and _CUT.fullmatch(path.parts[0]) and not Path(path.parts[0]).exists():
        raise UsageError(
            f"{path}: there is no folder {path.parts[0]!r} here, and a URL has two slashes: write it as text, such as "
            "'s3://bucket/features' (pathlib takes one away)"
        )
    return path


def check_name(name: str) -> str:
    """Give a part of a URL back; UsageError where fsspec would take it for a pattern."""
    if found := _MAGIC.search(name):
        raise UsageError(
            f"{name}: a name in a remote store cannot have {found[0]!r} in it: use letters, digits, - and _"
        )
    return name
