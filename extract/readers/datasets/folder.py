"""A user's own folder of videos and images, with an optional captions file."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from supportset.extract.readers.base import Reader
from supportset.extract.readers.builder import Builder
from supportset.extract.readers.captions_file import FORM, Row, read_captions
from supportset.extract.readers.contents import kind_of
from supportset.extract.readers.locate import FileTree
from supportset.extract.readers.videos import (
    ANIMATION_EXTENSIONS,
    IMAGE_EXTENSIONS,
    OTHER_EXTENSIONS,
    VIDEO_EXTENSIONS,
    NoVideos,
)
from supportset.store.errors import UsageError

_MEDIA = VIDEO_EXTENSIONS | ANIMATION_EXTENSIONS | IMAGE_EXTENSIONS
_CAPTIONS = ("captions.csv", "captions.jsonl", "captions.parquet")

# (start, end) in seconds, None for the full file.
_Segment = tuple[float, float] | None


class FolderReader(Reader):
    """Every video and image below a folder, by extension, else by contents; captions optional.

    Notes
    -----
    - A clip's id is its path without the extension; files that would share an id keep their extension. A row with
      ``end`` (and ``start``, else 0) is a separate clip, ``<id>@<start>-<end>``, with the file as its ``source``.
      The full file is then a clip only if a row without ``end`` describes it. Files without a row are clips too.
    - The captions file names a file by its path, with or without extension, or by its name alone if no other file
      has that name. A row whose file is absent is a clip without a file; a row that cannot be used is left out. Both
      are counted and reported with their line.
    - Protocol ``folder`` has the split ``all`` and those that the captions file names. A clip in several splits has
      each caption in the split of its row.
    """

    name = "folder"
    summary = "your own folder of videos and images, captions optional"
    expects = (
        f"videos or images anywhere below; captions, if any, as one of {', '.join(_CAPTIONS)} in the "
        f"folder itself ({FORM})"
    )
    protocols: Mapping[str, Mapping[str, int | None]] = {"folder": {"all": None}}

    def fill(self, build: Builder) -> None:
        captions = _captions_file(build)
        files = _media(build)
        rows = [] if captions is None else _rows(build, captions)
        clips = _Clips(build, files)
        located = [(row, clips.locate(row)) for row in rows]
        clips.add([(row, file) for row, file in located if file is not None])


def _media(build: Builder) -> list[str]:
    """All videos and images, by their extension; for an unknown extension, by their contents."""
    tree = build.videos
    files: list[str] = []
    others = Counter[str]()
    for path in tree.files:
        stem, extension = os.path.splitext(path.lower())
        if extension in _MEDIA or (extension not in OTHER_EXTENSIONS and kind_of(tree.root / path)):
            files.append(path)
        elif stem != "captions":
            others[extension or "without extension"] += 1
    counts = ", ".join(f"{extension} ({count})" for extension, count in sorted(others.items()))
    if not files:
        found = f", only {counts}" if others else ""
        raise NoVideos(f"folder: no video or image below {tree.root}{found}; put .mp4, .webm or .jpg files there")
    if others:
        build.note(f"{others.total()} files below {tree.root} are neither video nor image, left out: {counts}")
    return sorted(files)


def _captions_file(build: Builder) -> Path | None:
    here = [path for path in build.tree.files if "/" not in path]
    there = [path for path in here if path.lower() in _CAPTIONS]
    if len(there) > 1:
        raise UsageError(f"{build.tree.root} holds {' and '.join(there)}; keep one captions file")
    for path in here:
        stem, extension = os.path.splitext(path.lower())
        if not there and stem == "captions" and extension not in _MEDIA:
            build.note(f"{path} is not read; captions are read from {', '.join(_CAPTIONS)}")
    return build.tree.root / there[0] if there else None


def _rows(build: Builder, path: Path) -> list[Row]:
    origin = build.read_from(path)
    captions = read_captions(path)
    if captions.faults and not captions.rows:
        raise UsageError(f"{path}: no row can be used; {captions.faults[0]}; expected {FORM}")
    if captions.faults:
        build.note(f"{len(captions.faults)} rows of {origin} left out: {_some(captions.faults)}")
    if captions.unused:
        build.note(f"columns {', '.join(captions.unused)} of {origin} are not used ({', '.join(captions.used)} are)")
    if captions.further:
        build.note(f"columns {', '.join(captions.further)} of {origin} are kept for filters of a search")
    textless = [row.place for row in captions.rows if row.text is None]
    if textless:
        build.note(f"{len(textless)} rows of {origin} have no caption: {_some(textless)}")
    return captions.rows


class _Clips:
    """From files and rows to clips: ids, segments, captions and splits."""

    def __init__(self, build: Builder, files: list[str]) -> None:
        self._build = build
        self._ids = _clip_ids(files)
        self._taken = set(self._ids.values())
        self._absent: dict[str, str] = {}  # files that rows name and that are absent; each is its own clip id
        self._index = _index(files)
        self._others = {_plain(path) for path in build.videos.files} - {_plain(path) for path in files}
        self._faults: list[str] = []
        self._not_there: list[str] = []

    def locate(self, row: Row) -> str | None:
        """The file that a row describes; None, and a fault, if that is ambiguous or impossible."""
        name = _plain(_inside(self._build.videos, row.file))
        matches = self._index.get(name) or self._index.get(name.strip()) or []
        if len(matches) > 1:
            self._faults.append(f"{row.place}: {row.file!r} fits {matches[0]!r} and {matches[1]!r}; give the path")
            return None
        if not matches:
            return self._not_found(row, name)
        if row.end_s is not None and self._is_image(matches[0]):
            self._faults.append(f"{row.place}: {row.file!r} is an image, it has no start and end")
            return None
        return matches[0]

    def _is_image(self, file: str) -> bool:
        extension = os.path.splitext(file)[1].lower()
        return extension in IMAGE_EXTENSIONS or (
            extension not in _MEDIA and kind_of(self._build.videos.root / file) == "image"
        )

    def _not_found(self, row: Row, name: str) -> str | None:
        if name in self._others:
            self._faults.append(f"{row.place}: {row.file!r} is neither video nor image")
            return None
        self._not_there.append(f"{row.place}: {row.file!r}")
        stem, extension = os.path.splitext(name)
        clip = stem if extension.lower() in _MEDIA and stem not in self._taken else name
        self._absent[clip] = clip  # `x.mp4` and `x` are one absent clip
        return clip

    def add(self, located: list[tuple[Row, str]]) -> None:
        """Add clips, then captions and splits, and the notes on rows."""
        rows: dict[str, dict[_Segment, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for row, file in located:
            rows[file][None if row.end_s is None else (row.start_s or 0.0, row.end_s)].append(row)
        if self._faults:
            self._build.note(f"{len(self._faults)} rows of the captions file left out: {_some(self._faults)}")
        if self._not_there:
            lines = f"{len(self._not_there)} rows of the captions file name an absent video or image"
            self._build.note(f"{lines}: {_some(self._not_there)}")
        described: list[tuple[str, list[Row]]] = []
        for file, whole_id in [*self._ids.items(), *self._absent.items()]:
            segments = rows.get(file) or {None: []}
            cut = any(segment is not None for segment in segments)
            for segment in sorted(segments, key=lambda segment: segment or (-1.0, -1.0)):
                clip, start, end = whole_id, None, None
                if segment is not None:
                    start, end = segment
                    clip = f"{whole_id}@{_number(start)}-{_number(end)}"
                path = file if file in self._ids else None
                source = file if cut else None
                if self._build.clip(clip, path, source=source, start_s=start, end_s=end, origin="the folder"):
                    described.append((clip, segments[segment]))
        for clip, clip_rows in described:
            self._build.split("folder", "all", clip, origin="the folder")
            self._describe(clip, clip_rows)
        named = sorted({row.split for _, clip_rows in described for row in clip_rows if row.split} - {"all"})
        protocols: dict[str, dict[str, int | None]] = {"folder": {"all": None, **dict.fromkeys(named)}}
        self._build.protocols(protocols)

    def _describe(self, clip: str, rows: list[Row]) -> None:
        """Add the captions of one clip, and its splits besides ``all``."""
        for name, value in dict.fromkeys(pair for row in rows for pair in row.others):
            self._build.attribute(clip, name, value)
        splits = sorted({row.split for row in rows if row.split} - {"all"})
        if len(splits) > 1:
            self._build.problem(f"clips are in several splits, as {' and '.join(splits)}: by caption", clip)
        for index, row in enumerate(rows):
            caption = f"{clip}#{index}"
            if row.text is not None:
                self._build.caption(caption, clip, row.text, origin="the captions file")
                if len(splits) > 1 and row.split in splits:
                    self._build.split("folder", row.split, clip, caption, origin="the captions file")
        if len(splits) == 1:
            self._build.split("folder", splits[0], clip, origin="the captions file")


def _clip_ids(files: list[str]) -> dict[str, str]:
    """File -> clip id: the path without extension, or with it if another file would have the same id."""
    ids = {file: os.path.splitext(file)[0] for file in files}
    while True:
        counts = Counter(ids.values())
        clashing = [file for file, clip in ids.items() if counts[clip] > 1 and clip != file]
        if not clashing:
            return ids
        for file in clashing:
            ids[file] = file


def _index(files: list[str]) -> dict[str, list[str]]:
    """Names that a row may give a file -> the files: path, path without extension, name, name without extension."""
    by_kind: list[dict[str, list[str]]] = [defaultdict(list) for _ in range(4)]
    for file in files:
        name = file.rpartition("/")[2]
        for kind, key in enumerate((file, os.path.splitext(file)[0], name, os.path.splitext(name)[0])):
            by_kind[kind][_plain(key)].append(file)
    index: dict[str, list[str]] = {}
    for names in by_kind:  # a full path has priority over an equal bare name
        for key, matches in names.items():
            index.setdefault(key, matches)
    return index


def _plain(name: str) -> str:
    """``name`` for comparison: one Unicode form (file systems differ), forward slashes, no ``./``."""
    return unicodedata.normalize("NFC", name).replace("\\", "/").removeprefix("./")


def _inside(tree: FileTree, name: str) -> str:
    """An absolute path below the folder as a relative one."""
    if os.path.isabs(name):
        for root in (tree.root.absolute(), tree.root.resolve()):
            if Path(name).is_relative_to(root):
                return Path(name).relative_to(root).as_posix()
    return name


def _number(seconds: float) -> str:
    return repr(seconds).removesuffix(".0")


def _some(items: list[str], shown: int = 5) -> str:
    more = f"; and {len(items) - shown} more" if len(items) > shown else ""
    return "; ".join(items[:shown]) + more


READER = FolderReader()
