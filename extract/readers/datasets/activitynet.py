"""ActivityNet Captions: a clip is a full video, its caption the paragraph of all its sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supportset.extract.readers.base import Reader
from supportset.extract.readers.builder import Builder
from supportset.extract.readers.parse import entry, read_json, strings
from supportset.store.errors import UsageError

_FORM = '{"v_<youtube id>": {"duration", "timestamps": [[start, end], …], "sentences": [text, …]}}'
_FILES = {"train": "train.json", "val1": "val_1.json", "val2": "val_2.json"}


class ActivityNetReader(Reader):
    """``train.json``, ``val_1.json`` and ``val_2.json``, sentences joined to one paragraph a video.

    Notes
    -----
    - Sentences are ordered by start, then end, of the segment they describe and joined by a space; segments are not
      separate clips, so ``timestamps`` only give the order.
    - ``val_1`` and ``val_2`` are two annotations of the same videos. Their paragraphs have separate ids (``v_…#val1``)
      and protocols, and the test rows name them, so neither gallery contains captions of the other.
    - The gallery is the split ``test`` of its protocol: papers report on it, so no model may be selected on it.
    """

    name = "activitynet"
    summary = "ActivityNet Captions: YouTube videos of about 2 minutes, a paragraph each"
    expects = f"{', '.join(_FILES.values())} ({_FORM}), any of them; videos named v_<youtube id> or <youtube id>"
    protocols: Mapping[str, Mapping[str, int | None]] = {
        "activitynet-val1": {"train": 10009, "test": 4917},
        "activitynet-val2": {"train": 10009, "test": 4885},
    }

    def fill(self, build: Builder) -> None:
        paths: dict[str, Path] = {}
        for part, name in reversed(_FILES.items()):  # any dataset may have a train.json: the one beside val_2 or val_1
            path = build.tree.find(name, beside=next(iter(paths.values()), None))
            if path is None:
                targets = self.protocols if part == "train" else (f"activitynet-{part}",)
                build.absent(name, *(f"{'train' if part == 'train' else 'test'} of {protocol}" for protocol in targets))
            else:
                paths[part] = path
        if not paths:
            raise build.no_annotation(", ".join(_FILES.values()), _FORM)
        paragraphs = {part: _paragraphs(path) for part, path in reversed(paths.items())}
        ids = {video for videos_of in paragraphs.values() for video in videos_of}
        found = build.find_files(ids | {video.removeprefix("v_") for video in ids})
        added: set[str] = set()
        for part, videos_of in paragraphs.items():
            origin = build.read_from(paths[part])
            for video, paragraph in videos_of.items():
                if video not in added:  # val_2 describes the videos of val_1 again
                    build.clip(video, found.get(video, found.get(video.removeprefix("v_"))), origin=origin)
                    added.add(video)
                if part == "train":
                    build.caption(f"{video}#train", video, paragraph, origin=origin)
                    for protocol in self.protocols:
                        build.split(protocol, "train", video, origin=origin)
                else:
                    protocol, caption = f"activitynet-{part}", f"{video}#{part}"
                    if build.caption(caption, video, paragraph, protocol=protocol, origin=origin):
                        build.split(protocol, "test", video, caption, origin=origin)


def _paragraphs(path: Path) -> dict[str, str]:
    """Video -> its sentences in time order, without those that are empty."""
    tree = read_json(path, dict, _FORM)
    return {video: _paragraph(path, repr(video), record) for video, record in tree.items()}


def _paragraph(path: Path, where: str, record: Any) -> str:
    sentences = strings(path, f"{where}.sentences", entry(path, where, record, "sentences", list))
    segments = entry(path, where, record, "timestamps", list)
    if len(segments) != len(sentences):
        raise UsageError(f"{path}: {where} has {len(sentences)} sentences and {len(segments)} timestamps")
    times = [_segment(path, where, segment) for segment in segments]
    order = sorted(range(len(sentences)), key=times.__getitem__)  # stable: equal segments stay as they stand
    return " ".join(text for index in order if (text := sentences[index].strip()))


def _segment(path: Path, where: str, segment: Any) -> tuple[float, float]:
    if isinstance(segment, list) and len(segment) == 2 and all(type(time) in (int, float) for time in segment):
        try:
            start, end = float(segment[0]), float(segment[1])
        except OverflowError:
            start = end = math.inf
        if math.isfinite(start) and math.isfinite(end):
            return start, end
    raise UsageError(f"{path}: {where}: timestamp {segment!r} is not [start, end] in seconds")


READER = ActivityNetReader()
