"""How a split is scored besides the plain way: its gallery, its captions, more right clips, scores beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from supportset.evaluate.protocols import PROTOCOLS, gallery_of
from supportset.evaluate.relevance import Relevance, read_relevance
from supportset.evaluate.scores import ALL, PARAGRAPH, check_convention
from supportset.evaluate.splits import Split
from supportset.store.errors import UsageError
from supportset.store.transfer.sources import read_ids


@dataclass(frozen=True)
class Scoring:
    """Options of an evaluation. `read` makes one from what a user gives.

    Attributes
    ----------
    captions : str
        How a clip's several captions count: a key of `supportset.evaluate.scores.CONVENTIONS`.
    gallery : str, optional
        The file with the gallery's clips; None: the protocol's whole split.
    clips : tuple of str
        Its clips.
    relevance : Relevance, optional
        More right clips.
    beside : tuple of str
        Keys of `supportset.evaluate.beside.NORMALISATIONS`.
    """

    captions: str = ALL
    gallery: str | None = None
    clips: tuple[str, ...] = ()
    relevance: Relevance | None = None
    beside: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        *,
        captions: str = ALL,
        gallery: str | Path | None = None,
        labels: str | Path | None = None,
        beside: Sequence[str] = (),
    ) -> Scoring:
        """Read the files; UsageError names what is wrong with one."""
        check_convention(captions)
        return cls(
            captions,
            None if gallery is None else str(gallery),
            () if gallery is None else tuple(read_ids(Path(gallery))),
            None if labels is None else read_relevance(labels),
            tuple(beside),
        )

    def table_protocol(self, protocol: str) -> str:
        """The protocol in a dataset's tables that holds the gallery of a named one.

        Raises
        ------
        UsageError
            The protocol's clips are in a list, and none is given.
        """
        known = PROTOCOLS.get(protocol)
        if known is None or known.within is None:
            return protocol
        if self.gallery is None:
            raise UsageError(
                f"protocol {protocol!r} is {known.clips:,} clips of {known.within!r}: name the file of their ids, one "
                "a line, with --gallery"
            )
        return known.within

    def prepare(self, split: Split) -> Split:
        """Cut a split to the gallery, and join captions if they are paragraphs."""
        if self.gallery is not None:
            split = gallery_of(split, self.gallery, self.clips)
        return split.as_paragraphs() if self.captions == PARAGRAPH else split


PLAIN = Scoring()


def expected_clips(protocol: str, stated: int | None) -> int | None:
    """The gallery's size that a protocol asks for: of a listed protocol its own, else what the tables state."""
    known = PROTOCOLS.get(protocol)
    return known.clips if known is not None and known.within is not None else stated
