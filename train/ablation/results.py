"""What a finished run of a study leaves: one small JSON file with its configuration, scores and every rank.

STUDY/runs/VARIANT-seed0[-fold0].json     a run of the table
STUDY/trials/VARIANT-03[-fold0].json      a trial of the search: validation scores only
STUDY/failed/....json                     what a run died of, until it is tried again
STUDY/items/HASH.json                     the clips and queries that were asked, once for all runs that share them
STUDY/work/                               run folders in progress; may be deleted
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class RunKey:
    """Which run of a study.

    Attributes
    ----------
    variant : its name
    seed : of the training; of a trial, that of the search
    fold : from 0; None without folds
    trial : number of the combination a trial tries; None for a run of the table
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
        """Its JSON file, from the study's folder."""
        return f"{'runs' if self.trial is None else 'trials'}/{self.stem}.json"

    @property
    def failure(self) -> str:
        """Where a failure is told, from the study's folder."""
        return f"failed/{self.stem}.json"


class StudyFolder:
    """The files of a study.

    Parameters
    ----------
    path : the folder; made when something is written
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def work(self, key: RunKey) -> Path:
        """Run folder of a run in progress."""
        return self.path / "work" / key.stem

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all; ``name`` may have a folder in front."""
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        self.put(name, text.encode("utf-8"))

    def put(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all; ``name`` may have a folder in front."""
        target = self.path / name
        with telling("write", target):
            target.parent.mkdir(parents=True, exist_ok=True)
        LocalFolder(target.parent).put({target.name: [content]})

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file; None where it is absent. A damaged one is an error that names it."""
        path = self.path / name
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SupportsetError(f"{path}: cannot be read ({error}); delete it to have it made anew") from None
        if not isinstance(tree, dict) or (tree.get("format"), tree.get("version")) != (FORMAT, VERSION):
            raise SupportsetError(f"{path}: not a file of this version's studies; delete it to have it made anew")
        return tree

    def finished(self, key: RunKey, config: Config, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a run left, if it was of this very configuration and was asked the same; else None.

        Keys that the program has learned since then have their defaults in the old file, so a new release does not
        throw away what an old one has computed.
        """
        tree = self.read(key.path)
        if tree is None or any(tree.get(name) != value for name, value in asked.items()):
            return None
        try:
            there = parse_config(tree["config"], key.path)
        except (UsageError, KeyError):
            return None
        if essential(there) != essential(config):
            return None
        return tree | {"chosen": renewed(tree.get("chosen", {}), key.path)}

    def write_items(self, split: Split, scores: RetrievalScores) -> str:
        """Keep which clips and queries a run was asked; the name to find them by."""
        number = {clip_id: place for place, clip_id in enumerate(split.clip_ids)}
        of_query = [number[caption.clip_id] for caption in split.captions]
        of_clip = [number[clip_id] for clip_id in scores.v2t_clips]
        name = digest(
            [*split.clip_ids, *(f"{caption.caption_id}\n{caption.clip_id}" for caption in split.captions)]
        ).partition(":")[2]
        if not (self.path / "items" / f"{name}.json").exists():
            content = {"clips": list(split.clip_ids), "t2v": packed(of_query), "v2t": packed(of_clip)}
            self.write(f"items/{name}.json", stamped(content))
        return name

    def read_items(self, name: str) -> tuple[list[str], dict[str, NDArray[np.int64]]]:
        """Clip ids, and for both directions the clip's number of each query."""
        tree = self.read(f"items/{name}.json")
        if tree is None:
            raise SupportsetError(
                f"{self.path / 'items' / name}.json: absent, and the ranks of the runs mean nothing without it; copy "
                "the study's folder whole, or delete its runs to have them made anew"
            )
        return tree["clips"], {way: unpacked(tree[way], self.path) for way in ("t2v", "v2t")}


def stamped(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with the format's name and version in front."""
    return {"format": FORMAT, "version": VERSION, **content}


# Keys that came after the first studies: left out where they have their default, which is how those studies were run,
# so that what is finished stays finished.
_LATER = (("support", "top_k"), ("support", "text_gradient"), ("support", "video_gradient"))


def essential(config: Config) -> dict[str, Any]:
    """What of a configuration decides a run's numbers."""
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


def packed_ranks(ranks: ArrayLike) -> str:
    """Ranks in few letters; a miss is 0."""
    ranks = np.asarray(ranks, dtype=np.float64)
    return packed(np.where(np.isfinite(ranks), ranks, 0).astype(np.int64))


def unpacked_ranks(text: str, source: object) -> NDArray[np.float64]:
    """Ranks of `packed_ranks`; ``source`` is named where they are damaged."""
    ranks = unpacked(text, source).astype(np.float64)
    return np.where(ranks == 0, MISS, ranks)


def packed(numbers: Sequence[int] | NDArray[np.int64]) -> str:
    """Whole numbers from 0 to 2^32 - 1 as little-endian uint32, deflated, in base64."""
    return base64.b64encode(zlib.compress(np.asarray(numbers, dtype="<u4").tobytes(), 9)).decode("ascii")


def unpacked(text: str, source: object) -> NDArray[np.int64]:
    """Numbers of `packed`; ``source`` is named where they are damaged."""
    try:
        return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<u4").astype(np.int64)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise SupportsetError(f"{source}: damaged numbers ({error}); delete the file to have it made anew") from None
