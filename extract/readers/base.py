"""What a dataset reader returns: three tables, and what the user should be told about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class ClipRow:
    """One clip: the unit that features are extracted for.

    Attributes
    ----------
    clip_id : unique within the dataset
    path : file of the clip, relative to the videos root with ``/`` between folders; None where no file was found
    start_s, end_s : seconds within that file; both None for the whole file
    source : id or URL of the source video that the clip was cut from, for grouping; None where the clip is its own
    """

    clip_id: str
    path: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    source: str | None = None


@dataclass(frozen=True)
class CaptionRow:
    """One caption of one clip.

    Attributes
    ----------
    caption_id : unique within the dataset
    clip_id : the clip it describes
    text : exactly as the annotation gives it, white space included
    protocol : None for an official caption of the clip; otherwise the caption belongs only to the protocols of
        that name or with that prefix (``msrvtt-1ka`` for ``msrvtt-1ka-9k``)
    """

    caption_id: str
    clip_id: str
    text: str
    protocol: str | None = None


@dataclass(frozen=True)
class SplitRow:
    """One clip in one split of one protocol; ``caption_id`` None stands for all of its official captions."""

    protocol: str
    split: str
    clip_id: str
    caption_id: str | None = None


# Protocol name -> split name -> number of clips that the split must have (None: any number).
Protocols = dict[str, dict[str, int | None]]


@dataclass
class Annotations:
    """A dataset as its annotation files describe it.

    Attributes
    ----------
    clips, captions, splits : the rows of the three tables, in the annotation's order
    protocols : splits and the galleries they must have
    sources : the annotation files that were read
    notes : one-line messages for the user: absent split lists, videos not found, rows left out
    """

    clips: list[ClipRow] = field(default_factory=list)
    captions: list[CaptionRow] = field(default_factory=list)
    splits: list[SplitRow] = field(default_factory=list)
    protocols: Protocols = field(default_factory=dict)
    sources: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@runtime_checkable
class Reader(Protocol):
    """Turns the files of one dataset, as they are distributed, into ``Annotations``.

    Attributes
    ----------
    name : the word on the command line
    summary : what the dataset is, in one line
    expects : which files are read, where and in which form
    protocols : the protocols the reader can give, with their splits and the galleries these must have
    """

    name: str
    summary: str
    expects: str

    @property
    def protocols(self) -> Mapping[str, Mapping[str, int | None]]: ...

    def read(self, data: Path, videos: Path | None = None) -> Annotations:
        """Read the annotation below ``data`` and find the videos below ``videos`` (default: below ``data``).

        Paths of clips are relative to ``videos`` where it is given, else to ``data``.

        Raises
        ------
        UsageError
            No annotation, or one that cannot be read: one line that names the file and the form expected.
        """
        ...
