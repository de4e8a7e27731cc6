"""Interface to storage: :class:`Folder`, and :class:`MappedFile` for reading."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from supportset.store.errors import SupportsetError

Part = bytes | memoryview
Parts = Sequence[Part]

TEMPORARY = ".tmp-"  # prefix of unfinished files, which readers ignore

_FIXES = {
    errno.ENOSPC: "free some space and run again",
    errno.EDQUOT: "the quota is used up: free some space and run again",
    errno.EACCES: "check the permissions, or use another folder",
    errno.EPERM: "check the permissions, or use another folder",
    errno.EROFS: "the file system is read-only: use another folder",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a file has the name of a folder: name another folder, or move the file away",
    errno.EISDIR: "a folder has the name of a file: move it away",
    errno.EIO: "the disk reports an error: check it, then run again",
}


@contextmanager
def telling(action: str, path: object, kept: str = "") -> Iterator[None]:
    """Turn an ``OSError`` into a SupportsetError that names the file and the fix.

    Parameters
    ----------
    action : str
        What was tried.
    path : object
        The file.
    kept : str, optional
        What a full disk leaves as it was, for the end of the message.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        fix = _FIXES.get(error.errno or 0)
        if fix and kept and error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix += f": {kept}"
        raise SupportsetError(f"{path}: cannot {action}: {reason}" + (f"; {fix}" if fix else "")) from error


class MappedFile(Protocol):
    """A file as memory, read slice by slice.

    Attributes
    ----------
    content : memoryview
        Read-only, with the size of the file. Unless it is complete, bytes are zeros until :meth:`fetch` returned.
    complete : bool
        Whether all bytes may be read without :meth:`fetch`.
    """

    complete: bool

    @property
    def content(self) -> memoryview: ...

    def expect_random(self) -> None:
        """Announce random access: bytes around the requested ranges are not needed."""
        ...

    def ask(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Announce ranges of bytes, (start, stop) each, that will be read soon; returns at once."""
        ...

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Return when the bytes of these ranges, (start, stop) each, can be read."""
        ...


class Folder(Protocol):
    """Folder of files that appear complete or not at all, with one implementation for each kind of storage.

    Messages name it ``str(folder)``.
    """

    def child(self, name: str) -> Folder:
        """Return a subfolder."""
        ...

    def names(self) -> list[str]:
        """List the first components of all names in the folder, sorted; empty if the folder is missing."""
        ...

    def stamps(self) -> dict[str, str]:
        """Return a stamp (size and time, or ETag) of each file directly in the folder, by name."""
        ...

    def glob(self, pattern: str) -> list[str]:
        """List the names of files that match a pattern, sorted: parts between ``/``, each a name or ``*``."""
        ...

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, None if it is missing."""
        ...

    def changed(self, name: str) -> float | None:
        """Return the time of the last change of a file, or of anything in a tree, renames included.

        Returns
        -------
        float or None
            Seconds since 1970 by the storage's clock; None if it is missing; NaN if the storage has no times.
        """
        ...

    def files(self, name: str) -> dict[str, int]:
        """Return the sizes in bytes of the files of a tree, or of one file, by name; names begin with the tree's."""
        ...

    def read(self, name: str) -> bytes | None:
        """Read a file; None if it is missing."""
        ...

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Read files in the order of the names, concurrently if that helps; None for a missing one."""
        ...

    def pieces(self, name: str) -> Iterator[bytes | memoryview]:
        """Read a file in pieces, without a cache; each piece is valid until the next."""
        ...

    def map(self, name: str) -> MappedFile:
        """Map a file into memory. It stays mapped as long as something views its content."""
        ...

    def put(self, files: Mapping[str, Parts], *, replace: bool = True) -> bool:
        """Write files whose names share their first component: durably, and all or none.

        If a storage cannot do that for several files, they appear one by one: the caller commits a tree by another
        file, afterwards.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a file or a tree, if it exists."""
        ...

    def remove_unless(self, name: str, there: str | None) -> bool:
        """Remove a file or a tree that seems unused, unless the file ``there`` exists.

        Its writer may still run: if it puts ``there`` and then still finds the tree, the tree stays. (On a storage
        without renames, a moment passes between the last check and the removal.)

        Parameters
        ----------
        name : str
            Name of the file or tree.
        there : str or None
            Name of the file that refers to it; None if there is no such file.

        Returns
        -------
        bool
            Whether it is removed, also if it was missing.
        """
        ...

    def discard(self, name: str, first: str) -> None:
        """Remove a tree so that no reader takes a half-removed one as complete.

        The next call in the folder completes a removal that was killed.

        Parameters
        ----------
        name : str
            Name of the tree.
        first : str
            Name in it of the file without which no reader uses the others: it is removed first.
        """
        ...

    def prune(self, name: str) -> None:
        """Remove an empty subfolder, if the storage has empty folders."""
        ...


def fetched(file: MappedFile) -> memoryview:
    """Fetch and return all content of a file."""
    file.fetch([(0, len(file.content))])
    return file.content
