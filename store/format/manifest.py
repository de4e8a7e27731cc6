"""The manifest of a feature set: the shards that it must have. Each has an entry, ``<id>.json``; no lock is needed.

A writer puts an open entry before the files of a shard. Once the index is there, it replaces the entry by a closed one,
with the size and hash of the index. A removal opens the entry again before it removes the index. So:

- a closed entry without an index: the index was lost, unless an index replaces the shard;
- an open entry without an index: of a writer or a removal that was killed, or that runs now;
- a shard without index and entry: older than manifests, or both were lost. Nothing removes its files.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from supportset.store.errors import SupportsetError
from supportset.store.files import Folder, hash_parts
from supportset.store.format.card import check_format, parse_json

FORMAT = "supportset-manifest-entry"
FORMAT_VERSION = 1

_NAME = re.compile(r"([0-9a-f]{16})\.json")


@dataclass(frozen=True)
class Entry:
    """Entry of a shard.

    Attributes
    ----------
    size : int or None
        Bytes of the shard's index; None: the entry is open.
    xxh3 : str or None
        Hash of the index.
    """

    size: int | None = None
    xxh3: str | None = None

    @classmethod
    def of_index(cls, content: bytes | memoryview) -> Entry:
        """Make the closed entry of an index."""
        return cls(len(content), hash_parts([content]))

    @property
    def is_closed(self) -> bool:
        """Whether the index must exist."""
        return self.size is not None


def entry_name(shard: str) -> str:
    """Return the name of a shard's entry."""
    return f"{shard}.json"


def put_entry(folder: Folder, shard: str, entry: Entry) -> None:
    """Write the entry of a shard, durably."""
    data = {"format": FORMAT, "format_version": FORMAT_VERSION, "index": vars(entry) if entry.is_closed else None}
    folder.put({entry_name(shard): [(json.dumps(data) + "\n").encode("ascii")]})


def read_entry(folder: Folder, shard: str) -> Entry | None:
    """Read the entry of a shard; None if it has none.

    Raises
    ------
    SupportsetError
        The entry is damaged, or of a newer version.
    """
    content = folder.read(entry_name(shard))
    return None if content is None else _parse(f"{folder}/{entry_name(shard)}", content)


def lost_shards(folder: Folder, names: list[str], known: set[str]) -> list[str]:
    """Find the shards whose entry is closed and whose index is missing.

    Parameters
    ----------
    folder : Folder
        The ``shards`` folder.
    names : list of str
        Names in it.
    known : set of str
        Shards with an index, and those that an index replaces.

    Returns
    -------
    list of str
        Ids, sorted. A shard with a damaged entry and no index is one of them.
    """
    shards = [match[1] for name in names if (match := _NAME.fullmatch(name))]
    suspects = sorted(shard for shard in shards if shard not in known)
    lost = []
    for shard in suspects:
        try:
            entry = read_entry(folder, shard)
        except SupportsetError:
            entry = Entry(0)
        # The listing may be older than the index. An index that is removed has an open entry by then.
        if entry and entry.is_closed and folder.size(f"{shard}.parquet") is None:
            lost.append(shard)
    return lost


def _parse(source: str, content: bytes) -> Entry:
    try:
        data = parse_json(content)
        check_format(data, FORMAT, FORMAT_VERSION, source)
        index = data["index"]
        entry = Entry() if index is None else Entry(int(index["size"]), str(index["xxh3"]))
    except (ValueError, KeyError, TypeError) as error:
        raise SupportsetError(f"{source}: damaged manifest entry ({error}): restore the file") from None
    if data != {"format": FORMAT, "format_version": data["format_version"], "index": index} or (
        index is not None and vars(entry) != index
    ):
        raise SupportsetError(f"{source}: damaged manifest entry: restore the file")
    return entry
