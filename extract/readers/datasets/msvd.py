"""MSVD (also YouTube2Text): captions as JSON or as the original text file, and the three split lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from supportset.extract.readers.base import Reader
from supportset.extract.readers.builder import Builder
from supportset.extract.readers.parse import read_json, read_lines, strings
from supportset.store.errors import UsageError

_JSON, _TEXT = "captions_msvd.json", "AllVideoDescriptions.txt"
_JSON_FORM = '{"<youtube id>_<start>_<end>": [caption, …]}'
_TEXT_FORM = "lines '<youtube id>_<start>_<end> caption' after '#' header lines"
_LISTS = {"train": "train_list.txt", "val": "val_list.txt", "test": "test_list.txt"}


class MSVDReader(Reader):
    """Captions from ``captions_msvd.json`` or ``AllVideoDescriptions.txt``; the JSON if both are there.

    Notes
    -----
    The times in a clip's id refer to the source video. The files are already cut, so a clip is a full file.
    ``source`` is the YouTube id, which may contain underscores. A clip in none of the lists is kept, in no split.
    Pickles, the third form in use, are not opened.
    """

    name = "msvd"
    summary = "MSVD: 1,970 YouTube clips of about 10 s, some 40 captions each"
    expects = (
        f"{_JSON} ({_JSON_FORM}) or {_TEXT} ({_TEXT_FORM}); {', '.join(_LISTS.values())} (one clip id a line); videos "
        "named <youtube id>_<start>_<end>"
    )
    protocols: Mapping[str, Mapping[str, int | None]] = {"msvd": {"train": 1200, "val": 100, "test": 670}}

    def fill(self, build: Builder) -> None:
        path = build.annotation(_JSON, _TEXT, form=f"{_JSON_FORM} or {_TEXT_FORM}")
        origin = build.read_from(path)
        captions = _from_json(path) if path.suffix.lower() == ".json" else _from_text(path, build, origin)
        if not captions:
            raise UsageError(f"{path}: holds no caption; expected {_JSON_FORM} or {_TEXT_FORM}")
        found = build.find_files(captions.keys())
        for clip in captions:
            build.clip(clip, found.get(clip), source=_youtube_id(clip), origin=origin)
            build.captions(clip, captions[clip], origin=origin)
        lists = build.find_lists("msvd", _LISTS, known=captions, beside=path)
        for split, (name, clips) in lists.items():
            for clip in clips:
                build.split("msvd", split, clip, origin=name)
        listed = {clip for _, clips in lists.values() for clip in clips}
        for clip in captions:
            if len(lists) == len(_LISTS) and clip not in listed:
                build.problem("clips are in none of the three lists: kept, in no split", clip)


def _from_json(path: Path) -> dict[str, list[str]]:
    tree = read_json(path, dict, _JSON_FORM)
    for clip, texts in tree.items():
        if not isinstance(texts, list):
            raise UsageError(f"{path}: the value of {clip!r} is no list of captions; expected {_JSON_FORM}")
        strings(path, repr(clip), texts)
    return tree


def _from_text(path: Path, build: Builder, origin: str) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = defaultdict(list)
    for number, line in read_lines(path):
        if line.startswith("#"):
            continue
        clip, _, text = line.partition(" ")
        if _youtube_id(clip) is None:
            raise UsageError(f"{path}: line {number}: {clip!r} is no clip id; expected {_TEXT_FORM}")
        if text.strip():
            captions[clip].append(text)
        else:
            build.problem(f"lines of {origin} left out, they have no caption", f"line {number}")
    return dict(captions)


def _youtube_id(clip: str) -> str | None:
    """The id before ``_<start>_<end>``, None if ``clip`` has another form."""
    video, *times = clip.rsplit("_", 2)
    return video if video and len(times) == 2 and all(time.isdecimal() for time in times) else None


READER = MSVDReader()
