"""Collecting the rows of a dataset, and the notes for the user."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from supportset.extract.readers.locate import FileTree, is_utf8
from supportset.extract.readers.parse import read_ids
from supportset.extract.readers.videos import match_files
from supportset.store.errors import UsageError, printable


@dataclass(frozen=True)
class ClipRow:
    """One clip: the unit that features are extracted for.

    Attributes
    ----------
    clip_id : str
        Unique within the dataset.
    path : str, optional
        File of the clip, relative to the videos folder, with ``/`` between folders; None if no file was found.
    start_s, end_s : float, optional
        Seconds within that file; both None for the full file.
    source : str, optional
        Id or URL of the source video that the clip was cut from, for grouping.
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
    caption_id : str
        Unique within the dataset.
    clip_id : str
        The clip that it describes.
    text : str
        Exactly as the annotation gives it, white space included.
    protocol : str, optional
        None for an official caption of the clip. Otherwise the caption belongs only to the protocols of that name or
        with that prefix (``msrvtt-1ka`` for ``msrvtt-1ka-9k``).
    """

    caption_id: str
    clip_id: str
    text: str
    protocol: str | None = None


@dataclass(frozen=True)
class SplitRow:
    """One clip in one split of one protocol; ``caption_id`` None means all its official captions."""

    protocol: str
    split: str
    clip_id: str
    caption_id: str | None = None


@dataclass(frozen=True)
class AttributeRow:
    """One further value of a clip, for filters."""

    clip_id: str
    name: str
    value: str


# Protocol name -> split name -> number of clips that the split must have (None: any number).
Protocols = dict[str, dict[str, int | None]]


@dataclass
class Annotations:
    """A dataset as its annotation files describe it.

    Attributes
    ----------
    clips, captions, splits, attributes : list
        The rows of the tables, in the annotation's order.
    protocols : dict
        Splits, and the number of clips that each must have.
    sources : list of Path
        The annotation files that were read.
    notes : list of str
        One-line messages for the user: absent split lists, videos not found, rows left out.
    """

    clips: list[ClipRow] = field(default_factory=list)
    captions: list[CaptionRow] = field(default_factory=list)
    splits: list[SplitRow] = field(default_factory=list)
    attributes: list[AttributeRow] = field(default_factory=list)
    protocols: Protocols = field(default_factory=dict)
    sources: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Builder:
    """Collects clips, captions and splits. What does not fit together is left out, counted and reported.

    Clips come first, then captions, then splits: a caption or split row of an unknown clip is left out.

    Parameters
    ----------
    dataset : str
        The reader's name, for messages.
    protocols : mapping
        The reader's protocols.
    data : Path
        Folder of the annotation files.
    videos : Path, optional
        Folder of the videos; None: below ``data``.

    Attributes
    ----------
    tree, videos : FileTree
        The files below the two folders (one tree if they are one folder).
    """

    def __init__(
        self, dataset: str, protocols: Mapping[str, Mapping[str, int | None]], data: Path, videos: Path | None
    ) -> None:
        self._dataset = dataset
        self.tree = FileTree(data)
        self.videos = self.tree if videos is None else FileTree(videos, option="--videos")
        self._out = Annotations(protocols={name: dict(splits) for name, splits in protocols.items()})
        self._clips: set[str] = set()
        self._caption_ids: set[str] = set()
        self._rows: set[tuple[str, str, str, str | None]] = set()
        self._problems: dict[str, list[str]] = defaultdict(list)
        self._absent: dict[str, list[str]] = defaultdict(list)
        self._unfound: list[str] = []

    def annotation(self, *names: str, form: str) -> Path:
        """Find the annotation: the first of ``names`` that is there; an error names the ``form`` expected."""
        path = self.tree.find(*names)
        if path is None:
            raise self.no_annotation(" or ".join(names), form)
        return path

    def no_annotation(self, files: str, form: str) -> UsageError:
        """Return the error of a folder without the dataset's annotation: it names files, folder and form."""
        message = f"{self._dataset}: no {files} in {self.tree.root} or its sub-folders; expected {form}"
        pickles = self.tree.with_extension(".pkl", ".pickle")
        if pickles:
            message += f"; {pickles[0]} is a pickle, which can run code when it is opened: not read"
        return UsageError(message)

    def read_from(self, path: Path) -> str:
        """Record an annotation file that was read; return its path below the data folder, for messages."""
        self._out.sources.append(path)
        return path.relative_to(self.tree.root).as_posix()

    def find_files(self, stems: Iterable[str], *, images: bool = False) -> dict[str, str]:
        """Find files of the videos folder by name without extension: ``{stem: relative path}``."""
        found, notes = match_files(self.videos, stems, images=images)
        self._out.notes += notes
        return found

    def clip(
        self,
        clip_id: str,
        path: str | None,
        *,
        source: str | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        origin: str,
    ) -> bool:
        """Add a clip; ``origin`` names the annotation file. False if the id is taken: the first clip stays."""
        if clip_id in self._clips:
            self.problem(f"clips of {origin} are described before, the first description is kept", clip_id)
            return False
        self._clips.add(clip_id)
        self._out.clips.append(ClipRow(clip_id, path, start_s, end_s, source))
        if path is None:
            self._unfound.append(clip_id)
        return True

    def caption(self, caption_id: str, clip_id: str, text: str, *, protocol: str | None = None, origin: str) -> bool:
        """Add a caption and return True. Without text, of an unknown clip or under a taken id: False, and counted."""
        if clip_id not in self._clips:
            self.problem(f"captions of {origin} left out, their clip is in no annotation", clip_id)
        elif not text.strip():
            self.problem(f"captions of {origin} left out, they are empty", caption_id)
        elif not is_utf8(text):
            self.problem(f"captions of {origin} left out, they hold half a surrogate pair", caption_id)
        elif caption_id in self._caption_ids:
            self.problem(f"captions of {origin} left out, their id is taken", caption_id)
        else:
            self._caption_ids.add(caption_id)
            self._out.captions.append(CaptionRow(caption_id, clip_id, text, protocol))
            return True
        return False

    def captions(self, clip_id: str, texts: Iterable[str], *, origin: str) -> None:
        """Add a clip's captions under the ids ``<clip>#0``, ``<clip>#1``, …"""
        for index, text in enumerate(texts):
            self.caption(f"{clip_id}#{index}", clip_id, text, origin=origin)

    def split(self, protocol: str, split: str, clip_id: str, caption_id: str | None = None, *, origin: str) -> None:
        """Put a clip into a split; an unknown clip or caption, or a row that is there already, is counted."""
        row = (protocol, split, clip_id, caption_id)
        if clip_id not in self._clips or (caption_id is not None and caption_id not in self._caption_ids):
            self.problem(f"entries of {origin} left out of {split} of {protocol}, no annotation has them", clip_id)
        elif row in self._rows:
            self.problem(f"entries of {origin} left out of {split} of {protocol}, they are there already", clip_id)
        else:
            self._rows.add(row)
            self._out.splits.append(SplitRow(*row))

    def attribute(self, clip_id: str, name: str, value: str) -> None:
        """Add a further value of a clip that was added before."""
        self._out.attributes.append(AttributeRow(clip_id, name, value))

    def find_list(
        self,
        *names: str,
        known: Container[str],
        beside: Path,
        parse: Callable[[Path], list[str]] = read_ids,
    ) -> tuple[str, list[str]] | None:
        """Read a list of clip ids: (its path for messages, the ids), or None if there is no list.

        Other datasets use the same file names (``test_list.txt``). So only a file that names at least one clip of
        ``known`` is read, the one in the folder of ``beside`` first.
        """
        refused = []
        for name in names:
            for path in self.tree.candidates(name, beside):
                ids = parse(path)
                if any(clip in known for clip in ids):
                    return self.read_from(path), ids
                refused.append(path)
        for path in refused:
            self.note(f"{path} is not read as a list of this dataset, it names none of its clips")
        return None

    def find_lists(
        self,
        protocol: str,
        lists: Mapping[str, str],
        *,
        known: Container[str],
        beside: Path,
        parse: Callable[[Path], list[str]] = read_ids,
    ) -> dict[str, tuple[str, list[str]]]:
        """Read one list a split as :meth:`find_list` does: {split: (path, ids)}; the absent ones are reported."""
        found = {}
        for split, name in lists.items():
            if (one := self.find_list(name, known=known, beside=beside, parse=parse)) is None:
                self.absent(name, f"{split} of {protocol}")
            else:
                found[split] = one
        return found

    def absent(self, file: str, *stays_empty: str) -> None:
        """Report that ``file`` was not found, and what is empty therefore, e.g. ``train of msrvtt-1ka-7k``."""
        self._absent[file] += stays_empty

    def problem(self, kind: str, example: str) -> None:
        """Count something left out; each kind becomes one note with its number and first example."""
        self._problems[kind].append(example)

    def note(self, line: str) -> None:
        """Add a message for the user."""
        self._out.notes.append(line)

    def protocols(self, protocols: Protocols) -> None:
        """Replace the reader's protocols if they depend on the files."""
        self._out.protocols = protocols

    def finish(self) -> Annotations:
        """Return the annotations with the notes: what was not found first, then what was left out."""
        out = self._out
        trees = [self.tree] if self.videos is self.tree else [self.tree, self.videos]
        notes = [note for tree in trees for note in tree.notes] + out.notes
        for file, empty in self._absent.items():
            notes.append(f"no {file} below {self.tree.root}: {' and '.join(empty)} left empty")
        for kind, examples in self._problems.items():
            notes.append(f"{len(examples)} {kind} (first: {examples[0]!r})")
        notes += self._sizes()
        if self._unfound:
            missing = f"{len(self._unfound)} of {len(out.clips)} clips have no video file below {self.videos.root}"
            notes.append(f"{missing} (first: {self._unfound[0]!r})")
        out.notes = [printable(note) for note in notes]  # names and captions may hold control characters
        return out

    def _sizes(self) -> list[str]:
        clips: dict[tuple[str, str], set[str]] = defaultdict(set)
        for row in self._out.splits:
            clips[row.protocol, row.split].add(row.clip_id)
        return [
            f"{split} of {protocol} has {len(clips[protocol, split])} clips, it should have {expected}"
            for protocol, splits in self._out.protocols.items()
            for split, expected in splits.items()
            if expected is not None and (protocol, split) in clips and len(clips[protocol, split]) != expected
        ]
