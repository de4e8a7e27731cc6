"""The files of a study: one JSON file a finished run, packed into one file when the study ends.

::

    STUDY/runs/VARIANT-seed0[-fold0].json     a run of the table, with its scores and every rank
    STUDY/trials/VARIANT-trial3[-fold0].json  a trial of the search: validation scores only
    STUDY/items/HASH.json                     clips and queries that runs were scored on
    STUDY/failed/....json                     why a run failed, until it is tried again
    STUDY/runs.jsonl.xz                       runs, trials and items of a finished study, one JSON object a line
    STUDY/work/                               run folders in progress; may be deleted
"""

from __future__ import annotations

import base64
import json
import lzma
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.evaluate.ranks import MISS
from supportset.evaluate.scores import RetrievalScores
from supportset.evaluate.splits import Split
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import LocalFolder, telling
from supportset.train.config import Config, parse_config, renewed
from supportset.train.data.source import digest

FORMAT, VERSION = "supportset-ablation", 1
PACKED = "runs.jsonl.xz"
_PACKED_FOLDERS = ("runs", "trials", "items")


@dataclass(frozen=True)
class RunKey:
    """Identifies a run of a study.

    Attributes
    ----------
    variant : str
        Name of the variant.
    seed : int
        Seed of the training; of a trial, the seed of the search.
    fold : int or None
        Counted from 0; None without cross-validation.
    trial : int or None
        Number of the combination that a trial tries; None for a run of the table.
    """

    variant: str
    seed: int
    fold: int | None = None
    trial: int | None = None

    @property
    def stem(self) -> str:
        """Name of its files and folders."""
        middle = f"seed{self.seed}" if self.trial is None else f"trial{self.trial}"
        return f"{self.variant}-{middle}" + ("" if self.fold is None else f"-fold{self.fold}")

    @property
    def path(self) -> str:
        """Its JSON file, relative to the study's folder."""
        return f"{'runs' if self.trial is None else 'trials'}/{self.stem}.json"

    @property
    def failure(self) -> str:
        """The file that says why it failed, relative to the study's folder."""
        return f"failed/{self.stem}.json"


