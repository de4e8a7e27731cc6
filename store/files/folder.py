"""What the store asks of a storage: :class:`Folder`, and the :class:`MappedFile` that reading gives."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from supportset.store.errors import SupportsetError

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

    complete: bool

    @property
    def content(self) -> memoryview: ...

    def expect_random(self) -> None:
        """Say that pieces anywhere will be read, each asked for before: what lies around them is not wanted."""
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

    def stamps(self) -> dict[str, str]:
        """What changes when a file changes (size and time, or ETag), by name, of the files right in the folder."""
        ...

    def glob(self, pattern: str) -> list[str]:
        """Names of files that fit a pattern, sorted: parts between ``/``, each a name or ``*`` for any."""
        ...

    def size(self, name: str) -> int | None:
        """Size of a file in bytes, None where it is absent."""
        ...

    def changed(self, name: str) -> float | None:
        """When a file, or anything in a tree, last changed, a new name included.

        Returns
        -------
        float or None
            Seconds since 1970 by the storage's clock; None where it is gone; NaN where the storage tells no times.
        """
        ...

    def files(self, name: str) -> dict[str, int]:
        """Names and sizes in bytes of the files of a tree, or of the one file; names begin with the tree's."""
        ...

    def read(self, name: str) -> bytes | None:
        """Content of a file, None where it is absent."""
        ...

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Contents of files in the order of the names, None for each that is absent; side by side where that helps."""
        ...

    def pieces(self, name: str) -> Iterator[bytes | memoryview]:
        """Content of a file from its first byte to its last, read once and kept nowhere; each piece until the next."""
        ...

    def map(self, name: str) -> MappedFile:
        """A file as memory. It lives as long as something views its content."""
        ...

    def put(self, files: Mapping[str, Parts], *, replace: bool = True) -> bool:
        """Write files whose names share their first component: it appears whole, and lasts, or not at all.

        Where a storage cannot do that for several files, they appear one by one: whoever writes a tree commits it by a
        file that is put afterwards.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a file or a tree; no error where it is absent."""
        ...

    def remove_unless(self, name: str, there: str | None) -> bool:
        """Remove a file or a tree that nobody seems to need, unless the file is there that makes it needed.

        Its owner may be at work after all: whoever puts that file and then still finds the tree keeps the tree. (A
        storage that cannot rename lets a moment pass between the last look and the removal.)

        Parameters
        ----------
        name : of the file or tree
        there : name of the file that makes it needed; None where nothing does

        Returns
        -------
        bool
            Whether it was removed; also True where it was gone.
        """
        ...

    def discard(self, name: str, first: str) -> None:
        """Remove a tree so that what is half removed is never taken for whole.

        Parameters
        ----------
        name : of the tree
        first : name in it of the file without which nobody looks at the others: it goes before them

        What a killed run left behind goes with the next call in the folder.
        """
        ...

    def prune(self, name: str) -> None:
        """Remove a folder in this one that is empty, where the storage knows empty folders."""
        ...


def fetched(file: MappedFile) -> memoryview:
    """All of a file's content, fetched."""
    file.fetch([(0, len(file.content))])
    return file.content
