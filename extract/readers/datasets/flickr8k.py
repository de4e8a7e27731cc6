"""Flickr8k: photographs, each a clip of one frame."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path

from supportset.extract.readers.base import Reader
from supportset.extract.readers.builder import Builder
from supportset.extract.readers.parse import read_ids, read_lines
from supportset.store.errors import UsageError

_CSV, _TOKENS = "captions.txt", "Flickr8k.token.txt"
_CSV_FORM = "a header line 'image,caption', then lines 'NAME.jpg,caption'"
_TOKENS_FORM = "lines 'NAME.jpg#0<tab>caption'"
_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "dev": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


class Flickr8kReader(Reader):
    """``captions.txt`` or the older ``Flickr8k.token.txt``, and the official lists.

    Notes
    -----
    Clips are the photographs that the captions describe **and** that exist or are listed. Captions of other names are
    left out and reported (the token file has one). A photograph in no list is kept, in no split. The clip id is the
    file's name without ``.jpg``. Report results as image–text retrieval.
    """

    name = "flickr8k"
    summary = "Flickr8k: 8,091 photographs (clips of one frame), 5 captions each"
    expects = (
        f"{_CSV} ({_CSV_FORM}) or {_TOKENS} ({_TOKENS_FORM}); {', '.join(_LISTS.values())} (one NAME.jpg a line); "
        "photographs anywhere below"
    )
    protocols: Mapping[str, Mapping[str, int | None]] = {"flickr8k": {"train": 6000, "dev": 1000, "test": 1000}}

    def fill(self, build: Builder) -> None:
        path = build.annotation(_CSV, _TOKENS, form=f"{_CSV_FORM} or {_TOKENS_FORM}")
        origin = build.read_from(path)
        captions = _from_csv(path) if path.name.lower() == _CSV else _from_tokens(path)
        if not captions:
            raise UsageError(f"{path}: holds no caption; expected {_CSV_FORM} or {_TOKENS_FORM}")
        lists = build.find_lists("flickr8k", _LISTS, known=captions, beside=path, parse=_ids)
        listed = {clip for _, clips in lists.values() for clip in clips}
        found = build.find_files(captions.keys(), images=True)
        for clip, texts in captions.items():
            if clip not in found and clip not in listed:
                build.problem(f"images of {origin} left out, there is no such file and no list names them", clip)
                continue
            build.clip(clip, found.get(clip), origin=origin)
            build.captions(clip, texts, origin=origin)
        for split, (name, clips) in lists.items():
            for clip in clips:
                build.split("flickr8k", split, clip, origin=name)


def _ids(path: Path) -> list[str]:
    """Image names without their extension."""
    return [os.path.splitext(line)[0] for line in read_ids(path)]


def _from_csv(path: Path) -> dict[str, list[str]]:
    """Image name without extension -> captions."""
    (_, header), *lines = read_lines(path) or [(0, "")]
    if [name.strip().lower() for name in header.split(",")] != ["image", "caption"]:
        raise UsageError(f"{path}: line 1: {header[:60]!r}; expected {_CSV_FORM}")
    captions: dict[str, list[str]] = {}
    for number, line in lines:
        image, comma, caption = line.partition(",")
        if not comma or not image:
            raise UsageError(f"{path}: line {number}: no comma between image and caption; expected {_CSV_FORM}")
        captions.setdefault(os.path.splitext(image)[0], []).append(_unquoted(caption))
    return captions


def _unquoted(caption: str) -> str:
    """A caption with commas is quoted, but not in all copies: each line is parsed separately."""
    if not caption.startswith('"'):
        return caption
    try:
        fields = next(csv.reader([caption], strict=True))
    except csv.Error:
        return caption  # the quotation mark belongs to the caption
    return fields[0] if len(fields) == 1 else caption


def _from_tokens(path: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for number, line in read_lines(path):
        image, tab, caption = line.partition("\t")
        name, mark, index = image.rpartition("#")
        if not tab or not mark or not index.isdecimal():
            raise UsageError(f"{path}: line {number}: {line[:60]!r}; expected {_TOKENS_FORM}")
        captions.setdefault(os.path.splitext(name)[0], []).append(caption)
    return captions


READER = Flickr8kReader()
