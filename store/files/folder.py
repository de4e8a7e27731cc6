"""What the store asks of a storage: :class:`Folder`, and the :class:`MappedFile` that reading gives."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from store.errors import SupportsetError

Part = bytes | memoryview
Parts = Sequence[Part]

TEMPORARY = ".tmp-"  # how the names of unfinished files begin; a reader never looks at them

_MENDS = {
    errno.ENOSPC: "free some space and run again, what was committed is kept",
    errno.EDQUOT: "the quota is used up: free some space and run again, what was committed is kept",
    errno.EACCES: "check the permissions, or use another folder",
    errno.EPERM: "check the permissions, or use another folder",
    errno.EROFS: "the file system is read-only: use another folder",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a file stands where a folder should be: move it away",
    errno.EISDIR: "a folder stands where a file should be: move it away",
    errno.EIO: "the disk reports a fault: check it, then run again",
}


@contextmanager
def telling(action: str, path: object) -> Iterator[None]:
    """Turn an ``OSError`` into one line that names the file and the mend."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        mend = _MENDS.get(error.errno or 0)
        raise SupportsetError(f"{path}: cannot {action}: {reason}" + (f"; {mend}" if mend else "")) from error


class MappedFile(Protocol):
    """A file as memory, read slice by slice.

    Attributes
    ----------
    content : read-only, of the whole file's length. Where the file is not complete, bytes must not be touched before
        :meth:`fetch` was asked for them: until then they are zeros
    complete : whether all of the content may be touched at any time
    """

    content: memoryview
    complete: bool

    def is_cached(self, offset: int) -> bool:
        """Whether the byte can be had without waiting for a disk or a network; True where that cannot be told."""
        ...

    def ask(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Say which ranges of bytes, start and stop, will be read soon; returns at once."""
        ...

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Return when the bytes of these ranges, start and stop, are there."""
        ...


class Folder(Protocol):
    """A space of names that appear whole or not at all. One implementation a kind of storage.

    ``str(folder)`` is what messages call it.
    """

    def child(self, name: str) -> Folder:
        """A folder in this one."""
        ...

    def names(self) -> list[str]:
        """First components of all names in the folder, sorted; empty where the folder is absent."""
        ...

    def size(self, name: str) -> int | None:
        """Size of a file in bytes, None where it is absent."""
        ...

    def read(self, name: str) -> bytes | None:
        """Content of a file, None where it is absent."""
        ...

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Contents of files in the order of the names, None for each that is absent; side by side where that helps."""
        ...

    def map(self, name: str) -> MappedFile:
        """A file as memory. It lives as long as something views its content."""
        ...

    def put(self, files: Mapping[str, Parts], *, replace: bool = True) -> bool:
        """Write files whose names share their first component: it appears whole, and lasts, or not at all."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file or a tree; no error where it is absent."""
        ...
