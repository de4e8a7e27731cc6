"""VATEX: the official JSON files, and the test gallery as some papers re-packed it. English only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from supportset.extract.readers.base import Reader
from supportset.extract.readers.builder import Builder
from supportset.extract.readers.parse import entry, read_ids, read_json, strings
from supportset.store.errors import UsageError

_TRAIN, _VALIDATION = "vatex_training_v1.0.json", "vatex_validation_v1.0.json"
_PUBLIC_TEST, _REPACKED = "vatex_public_test_english_v1.1.json", "descs_ret_test.json"
_FORM = '[{"videoID": "<youtube id>_<start>_<end>", "enCap": [caption, …]}]'
_REPACKED_FORM = '[{"video_id": "<youtube id>_<start>_<end>", "desc": [caption, …]}]'
_LISTS = {
    "val": ("vatex_val_list.txt", "val_list.txt", "val_names.npy"),
    "test": ("vatex_test_list.txt", "test_list.txt", "tst_names.npy"),
}


class VATEXReader(Reader):
    """Official files, English captions only; the 1,500 test clips from a list or from the re-packed file.

    Notes
    -----
    - ``vatex-1500`` is a random half of the official validation set, so the halves must be given. The test gallery is
      ``descs_ret_test.json`` if it is there, else the list of test ids; ``val`` is the list of validation ids, else
      the rest of the official validation file. Without any list both are empty: 3,000 clips that contain the test
      clips must not select a model.
    - ``vatex-public`` is the dataset's own split, with the 6,000 clips of the public test file.
    - Videos are those cut to ``<start>`` … ``<end>``, named by the clip id: a clip is a full file. ``source`` is the
      YouTube id.
    """

    name = "vatex"
    summary = "VATEX: 10 s YouTube clips, 10 English captions each"
    expects = (
        f"{_TRAIN}, {_VALIDATION} and {_PUBLIC_TEST} ({_FORM}), any of them; the 1,500 test clips as {_REPACKED} "
        f"({_REPACKED_FORM}) or as a list of ids, one a line ({' or '.join(_LISTS['test'][:2])}) or a NumPy array of "
        f"strings ({_LISTS['test'][2]}); the validation half likewise ({', '.join(_LISTS['val'])}), else it is the "
        "rest; videos named <youtube id>_<start>_<end>"
    )
    protocols: Mapping[str, Mapping[str, int | None]] = {
        "vatex-1500": {"train": 25991, "val": 1500, "test": 1500},
        "vatex-public": {"train": 25991, "val": 3000, "test": 6000},
    }

    def fill(self, build: Builder) -> None:
        names = (_TRAIN, _VALIDATION, _PUBLIC_TEST, _REPACKED)
        paths = {name: path for name in names if (path := build.tree.find(name)) is not None}
        if not paths:
            raise build.no_annotation(", ".join(names[:-1]) + f" or {_REPACKED}", f"{_FORM} or {_REPACKED_FORM}")
        captions = {
            name: _captions(path, *(("video_id", "desc") if name == _REPACKED else ("videoID", "enCap")))
            for name, path in paths.items()
        }
        found = build.find_files({clip for clips in captions.values() for clip in clips})
        for name, clips in captions.items():
            origin = build.read_from(paths[name])
            for clip, texts in clips.items():
                official = next((of[clip] for of_name, of in captions.items() if of_name != name and clip in of), None)
                if name == _REPACKED and official is not None:
                    if sorted(texts) != sorted(official):
                        build.problem(f"clips of {origin} have other captions officially, which are kept", clip)
                    continue
                build.clip(clip, found.get(clip), source=clip.rsplit("_", 2)[0], origin=origin)
                build.captions(clip, texts, origin=origin)
        self._official(build, captions)
        self._halves(build, captions, next(iter(paths.values())))

    def _official(self, build: Builder, captions: dict[str, dict[str, list[str]]]) -> None:
        parts = {
            _TRAIN: (("vatex-1500", "train"), ("vatex-public", "train")),
            _VALIDATION: (("vatex-public", "val"),),
            _PUBLIC_TEST: (("vatex-public", "test"),),
        }
        for name, targets in parts.items():
            if name not in captions:
                build.absent(name, *(f"{split} of {protocol}" for protocol, split in targets))
            for protocol, split in targets:
                for clip in captions.get(name, ()):
                    build.split(protocol, split, clip, origin=name)

    def _halves(self, build: Builder, captions: dict[str, dict[str, list[str]]], annotation: Path) -> None:
        """Add the two halves of the validation set: as listed, else the rest of the other half."""
        known = {clip for clips in captions.values() for clip in clips}
        halves: dict[str, list[str]] = {}
        for split, names in _LISTS.items():
            if split == "test" and _REPACKED in captions:
                halves[split] = list(captions[_REPACKED])
            elif (found := build.find_list(*names, known=known, beside=annotation, parse=_ids)) is not None:
                halves[split] = found[1]
        if not halves:
            lists = " or ".join([_REPACKED, *_LISTS["test"]])
            build.absent(lists, "test of vatex-1500", "val of vatex-1500")
            return
        official = captions.get(_VALIDATION, {})
        for split, other in (("val", "test"), ("test", "val")):
            if split not in halves and official:
                taken = set(halves[other])
                halves[split] = [clip for clip in official if clip not in taken]
            if split not in halves:
                build.absent(" or ".join([*_LISTS[split], _VALIDATION]), f"{split} of vatex-1500")
            for clip in halves.get(split, ()):
                build.split("vatex-1500", split, clip, origin=f"the {split} list")


def _captions(path: Path, id_key: str, captions_key: str) -> dict[str, list[str]]:
    """Clip id -> English captions."""
    form = _FORM if id_key == "videoID" else _REPACKED_FORM
    captions: dict[str, list[str]] = {}
    for index, record in enumerate(read_json(path, list, form)):
        where = f"[{index}]"
        clip = entry(path, where, record, id_key, str)
        if clip in captions:
            raise UsageError(f"{path}: {where} describes {clip!r} again; keep one entry a clip")
        captions[clip] = strings(path, f"{where}.{captions_key}", entry(path, where, record, captions_key, list))
    return captions


def _ids(path: Path) -> list[str]:
    """Ids from a text file, or from a ``.npy`` file of strings as hgr_v2t distributes its split."""
    if path.suffix.lower() != ".npy":
        return read_ids(path)
    try:
        names = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise UsageError(f"{path}: not a NumPy array of strings ({error}); write the ids to a text file") from None
    if names.dtype.kind != "U" or names.ndim != 1:
        raise UsageError(f"{path}: an array of {names.dtype}, expected one of strings; write the ids to a text file")
    return [str(name) for name in names]


READER = VATEXReader()
