"""Collecting the rows of a dataset and everything the user should be told about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable
from pathlib import Path

from supportset.extract.readers.base import Annotations, CaptionRow, ClipRow, Protocols, Reader, SplitRow
from supportset.extract.readers.locate import FileTree, is_utf8
from supportset.extract.readers.parse import read_ids
from supportset.extract.readers.videos import match_files
from supportset.store.errors import UsageError


class Builder:
    """Collects clips, captions and splits; leaves out what does not fit together, counts it and tells it.

    Clips come first, then captions, then splits: a caption or split row of a clip that was not added is left out.

    Parameters
    ----------
    reader : whose name, ``expects`` and protocols are used
    data : folder of the annotation files
    videos : folder of the videos; None: they lie below ``data``

    Attributes
    ----------
    tree, videos : the files below the two folders (one tree where they are one)
    """

    def __init__(self, reader: Reader, data: Path, videos: Path | None) -> None:
        self.reader = reader
        self.tree = FileTree(data)
        self.videos = self.tree if videos is None else FileTree(videos, option="--videos")
        self._out = Annotations(protocols={name: dict(splits) for name, splits in reader.protocols.items()})
        self._clips: set[str] = set()
        self._caption_ids: set[str] = set()
        self._rows: set[tuple[str, str, str, str | None]] = set()
        self._problems: dict[str, list[str]] = defaultdict(list)
        self._absent: dict[str, list[str]] = defaultdict(list)
        self._unfound: list[str] = []

    def no_annotation(self, files: str, form: str) -> UsageError:
        """The error of a folder without the dataset's annotation: names files, place and form."""
        message = f"{self.reader.name}: no {files} in {self.tree.root} or its sub-folders; expected {form}"
        pickles = self.tree.with_extension(".pkl", ".pickle")
        if pickles:
            message += f"; {pickles[0]} is a pickle, which can run code when it is opened: not read"
        return UsageError(message)

    def read_from(self, path: Path) -> str:
        """Record an annotation file that was read; returns its path below the data folder, for messages."""
        self._out.sources.append(path)
        return path.relative_to(self.tree.root).as_posix()

    def find_files(self, stems: Iterable[str], *, images: bool = False) -> dict[str, str]:
        """Files of the videos folder by name without extension: ``{stem: relative path}``."""
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
        """Add a clip; ``origin`` names the annotation file. False where the id is already taken: the first stays."""
        if clip_id in self._clips:
            self.problem(f"clips of {origin} are described before, the first description is kept", clip_id)
            return False
        self._clips.add(clip_id)
        self._out.clips.append(ClipRow(clip_id, path, start_s, end_s, source))
        if path is None:
            self._unfound.append(clip_id)
        return True

    def caption(self, caption_id: str, clip_id: str, text: str, *, protocol: str | None = None, origin: str) -> bool:
        """Add a caption; one without text, of an unknown clip or under a taken id is left out and counted.

        Returns whether it was added.
        """
        if clip_id not in self._clips:
            self.problem(f"captions of {origin} left out, their clip is in no annotation", clip_id)
        elif not text.strip():
            self.problem(f"captions of {origin} left out, they are empty", caption_id)
        elif not is_utf8(text):
            self.problem(
                f"captions of {origin} left out, they hold half a surrogate pair, which is no text", caption_id
            )
        elif caption_id in self._caption_ids:
            self.problem(f"captions of {origin} left out, their id is taken", caption_id)
        else:
            self._caption_ids.add(caption_id)
            self._out.captions.append(CaptionRow(caption_id, clip_id, text, protocol))
            return True
        return False

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

    def find_list(
        self,
        *names: str,
        known: Container[str],
        beside: Path,
        parse: Callable[[Path], list[str]] = read_ids,
    ) -> tuple[str, list[str]] | None:
        """Read a list of clip ids: (its path for messages, the ids), None where there is none.

        Lists have names that other datasets also use (``test_list.txt``): only a file that names at least one clip
        of ``known`` is taken, the one in the folder of ``beside`` first.
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

    def absent(self, file: str, *stays_empty: str) -> None:
        """Tell that ``file`` was not found and what stays empty therefore, e.g. ``train of msrvtt-1ka-7k``."""
        self._absent[file] += stays_empty

    def problem(self, kind: str, example: str) -> None:
        """Count something that was left out; each kind becomes one note with its number and first example."""
        self._problems[kind].append(example)

    def note(self, line: str) -> None:
        """Tell the user ``line``."""
        self._out.notes.append(line)

    def protocols(self, protocols: Protocols) -> None:
        """Replace the reader's protocols where they depend on the files."""
        self._out.protocols = protocols

    def finish(self) -> Annotations:
        """The annotations, with the notes: what was not found first, then what was left out."""
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
        out.notes = [note.replace("\n", "\\n") for note in notes]  # a file's name may hold a line end
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
