"""Finding files by name below a folder: one walk, then look-ups in memory."""

from __future__ import annotations

import os
from collections import defaultdict
from functools import cached_property
from pathlib import Path

from supportset.store.errors import UsageError


class FileTree:
    """Every file below a folder, from one directory walk.

    Hidden files and folders (names that start with a dot) and Zarr arrays are skipped. Symbolic links to folders are
    followed, each folder once.

    Parameters
    ----------
    root : Path
        Folder to walk.
    option : str
        The command-line option that named it, for errors.

    Attributes
    ----------
    root : Path
        The folder.
    files : list of str
        Paths relative to ``root`` with ``/`` between folders; the shallowest first, then by name.
    notes : list of str
        One line for each file or folder that was skipped because of a fault.

    Raises
    ------
    UsageError
        If ``root`` is absent, not a folder, or cannot be listed.
    """

    def __init__(self, root: Path, option: str = "--data") -> None:
        if not root.is_dir():
            what = "not a folder" if root.exists() else "no such folder"
            raise UsageError(f"{option} {root}: {what}; name the folder that holds the files")
        self.root = root
        self.notes: list[str] = []
        self._option = option
        self.files = sorted(self._walk(), key=lambda path: (path.count("/"), path))

    def _walk(self) -> list[str]:
        files: list[str] = []
        undecodable: list[str] = []
        seen: set[tuple[int, int]] = set()
        for folder, subfolders, names in os.walk(self.root, followlinks=True, onerror=self._unlisted):
            try:
                identity = os.stat(folder)
            except OSError as error:  # removed while the tree is walked
                self._unlisted(error)
                subfolders.clear()
                continue
            if (identity.st_dev, identity.st_ino) in seen:  # a link to a listed folder
                subfolders.clear()
                continue
            seen.add((identity.st_dev, identity.st_ino))
            subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name[-5:] != ".zarr")
            relative = Path(folder).relative_to(self.root).as_posix()
            prefix = "" if relative == "." else relative + "/"
            for name in names:
                if not name.startswith("."):
                    (files if is_utf8(prefix + name) else undecodable).append(prefix + name)
        if undecodable:
            # Tables are UTF-8 and cannot store such a name.
            self.notes.append(
                f"{len(undecodable)} files below {self.root} left out, their names are not UTF-8 "
                f"(first: {min(undecodable)!r}); rename them"
            )
        return files

    def _unlisted(self, error: OSError) -> None:
        if error.filename is not None and Path(error.filename) == self.root:
            raise UsageError(f"{self._option} {self.root}: cannot be listed: {error.strerror}") from error
        self.notes.append(f"folder {error.filename!r} left out, it cannot be listed: {error.strerror}")

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for path in self.files:
            found[path.rpartition("/")[2].lower()].append(path)
        return found

    def candidates(self, name: str, beside: Path | None = None) -> list[Path]:
        """List files called ``name`` in any case: the one in the folder of ``beside`` first, then the shallowest."""
        paths = [self.root / path for path in self._by_name.get(name.lower(), [])]
        if beside is not None:
            paths.sort(key=lambda path: path.parent != beside.parent)  # stable
        return paths

    def find(self, *names: str, beside: Path | None = None) -> Path | None:
        """Return the first candidate of the first of ``names`` that has any, else None.

        ``notes`` reports a choice between several candidates that ``beside`` does not decide.
        """
        for name in names:
            paths = self.candidates(name, beside)
            if not paths:
                continue
            if len(paths) > 1 and (beside is None or paths[0].parent != beside.parent):
                read, *others = (path.relative_to(self.root).as_posix() for path in paths)
                more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
                self.notes.append(f"{read} is read, {others[0]}{more} of the same name is not")
            return paths[0]
        return None

    def with_extension(self, *extensions: str) -> list[str]:
        """List files that end in one of ``extensions`` (lower case, with the dot), in any case."""
        return [path for path in self.files if os.path.splitext(path)[1].lower() in extensions]


def is_utf8(text: str) -> bool:
    """Whether ``text`` can be stored as UTF-8, without half a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