class StudyFolder:
    """Reads and writes the files of a study.

    Parameters
    ----------
    path : str or Path
        The folder; created when something is written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def work(self, key: RunKey) -> Path:
        """Run folder of a run in progress."""
        return self.path / "work" / key.stem

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file, complete or not at all; ``name`` may include a folder."""
        self.put(name, (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))

    def put(self, name: str, content: bytes) -> None:
        """Write a file, complete or not at all; ``name`` may include a folder."""
        target = self.path / name
        with telling("write", target, "finished runs are kept"):
            target.parent.mkdir(parents=True, exist_ok=True)
        LocalFolder(target.parent).put({target.name: [content]})

    def read(self, name: str) -> dict[str, Any] | None:
        """Read a JSON file, or its line of the packed file; None where neither has it.

        Raises
        ------
        SupportsetError
            The file is damaged, or of another format.
        """
        path = self.path / name
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return self._packed.get(name)
        except (OSError, ValueError) as error:
            raise SupportsetError(f"{path}: cannot be read ({error}); delete it to run this again") from None
        return _checked(tree, path)

    @cached_property
    def _packed(self) -> dict[str, dict[str, Any]]:
        """Content of the packed file, by the name that each had as a file."""
        path = self.path / PACKED
        try:
            lines = lzma.decompress(path.read_bytes()).splitlines()
            trees = [json.loads(line) for line in lines]
            return {tree.pop("file"): _checked(tree, path) for tree in trees}
        except FileNotFoundError:
            return {}
        except (OSError, EOFError, lzma.LZMAError, ValueError, KeyError, AttributeError) as error:
            raise SupportsetError(f"{path}: cannot be read ({error}); restore it, or give another --out") from None

    def pack(self) -> None:
        """Move runs, trials and items into the packed file. Equal contents give equal bytes."""
        files = sorted(path for folder in _PACKED_FOLDERS for path in (self.path / folder).glob("*.json"))
        if not files:
            return
        names = [path.relative_to(self.path).as_posix() for path in files]
        trees = self._packed | {name: tree for name in names if (tree := self.read(name)) is not None}
        lines = [
            json.dumps({"file": name, **tree}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            for name, tree in sorted(trees.items())
        ]
        content = "".join(f"{line}\n" for line in lines).encode("utf-8")
        self.put(PACKED, lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
        self.__dict__["_packed"] = trees
        for path in files:
            path.unlink()
        for folder in {path.parent for path in files}:
            folder.rmdir()

    def finished(self, key: RunKey, config: Config, scored_on: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the record of a run if it is of this configuration and was scored on the same clips; else None.

        Keys that were added to the program since then have their defaults in the old record, so a new release keeps
        what an old one computed.
        """
        tree = self.read(key.path)
        if tree is None or any(tree.get(name) != value for name, value in scored_on.items()):
            return None
        try:
            there = parse_config(tree["config"], key.path)
        except (UsageError, KeyError):
            return None
        if essential(there) != essential(config):
            return None
        return tree | {"chosen": renewed(tree.get("chosen", {}), key.path)}

    def write_items(self, split: Split, scores: RetrievalScores) -> str:
        """Record the clips and queries that a run was scored on, and return the name to find them by."""
        number = {clip_id: place for place, clip_id in enumerate(split.clip_ids)}
        name = digest(
            [*split.clip_ids, *(f"{caption.caption_id}\n{caption.clip_id}" for caption in split.captions)]
        ).partition(":")[2]
        if self.read(f"items/{name}.json") is None:
            content = {
                "clips": list(split.clip_ids),
                "t2v": [number[caption.clip_id] for caption in split.captions],
                "v2t": [number[clip_id] for clip_id in scores.v2t_clips],
            }
            self.write(f"items/{name}.json", stamped(content))
        return name

    def read_items(self, name: str) -> tuple[list[str], dict[str, NDArray[np.int64]]]:
        """Clip ids, and for each direction the number of the clip that each query is about."""
        tree = self.read(f"items/{name}.json")
        if tree is None:
            raise SupportsetError(
                f"{self.path / 'items' / name}.json: missing, and the ranks of the runs mean nothing without it; copy "
                "the complete study folder, or delete its runs to run them again"
            )
        return tree["clips"], {way: integers(tree[way], self.path) for way in ("t2v", "v2t")}


def _checked(tree: Any, path: Path) -> dict[str, Any]:
    if not isinstance(tree, dict) or (tree.get("format"), tree.get("version")) != (FORMAT, VERSION):
        raise SupportsetError(f"{path}: not a study file of this version; delete it to run this again")
    return tree


def stamped(content: Mapping[str, Any]) -> dict[str, Any]:
    """Put the format's name and version in front of a record."""
    return {"format": FORMAT, "version": VERSION, **content}


# Keys that were added after the first studies: left out where they have their default, which is how those studies were
# run, so that finished runs stay finished.
_LATER = (("support", "top_k"), ("support", "text_gradient"), ("support", "video_gradient"))


def essential(config: Config) -> dict[str, Any]:
    """The part of a configuration that decides a run's numbers."""
    tree = config.model_dump(mode="json")
    del tree["name"]
    for key in ("log_every", "checkpoint_every"):
        del tree["optim"][key]
    for section, key in _LATER:
        if tree[section][key] == type(getattr(config, section)).model_fields[key].default:
            del tree[section][key]
    return tree


def config_hash(config: Config) -> str:
    """Hash of what decides a run's numbers."""
    return digest([json.dumps(essential(config), sort_keys=True)])


def recorded_ranks(ranks: ArrayLike) -> list[int]:
    """Ranks as integers; 0 means a miss."""
    ranks = np.asarray(ranks, dtype=np.float64)
    return np.where(np.isfinite(ranks), ranks, 0).astype(np.int64).tolist()


def read_ranks(recorded: Any, source: object) -> NDArray[np.float64]:
    """Ranks from `recorded_ranks`; ``source`` is named in the error where they are damaged."""
    ranks = integers(recorded, source).astype(np.float64)
    return np.where(ranks == 0, MISS, ranks)


def integers(recorded: Any, source: object) -> NDArray[np.int64]:
    """Integers of a record: a list, or a string as studies up to 0.1 have it (base64 of deflated uint32)."""
    try:
        if isinstance(recorded, str):
            return np.frombuffer(zlib.decompress(base64.b64decode(recorded)), dtype="<u4").astype(np.int64)
        return np.array(recorded, dtype=np.int64)
    except (zlib.error, ValueError, TypeError) as error:
        raise SupportsetError(f"{source}: damaged numbers ({error}); delete the file to run this again") from None
