"""What a dataset reader is: the files of one dataset, as distributed, become tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from supportset.extract.readers.builder import Annotations, Builder


class Reader(ABC):
    """Turns the files of one dataset into :class:`Annotations`.

    Attributes
    ----------
    name : str
        The word on the command line: the name of the module, or of the entry point.
    summary : str
        What the dataset is, in one line.
    expects : str
        Which files are read, where and in which form.
    protocols : mapping
        Splits of each protocol, with the number of clips that each must have (None: any number).
    """

    name: str
    summary: str
    expects: str
    protocols: Mapping[str, Mapping[str, int | None]]

    def read(self, data: Path, videos: Path | None = None) -> Annotations:
        """Read the annotation below ``data`` and find the videos below ``videos`` (default: below ``data``).

        Paths of clips are relative to ``videos`` if given, else to ``data``.

        Raises
        ------
        UsageError
            If there is no annotation, or it cannot be read: one line that names the file and the form expected.
        """
        build = Builder(self.name, self.protocols, data, videos)
        self.fill(build)
        return build.finish()

    @abstractmethod
    def fill(self, build: Builder) -> None:
        """Add clips, then captions, then splits."""
