"""Files that clients send to search by: their vectors, for as long as there is room."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from supportset.search.library import NotFound
from supportset.search.query import Term

Vectors: TypeAlias = "dict[Term, NDArray[np.floating]]"
_MOST = 500  # remembered; the oldest is forgotten


@dataclass(frozen=True)
class Upload:
    """One file: its vector in the space of a library, and a small JPEG of it."""

    library: str
    vector: NDArray[np.floating]
    preview: bytes


class Uploads:
    """What is remembered of uploads; the files themselves are not kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Upload] = OrderedDict()

    def keep(self, upload: Upload) -> str:
        """Remember an upload; return its id, which nobody guesses."""
        name = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[name] = upload
            if len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        return name

    def get(self, name: str) -> Upload:
        """Look up an upload.

        Raises
        ------
        NotFound
            It is not remembered.
        """
        with self._lock:
            if name not in self._kept:
                raise NotFound("this upload is not remembered any more: upload the file again")
            self._kept.move_to_end(name)
            return self._kept[name]

    def vector(self, name: str, library: str) -> NDArray[np.floating]:
        """The vector of an upload, for a library.

        Raises
        ------
        NotFound
            It is not remembered, or belongs to another library.
        """
        upload = self.get(name)
        if upload.library != library:
            raise NotFound(f"this upload belongs to library {upload.library!r}: upload the file again")
        return upload.vector
