"""Files of a feature set's folder that no committed shard has: of killed writers, and foreign ones."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from store.card import CARD
from store.files import TEMPORARY, telling
from store.index import index_name, shard_of

SHARDS = "shards"
LOG = "log"  # of the runs that wrote the set, one file each: told, and read by nothing here

_LOG_FILE = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}\.jsonl")
_SHARD = re.compile(r"([0-9a-f]{16})\.(zarr|h5)")


@dataclass(frozen=True)
class Leftover:
    """A file or folder that is no part of the set.

    Attributes
    ----------
    kind : ``orphan`` (a shard without an index), ``temporary`` (unfinished), ``foreign`` (not of this program)
    path : of it
    changed : seconds since 1970 at which it, or something in it, last changed
    """

    kind: str
    path: Path
    changed: float


def find_leftovers(path: Path) -> list[Leftover]:
    """What lies in a feature set's folder and is no part of it. Names with a dot that are not ours are left out.

    A writer that runs now has such files too: only their age tells them from those of a killed one.
    """
    shards = path / SHARDS
    found = [(_kind(name, {CARD, SHARDS, LOG}), path / name) for name in _names(path)]
    if (path / LOG).is_dir():
        logs = [name for name in _names(path / LOG) if not _LOG_FILE.fullmatch(name)]
        found += [(_kind(name, set()), path / LOG / name) for name in logs]
    names = set(_names(shards))
    for name in names:
        match = _SHARD.fullmatch(name)
        if match is None:
            found.append((None if shard_of(name) else _kind(name, set()), shards / name))
        elif index_name(match[1]) not in names and not (shards / index_name(match[1])).exists():
            found.append(("orphan", shards / name))
    kept = sorted((kind, file) for kind, file in found if kind)
    return [Leftover(kind, file, changed) for kind, file in kept if (changed := last_change(file)) is not None]


def last_change(path: Path) -> float | None:
    """When a file, or anything in a tree, last changed, a new name included; None where it is gone."""
    times = []
    for file in (path, *_below(path)):
        with telling("look at the file", file):
            try:
                stat = os.lstat(file)
            except FileNotFoundError:
                continue
        # The second is that of a rename, and of a copy that keeps the times of its original.
        times.append(max(stat.st_mtime, stat.st_ctime))
    return max(times, default=None)


def _kind(name: str, known: set[str]) -> str | None:
    if name.startswith("."):
        return "temporary" if name.startswith(TEMPORARY) else None
    return None if name in known else "foreign"


def _names(path: Path) -> list[str]:
    with telling("list the folder", path):
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []


def _below(path: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(path):  # nothing where it is a file, a link, or gone
        yield from (Path(folder, name) for name in (*folders, *files))
