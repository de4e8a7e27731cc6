"""Files in a feature set's folder that no committed shard has: orphans of killed writers, and foreign files."""

from __future__ import annotations

import re
from dataclasses import dataclass

from supportset.store.errors import SupportsetError
from supportset.store.files import TEMPORARY, Folder, StorePath, open_folder, store_path
from supportset.store.format.card import CARD, THUMBNAILS
from supportset.store.format.index import Vanished, index_name, read_index, shard_of
from supportset.store.format.manifest import entry_name, read_entry
from supportset.store.format.registry import shard_suffixes

SHARDS = "shards"
LOG = "log"  # logs of the runs that wrote the set, which nothing here reads

_LOG_FILE = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}\.jsonl")
_SHARD = re.compile(r"([0-9a-f]{16})(\.\w+)", re.ASCII)


@dataclass(frozen=True)
class Orphan:
    """A file or folder that is not a part of the set.

    Attributes
    ----------
    kind : str
        ``orphan``: of a shard that was not committed, or is being removed. ``temporary``: unfinished. ``foreign``: not
        a file of this program. ``unlisted``: a shard without index and manifest entry, which may have been lost.
        ``lost``: a shard that must have an index.
    path : StorePath
    changed : float
        Time of the last change in it, in seconds since 1970 by the storage's clock; NaN if the storage has no times.
    shard : str
        Id of the shard of an ``orphan``, ``unlisted`` or ``lost`` one, else empty.
    """

    kind: str
    path: StorePath
    changed: float
    shard: str = ""


def find_orphans(path: str | StorePath) -> list[Orphan]:
    """Find what is in a feature set's folder and not a part of the set, except unknown names that begin with a dot.

    A running writer has such files too: only their age distinguishes them from those of a killed one.

    Returns
    -------
    list of Orphan
        Sorted; a manifest entry comes after the files of its shard, as it must be removed after them.
    """
    place = store_path(path)
    root = open_folder(place)
    folder = root.child(SHARDS)
    beside = root.names()
    found = [(_kind(name, {CARD, SHARDS, LOG, THUMBNAILS}), place, name, "") for name in beside]
    if LOG in beside and LOG not in root.stamps():  # a folder
        logs = [name for name in root.child(LOG).names() if not _LOG_FILE.fullmatch(name)]
        found += [(_kind(name, set()), place / LOG, name, "") for name in logs]
    names, suffixes = folder.names(), shard_suffixes() | {".json"}
    kinds: dict[str, str | None] = {}
    for name in names:
        match = _SHARD.fullmatch(name)
        if match is None or match[2] not in suffixes:
            found.append((None if shard_of(name) else _kind(name, set()), place / SHARDS, name, ""))
            continue
        shard = match[1]
        if shard not in kinds:
            kinds[shard] = _kind_of_shard(folder, shard, names)
        found.append((kinds[shard], place / SHARDS, name, shard))
    kept = sorted((kind, str(at), name.endswith(".json"), name, shard) for kind, at, name, shard in found if kind)
    changes = [(kind, at, name, open_folder(at).changed(name), shard) for kind, at, _, name, shard in kept]
    return [Orphan(kind, store_path(at) / name, when, of) for kind, at, name, when, of in changes if when is not None]


def _kind_of_shard(folder: Folder, shard: str, names: list[str]) -> str | None:
    """Kind of the files of a shard; None if it is committed."""
    if index_name(shard) in names or folder.size(index_name(shard)) is not None:
        return None
    try:
        entry = read_entry(folder, shard)
    except SupportsetError:
        return "lost"
    if entry is None:
        # The entry may be removed since the listing; then so were the files, unless there was none.
        return None if entry_name(shard) in names else "unlisted"
    if entry.is_closed and not _is_replaced(folder, shard, names) and folder.size(index_name(shard)) is None:
        return "lost"
    return "orphan"


def _is_replaced(folder: Folder, shard: str, names: list[str]) -> bool:
    for other in filter(None, map(shard_of, names)):
        try:
            if shard in read_index(folder, other, ["clip_id"])[0].replaces:
                return True
        except Vanished:
            continue
    return False


def _kind(name: str, known: set[str]) -> str | None:
    if name.startswith("."):
        return "temporary" if name.startswith(TEMPORARY) else None
    return None if name in known else "foreign"
