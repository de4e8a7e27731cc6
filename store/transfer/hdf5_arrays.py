"""Datasets of an HDF5 file, by all names that lead to them, without values that nobody wrote.

HDF5 reads what is missing as fill values: a chunk or an array that was never written, a part of a virtual dataset whose
source is not there. And a file may name other files, as links, as external storage or as virtual sources: they are read
on request only, except linked HDF5 files in the folder of the file or below.
"""

from __future__ import annotations

import math
import posixpath
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from supportset.store.format.shard import Array
from supportset.store.transfer.arrays import Fault, reading, refuse_bomb

MAX_DEPTH = 32  # of groups, and of links that lead to links

_LATER = "--follow-links allows it"


class Hdf5Arrays:
    """The datasets of a file.

    Parameters
    ----------
    path : Path
        Path of the file.
    follow_links : bool, default False
        Whether other files may be read anywhere.

    Attributes
    ----------
    names : list of str
        Names of all datasets, and of links that lead nowhere, with ``/`` between the parts.
    others : set of str
        Names of other files that were opened or read.
    """

    def __init__(self, path: Path, follow_links: bool = False) -> None:
        self._follow = follow_links
        self._files = {path.resolve(): h5py.File(path, "r")}
        self._root = self._files[path.resolve()]["/"]
        self.others: set[str] = set()
        self.names = self._list()

    def read(self, name: str) -> Array:
        """Read a dataset; raises Fault."""
        found = self.dataset(name)
        return np.asarray(reading(lambda: found[()]))

    def dataset(self, name: str) -> Any:
        """Find a dataset and check that all of it is there; raises Fault."""
        found = reading(lambda: self._resolve(self._root, name))
        if not isinstance(found, h5py.Dataset):
            raise Fault("unreadable", "is not a dataset")
        reading(lambda: self._refuse_fill_values(found))
        return found

    def _list(self) -> list[str]:
        names: list[str] = []
        targets: set[str] = set()  # of soft links, in this file
        waiting: list[tuple[str, Any, tuple[int, ...]]] = [("", self._root, ())]
        while waiting:
            prefix, group, above = waiting.pop()
            identity = hash(group.id)
            if identity in above or len(above) > MAX_DEPTH:
                continue
            inner = []
            for key in group:
                name = prefix + key
                link = group.get(key, getlink=True)
                try:
                    found = self._resolve(group, key)
                except Fault:
                    names.append(name)  # reading it says what is wrong
                    continue
                if isinstance(found, h5py.Group):
                    inner.append((f"{name}/", found, (*above, identity)))
                elif isinstance(found, h5py.Dataset):
                    names.append(name)
                    if self._follow:
                        self.others |= _other_files(found)
                    if isinstance(link, h5py.SoftLink):
                        targets.add(posixpath.normpath(posixpath.join("/", prefix, link.path))[1:])
            waiting += reversed(inner)
        return [name for name in names if posixpath.dirname(name) not in _aliased(names, targets)]

    def _resolve(self, group: Any, name: str, depth: int = 0) -> Any:
        """The object at a path. HDF5 itself never follows a link here, as that may open any file."""
        if depth > MAX_DEPTH:
            raise Fault("unreadable", "its links lead in a circle")
        node = group
        for part in filter(None, name.split("/")):
            link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
            if link is None:
                raise Fault("unreadable", f"is a link to {name!r}, which is not in the file")
            if isinstance(link, h5py.SoftLink):
                start = node.file["/"] if link.path.startswith("/") else node
                node = self._resolve(start, link.path, depth + 1)
            elif isinstance(link, h5py.ExternalLink):
                other = self._open(link.filename, Path(node.file.filename).parent)
                node = self._resolve(other["/"], link.path, depth + 1)
            else:
                node = node[part]
        return node

    def _open(self, name: str, folder: Path) -> Any:
        """Another HDF5 file that a link or a virtual dataset names."""
        path = (folder / name).resolve()
        if not self._follow and not path.is_relative_to(folder.resolve()):
            raise Fault("unreadable", f"links to {name!r}, which is not in the folder of the file: {_LATER}")
        if not path.is_file():
            raise Fault("unreadable", f"links to {name!r}, which is not a file")
        self.others.add(name)
        if path not in self._files:
            self._files[path] = h5py.File(path, "r")
        return self._files[path]

    def _refuse_fill_values(self, dataset: Any, depth: int = 0) -> None:
        """Raise Fault if a part of a dataset was never written, or is in another file that may not be read."""
        if depth > MAX_DEPTH:
            raise Fault("unreadable", "its virtual sources lead in a circle")
        if not dataset.size:
            return
        refuse_bomb(dataset.nbytes, dataset.id.get_storage_size(), bounded=dataset.is_virtual or bool(dataset.external))
        if dataset.is_virtual:
            self._check_sources(dataset, depth)
        elif dataset.external:
            self._check_external(dataset)
        elif dataset.chunks:
            needed = math.prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
            if (there := dataset.id.get_num_chunks()) < needed:
                raise Fault("unreadable", f"{needed - there:,} of its {needed:,} chunks were never written")
        elif not dataset.id.get_storage_size():
            raise Fault("unreadable", "was never written")

    def _check_sources(self, dataset: Any, depth: int) -> None:
        if not self._follow:
            raise Fault("unreadable", f"is a virtual dataset, whose values are in other files: {_LATER}")
        folder, covered = Path(dataset.file.filename).parent, 0
        for source in dataset.virtual_sources():
            file = dataset.file if source.file_name == "." else self._open(source.file_name, folder)
            found = self._resolve(file["/"], source.dset_name)
            if not isinstance(found, h5py.Dataset):
                raise Fault("unreadable", f"its virtual source {source.dset_name!r} is not a dataset")
            needed = source.vspace.get_select_npoints()
            if found.size < needed:
                raise Fault("unreadable", f"its virtual source {source.dset_name!r} has too few values")
            self._refuse_fill_values(found, depth + 1)
            covered += needed
        if covered < dataset.size:
            raise Fault("unreadable", f"{dataset.size - covered:,} of its {dataset.size:,} values have no source")

    def _check_external(self, dataset: Any) -> None:
        if not self._follow:
            raise Fault("unreadable", f"has its values in another file, {dataset.external[0][0]!r}: {_LATER}")
        there = 0
        for name, offset, size in dataset.external:
            path = Path(name)  # HDF5 looks for it in the working directory
            if not path.is_file() or path.stat().st_size < offset + min(size, dataset.nbytes):
                raise Fault("unreadable", f"its values are in {name!r}, which is missing or too short")
            there += min(size, dataset.nbytes)
        if there < dataset.nbytes:
            raise Fault("unreadable", "its external files are too short")


def _other_files(dataset: Any) -> set[str]:
    """Names of the files that hold values of a dataset."""
    sources = [source.file_name for source in dataset.virtual_sources()] if dataset.is_virtual else []
    return {*sources, *(name for name, _, _ in dataset.external or ())} - {"."}


def _aliased(names: list[str], targets: set[str]) -> set[str]:
    """Groups whose datasets are all named by links from elsewhere: the links are the names of the clips."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(posixpath.dirname(name), []).append(name)
    return {group for group, held in groups.items() if group and targets.issuperset(held)}
