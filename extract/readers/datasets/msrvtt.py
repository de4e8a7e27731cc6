"""MSR-VTT: the official annotation of 2016 and the 1k-A lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supportset.extract.readers.base import Reader
from supportset.extract.readers.builder import Builder
from supportset.extract.readers.parse import entry, read_columns, read_json

_TRAIN_VAL, _TEST, _COMBINED = "train_val_videodatainfo.json", "test_videodatainfo.json", "MSRVTT_data.json"
_QUERIES = "MSRVTT_JSFUSION_test.csv"
_CLEAN, _LIKE = "msrvtt-1ka-9k-clean", "msrvtt-1ka-9k"
_TRAIN_LISTS = {"msrvtt-1ka-9k": "MSRVTT_train.9k.csv", "msrvtt-1ka-7k": "MSRVTT_train.7k.csv"}
_FORM = '{"videos": [{"video_id", "url", "split"}], "sentences": [{"sen_id", "video_id", "caption"}]}'
_SPLITS = {"train": "train", "validate": "val", "val": "val", "test": "test"}


class MSRVTTReader(Reader):
    """Official JSON files, or all in one ``MSRVTT_data.json`` of the same form, and the lists of 1k-A.

    Notes
    -----
    - The annotation's start and end times refer to the source video. The files are already cut, so a clip is a full
      file. ``source`` is the URL of the source video (two clips in twenty share one).
    - 1k-A has 1,000 query sentences; 35 of them are not among their clip's captions. They are captions with separate
      ids (``ret0`` …, from the file) of protocol ``msrvtt-1ka``, and its test rows name them.
    - 1k-A has no validation split: training splits one off by ``source``.
    - ``msrvtt-1ka-9k-clean`` has the test split of 1k-A, and those of its 9,000 training clips that share no source
      video with a test clip, without the captions that are, character for character, a test query.
    """

    name = "msrvtt"
    summary = "MSR-VTT: 10,000 web video clips of 10 to 30 s, 20 captions each"
    expects = (
        f"{_TRAIN_VAL} and {_TEST} as distributed, or both in one {_COMBINED} ({_FORM}); for 1k-A {_QUERIES} "
        f"(columns key, video_id, sentence), {_TRAIN_LISTS['msrvtt-1ka-9k']} and {_TRAIN_LISTS['msrvtt-1ka-7k']} "
        "(column video_id); videos named video0 … video9999"
    )
    protocols: Mapping[str, Mapping[str, int | None]] = {
        "msrvtt-full": {"train": 6513, "val": 497, "test": 2990},
        "msrvtt-1ka-9k": {"train": 9000, "test": 1000},
        "msrvtt-1ka-7k": {"train": 7010, "test": 1000},
        _CLEAN: {"train": 8585, "test": 1000},
    }

    def fill(self, build: Builder) -> None:
        annotation = self._annotation(build)
        found = build.find_files({video for _, tree in annotation for video in _ids(tree["videos"])})
        official: list[tuple[str, str, str]] = []
        sources: dict[str, str] = {}
        captions: dict[str, dict[str, str]] = defaultdict(dict)  # clip -> id -> text
        for path, tree in annotation:
            official += _add_clips(build, path, tree["videos"], found, sources)
        for path, tree in annotation:
            _add_captions(build, path, tree["sentences"], captions)
        for split, clip, origin in official:
            build.split("msrvtt-full", split, clip, origin=origin)
        self._one_thousand(build, sources, captions)

    def _annotation(self, build: Builder) -> list[tuple[Path, dict[str, Any]]]:
        """The JSON files, parsed: the official pair if either is there, else the combined one."""
        train_val = build.tree.find(_TRAIN_VAL)
        test = build.tree.find(_TEST, beside=train_val)
        combined = build.tree.find(_COMBINED)
        if train_val or test:
            if not train_val:
                build.absent(_TRAIN_VAL, "train of msrvtt-full", "val of msrvtt-full")
            if not test:
                build.absent(_TEST, "test of msrvtt-full")
            if combined:
                build.note(f"{combined} is not read, {train_val or test} is")
            paths = [path for path in (train_val, test) if path]
        elif combined:
            paths = [combined]
        else:
            raise build.no_annotation(f"{_TRAIN_VAL}, {_TEST} or {_COMBINED}", f"the official form {_FORM}")
        annotation = []
        for path in paths:
            tree = read_json(path, dict, f"the official form {_FORM}")
            for key in ("videos", "sentences"):
                entry(path, "the file", tree, key, list)
            annotation.append((path, tree))
        return annotation

    def _one_thousand(
        self, build: Builder, sources: Mapping[str, str], captions: Mapping[str, Mapping[str, str]]
    ) -> None:
        """Add 1k-A: its queries are separate captions; the training lists name clips."""
        queries: set[str] = set()
        seen: set[str] = set()  # sources of the test clips
        path = build.tree.find(_QUERIES)
        if path is None:
            build.absent(_QUERIES, *(f"test of {name}" for name in _TRAIN_LISTS), f"train and test of {_CLEAN}")
        else:
            origin = build.read_from(path)
            for _, (key, clip, sentence) in read_columns(path, "key", "video_id", "sentence"):
                key, clip = key.strip(), clip.strip()
                if build.caption(key, clip, sentence, protocol="msrvtt-1ka", origin=origin):
                    queries.add(sentence)
                    seen.add(sources.get(clip, clip))
                    for protocol in (*_TRAIN_LISTS, _CLEAN):
                        build.split(protocol, "test", clip, key, origin=origin)
        for protocol, name in _TRAIN_LISTS.items():
            path = build.tree.find(name)
            if path is None:
                build.absent(name, f"train of {protocol}", *([f"train of {_CLEAN}"] if protocol == _LIKE else []))
                continue
            origin = build.read_from(path)
            clips = [clip.strip() for _, (clip,) in read_columns(path, "video_id")]
            for clip in clips:
                build.split(protocol, "train", clip, origin=origin)
            if protocol != _LIKE or not queries:
                continue
            for clip in dict.fromkeys(clip for clip in clips if clip in captions):
                kept = [number for number, text in captions[clip].items() if text not in queries]
                if sources.get(clip, clip) not in seen:
                    for number in kept if len(kept) < len(captions[clip]) else [None]:
                        build.split(_CLEAN, "train", clip, number, origin=origin)


def _ids(videos: list[Any]) -> list[str]:
    return [video["video_id"] for video in videos if isinstance(video, dict) and isinstance(video.get("video_id"), str)]


def _add_clips(
    build: Builder, path: Path, videos: list[Any], found: dict[str, str], sources: dict[str, str]
) -> list[tuple[str, str, str]]:
    """Add the clips of one file, and their sources; returns (split of msrvtt-full, clip, file)."""
    origin = build.read_from(path)
    official = []
    for index, video in enumerate(videos):
        clip = entry(path, f"videos[{index}]", video, "video_id", str)
        url = video.get("url")
        source = url.strip() if isinstance(url, str) and url.strip() else None
        if build.clip(clip, found.get(clip), source=source, origin=origin):
            sources[clip] = source or clip
            split = _official_split(clip, video.get("split"))
            if split is None:
                build.problem(f"clips of {origin} are in no split of msrvtt-full, they name none", clip)
            else:
                official.append((split, clip, origin))
    return official


def _official_split(clip: str, named: Any) -> str | None:
    """Train, val or test as the file says, else by number: the dataset's own readme gives the ranges."""
    if isinstance(named, str):
        return _SPLITS.get(named)
    number = clip.removeprefix("video")
    if not number.isascii() or not number.isdigit() or int(number) > 9999:
        return None
    return "train" if int(number) <= 6512 else "val" if int(number) <= 7009 else "test"


def _add_captions(build: Builder, path: Path, sentences: list[Any], captions: dict[str, dict[str, str]]) -> None:
    origin = path.relative_to(build.tree.root).as_posix()
    for index, sentence in enumerate(sentences):
        where = f"sentences[{index}]"
        number = entry(path, where, sentence, "sen_id", int)
        clip = entry(path, where, sentence, "video_id", str)
        text = entry(path, where, sentence, "caption", str)
        if build.caption(f"sen{number}", clip, text, origin=origin):
            captions[clip][f"sen{number}"] = text


READER = MSRVTTReader()
