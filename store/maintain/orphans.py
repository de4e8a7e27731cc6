"""Files of a feature set's folder that no committed shard has: of killed writers, and foreign ones."""

from __future__ import annotations

import re
from dataclasses import dataclass

from supportset.store.files import TEMPORARY, StorePath, open_folder, store_path
from supportset.store.format.card import CARD
from supportset.store.format.index import index_name, shard_of
from supportset.store.format.registry import shard_suffixes

SHARDS = "shards"
LOG = "log"  # of the runs that wrote the set, one file each: told, and read by nothing here

_LOG_FILE = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}\.jsonl")
_SHARD = re.compile(r"([0-9a-f]{16})(\.\w+)")


@dataclass(frozen=True)
class Orphan:
    """A file or folder that is no part of the set.

    Attributes
    ----------
    kind : str
        ``orphan`` (a shard without an index), ``temporary`` (unfinished), ``foreign`` (not of this program).
    path : StorePath
        Of it.
    changed : float
        Seconds since 1970, by the storage's clock, at which it, or something in it, last changed; NaN where the
        storage does not tell.
    """

    kind: str
    path: StorePath
    changed: float


def find_orphans(path: str | StorePath) -> list[Orphan]:
    """Files in a feature set's folder that are no part of it. Names with a dot that are not ours are left out.

    A writer that runs now has such files too: only their age tells them from those of a killed one.
    """
    place = store_path(path)
    root = open_folder(place)
    folder = root.child(SHARDS)
    beside = root.names()
    found = [(_kind(name, {CARD, SHARDS, LOG}), place, name) for name in beside]
    if LOG in beside and LOG not in root.stamps():  # a folder
        logs = [name for name in root.child(LOG).names() if not _LOG_FILE.fullmatch(name)]
        found += [(_kind(name, set()), place / LOG, name) for name in logs]
    names, suffixes = set(folder.names()), shard_suffixes()
    for name in names:
        match = _SHARD.fullmatch(name)
        if match is None or match[2] not in suffixes:
            found.append((None if shard_of(name) else _kind(name, set()), place / SHARDS, name))
        elif index_name(match[1]) not in names and folder.size(index_name(match[1])) is None:
            found.append(("orphan", place / SHARDS, name))
    kept = sorted((kind, str(at), name) for kind, at, name in found if kind)
    changes = [(kind, at, name, open_folder(at).changed(name)) for kind, at, name in kept]
    return [Orphan(kind, store_path(at) / name, when) for kind, at, name, when in changes if when is not None]


def _kind(name: str, known: set[str]) -> str | None:
    if name.startswith("."):
        return "temporary" if name.startswith(TEMPORARY) else None
    return None if name in known else "foreign"
