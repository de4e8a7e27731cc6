"""Comparison of a shard's files with its index: presence, size and hash."""

from __future__ import annotations

import os
import threading

import numpy as np
import xxhash

from supportset.store.errors import SupportsetError
from supportset.store.files import Folder, LocalFolder, hash_pieces, telling
from supportset.store.files.memory import empty_aligned
from supportset.store.format.index import StoredFile

PIECE = 2 << 20  # bytes read at a time: still in the processor's cache when they are hashed


class FileCheck:
    """Checks files of a folder. Threads may share it.

    Files are read, not mapped: a disk error in a mapping kills the process, and this check must survive it.

    Parameters
    ----------
    folder : Folder
        Folder of the shards. Files of a remote one do not go through the local cache.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._listed: dict[str, dict[str, int]] = {}  # of shards in a remote folder
        self._base = str(folder)
        self._buffer = _Buffer()

    def fault(self, file: StoredFile) -> tuple[str, str] | None:
        """Compare a file with its entry in the index.

        Returns
        -------
        kind : ``missing_file``
            ``size`` or ``content``, and the words for it; None where all is well.
        says : ``missing_file``
            ``size`` or ``content``, and the words for it; None where all is well.
        """
        if not isinstance(self._folder, LocalFolder):
            return self._fault_far(file)
        path = f"{self._base}/{file.name}"
        try:
            with telling("read the file", path):
                try:
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    return "missing_file", "the shard file is gone"
                try:
                    size = os.fstat(descriptor).st_size
                    if size != file.size:
                        return "size", f"the shard file has {size} bytes, its index says {file.size}"
                    found = self._hash(descriptor, size)
                finally:
                    os.close(descriptor)
        except SupportsetError as error:  # such as a bad sector: the other files are still checked
            return "content", str(error).removeprefix(f"{path}: ")
        return None if found == file.xxh3 else ("content", "its content differs from what was written")

    def _fault_far(self, file: StoredFile) -> tuple[str, str] | None:
        root = file.name.partition("/")[0]
        if root not in self._listed:  # one request a shard, not one a file
            self._listed[root] = self._folder.files(root)
        size = self._listed[root].get(file.name)
        if size is None:
            return "missing_file", "the shard file is gone"
        if size != file.size:
            return "size", f"the shard file has {size} bytes, its index says {file.size}"
        found = hash_pieces(self._folder.pieces(file.name))
        return None if found == file.xxh3 else ("content", "its content differs from what was written")

    def _hash(self, descriptor: int, size: int) -> str:
        if size > PIECE and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        digest = xxhash.xxh3_128()
        buffers = [self._buffer.memory]
        while count := os.readv(descriptor, buffers):
            digest.update(buffers[0][:count])
        return f"xxh3-128:{digest.hexdigest()}"


class _Buffer(threading.local):
    """Read buffer of each thread."""

    def __init__(self) -> None:
        self.memory = empty_aligned((PIECE,), np.uint8).data
