"""Is a shard's file what its index says: there, as long, and of the same hash?"""

from __future__ import annotations

import os
import threading

import numpy as np
import xxhash

from supportset.store.errors import SupportsetError
from supportset.store.files import Folder, LocalFolder, hash_pieces, telling
from supportset.store.files.memory import empty_aligned
from supportset.store.format.index import StoredFile

PIECE = 2 << 20  # bytes read at a time: they are hashed while they lie in the processor's cache


class FileCheck:
    """Checks files of a folder one after another. Threads may share it.

    Files are read rather than mapped: a disk that fails under a mapping kills the process, and this is what people
    run when a disk fails.

    Parameters
    ----------
    folder : what the names in an index are relative to. Of a remote one nothing goes through the local cache
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._listed: dict[str, dict[str, int]] = {}  # of shards in a remote folder
        self._base = str(folder)
        self._buffer = _Buffer()

    def fault(self, file: StoredFile) -> tuple[str, str] | None:
        """What is wrong with a file.

        Returns
        -------
        kind, says : ``missing_file``, ``size`` or ``content``, and the words for it; None where all is well
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
        except SupportsetError as error:  # a bad sector: the other files are still worth a look
            return "content", str(error).removeprefix(f"{path}: ")
        return None if found == file.xxh3 else ("content", "is not what was written, a bit or more differs")

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
        return None if found == file.xxh3 else ("content", "is not what was written, a bit or more differs")

    def _hash(self, descriptor: int, size: int) -> str:
        if size > PIECE and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        digest = xxhash.xxh3_128()
        buffers = [self._buffer.memory]
        while count := os.readv(descriptor, buffers):
            digest.update(buffers[0][:count])
        return f"xxh3-128:{digest.hexdigest()}"


class _Buffer(threading.local):
    """A thread's own memory to read into."""

    def __init__(self) -> None:
        self.memory = empty_aligned((PIECE,), np.uint8).data
