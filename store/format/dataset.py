"""The tables of a dataset: its clips, its captions, and who belongs to which split of which protocol.

``clips.parquet``, ``captions.parquet`` and ``splits.parquet`` lie beside ``dataset.json``, which names the content of
each by a hash and is written last: it is the commit. See :func:`write_dataset` for how a reader never sees a mix.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import Folder, StorePath, hash_file, hash_parts, open_folder, store_path
from supportset.store.format.card import check_format, load_json
from supportset.store.format.row_hash import hash_rows
from supportset.store.format.tables import TABLES, Rows, as_table, read_table, to_parquet, validate, with_all_splits

FORMAT = "supportset-dataset"
FORMAT_VERSION = 1
DATASET = "dataset.json"


@dataclass(frozen=True)
class Caption:
    """One sentence about one clip."""

    caption_id: str
    clip_id: str
    text: str

    @property
    def hash(self) -> str:
        """Hash of the text's UTF-8 form: what a text feature set keeps as the source's hash."""
        return hash_parts([self.text.encode("utf-8")])


class Dataset:
    """A dataset's tables, as committed when it was opened.

    Attributes
    ----------
    name : of the dataset
    info : ``dataset.json``
    clips, captions, splits : pyarrow tables; columns as in ``docs/store-format.md``
    """

    def __init__(self, name: str, info: dict[str, Any], tables: Mapping[str, pa.Table]) -> None:
        self.name = name
        self.info = info
        self.clips = tables["clips"]
        self.captions = tables["captions"]
        self.splits = tables["splits"]

    def protocols(self) -> list[str]:
        """Names of the protocols, in the reader's order."""
        return list(self.info["protocols"])

    def split_names(self, protocol: str) -> list[str]:
        """Names of a protocol's splits, also of those whose list is absent; UsageError names the known protocols."""
        self._check(protocol)
        return list(self.info["protocols"][protocol])

    def split_clips(self, protocol: str, split: str) -> list[str]:
        """Clips of a split, each once, in the order of the table.

        Raises
        ------
        UsageError
            Unknown protocol or split: names the known ones.
        """
        rows = self._split(protocol, split)
        return list(dict.fromkeys(rows["clip_id"].to_pylist()))

    def split_captions(self, protocol: str, split: str) -> list[Caption]:
        """Captions of a split, in the order of the table, then of the captions.

        Raises
        ------
        UsageError
            Unknown protocol or split: names the known ones.
        """
        rows = self._split(protocol, split)
        found: list[Caption] = []
        for clip_id, caption_id in zip(rows["clip_id"].to_pylist(), rows["caption_id"].to_pylist(), strict=True):
            if caption_id is None:
                found += self._official.get(clip_id, [])
            else:
                found.append(self._by_id[caption_id])
        return list(dict.fromkeys(found))

    def expected(self, protocol: str, split: str) -> int | None:
        """Number of clips that the split must have by its protocol; None where the protocol does not say."""
        self._check(protocol, split)
        size: int | None = self.info["protocols"][protocol][split]
        return size

    def _split(self, protocol: str, split: str) -> pa.Table:
        self._check(protocol, split)
        mine = pc.and_(pc.equal(self.splits["protocol"], protocol), pc.equal(self.splits["split"], split))
        return self.splits.filter(mine)

    def _check(self, protocol: str, split: str | None = None) -> None:
        protocols = self.info["protocols"]
        if protocol not in protocols:
            known = ", ".join(protocols) or "none"
            raise UsageError(f"dataset {self.name!r} has no protocol {protocol!r}; it has {known}")
        if split is not None and split not in protocols[protocol]:
            known = ", ".join(protocols[protocol]) or "none"
            raise UsageError(f"protocol {protocol!r} of dataset {self.name!r} has no split {split!r}; it has {known}")

    @cached_property
    def _by_id(self) -> dict[str, Caption]:
        columns = (self.captions[name].to_pylist() for name in ("caption_id", "clip_id", "text"))
        return {caption_id: Caption(caption_id, clip, text) for caption_id, clip, text in zip(*columns, strict=True)}

    @cached_property
    def _official(self) -> dict[str, list[Caption]]:
        by_clip: dict[str, list[Caption]] = {}
        for caption, protocol in zip(self._by_id.values(), self.captions["protocol"].to_pylist(), strict=True):
            if protocol is None:
                by_clip.setdefault(caption.clip_id, []).append(caption)
        return by_clip


def write_dataset(
    root: str | StorePath,
    name: str,
    *,
    clips: Rows,
    captions: Rows,
    splits: Rows,
    protocols: Mapping[str, Mapping[str, int | None]],
    sources: Iterable[Path],
) -> Dataset:
    """Write a dataset's tables, or do nothing where they hold the same already.

    A reader never sees a mix of old and new, and a writer that is killed at any moment leaves one or the other: the
    tables are first written under names with their content's hash (``.clips.<hash>.parquet``); then ``dataset.json``,
    which names these hashes, is replaced by a rename, and this is the commit; only then do the tables get their plain
    names, and the others go. A reader takes the table under its plain name if that has the hash, else the other.

    Parameters
    ----------
    root : the store
    name : of the dataset, and of its folder
    clips, captions, splits : tables, or rows as dicts; nullable columns may be left out
    protocols : number of clips that each split must have, None where not known
    sources : annotation files; their names and hashes are recorded

    Returns
    -------
    Dataset

    Raises
    ------
    SupportsetError
        Rows that contradict each other (an id twice, a caption of an unknown clip, ...), with an example;
        a source or a folder that cannot be read or written.
    """
    if not name or "/" in name or name.startswith("."):
        raise UsageError(f"dataset name {name!r} is not the name of a folder: use letters, digits, - and _")
    tables = {key: as_table(key, rows) for key, rows in (("clips", clips), ("captions", captions), ("splits", splits))}
    sizes = with_all_splits(protocols, tables["splits"])
    validate(name, tables)
    contents = {key: hash_rows(table) for key, table in tables.items()}
    hashes = {(path.name, hash_file(path)) for path in map(Path, sources)}
    info = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": name,
        "counts": {key: len(table) for key, table in tables.items()},
        "tables": {key: {"file": f"{key}.parquet", "content": content} for key, content in contents.items()},
        "protocols": sizes,
        "sources": [{"name": file, "xxh3": xxh3} for file, xxh3 in sorted(hashes)],
    }
    folder = open_folder(store_path(root) / name)
    commit = (json.dumps(info, indent=2) + "\n").encode("utf-8")
    if folder.read(DATASET) != commit or not _settled(folder, contents):
        files = {key: to_parquet(tables[key], content) for key, content in contents.items()}
        for key, content in contents.items():
            folder.put({_staged(key, content): [files[key]]})
        folder.put({DATASET: [commit]})
        for key in files:
            if folder.read(DATASET) == commit:  # else another writer came after us: the plain names are its own now
                folder.put({f"{key}.parquet": [files[key]]})
    if folder.read(DATASET) == commit and _settled(folder, contents):
        for other in folder.names():
            if other.startswith(tuple(f".{key}." for key in TABLES)):
                folder.remove(other)
    return Dataset(name, info, tables)


def open_dataset(root: str | StorePath, name: str) -> Dataset:
    """Open a dataset of the store in the folder ``root``.

    Raises
    ------
    UsageError
        No such dataset: lists those there are.
    SupportsetError
        Damaged, or written by a newer version.
    """
    folder = open_folder(store_path(root) / name)
    if not name or folder.read(DATASET) is None:
        known = list_datasets(root)
        there = f"there are {', '.join(known)}" if known else "the store is empty"
        raise UsageError(f"{root}: no dataset {name!r}; {there}; `extract` makes one, --store names another store")
    problem = ""
    for _ in range(3):  # a writer may put other content in place while we read: then look again
        info = load_json(folder, DATASET, "not a dataset")
        check_format(info, FORMAT, FORMAT_VERSION, f"{folder}/{DATASET}")
        try:
            contents = {key: info["tables"][key]["content"] for key in TABLES}
            {protocol: dict(splits) for protocol, splits in info["protocols"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            problem = f"{folder}/{DATASET}: damaged, {error} is absent"
            break
        tables = {key: _read(folder, key, content) for key, content in contents.items()}
        absent = [key for key, table in tables.items() if table is None]
        if not absent:
            return Dataset(name, info, {key: table for key, table in tables.items() if table is not None})
        problem = f"{folder}/{absent[0]}.parquet: absent, or not the table that {DATASET} names"
    raise SupportsetError(f"{problem}: run `extract` for this dataset again, it writes the tables anew")


def list_datasets(root: str | StorePath) -> list[str]:
    """Names of the datasets in a store, sorted; empty where there is no such folder."""
    return sorted(name.partition("/")[0] for name in open_folder(root).glob(f"*/{DATASET}"))


def _settled(folder: Folder, contents: Mapping[str, str]) -> bool:
    """Whether every table stands whole under its plain name."""
    try:
        tables = [read_table(folder, f"{key}.parquet", key, content) for key, content in contents.items()]
    except SupportsetError:  # damaged: to be written anew
        return False
    return all(table is not None for table in tables)


def _read(folder: Folder, key: str, content: str) -> pa.Table | None:
    """The table with this content, under its plain or its staged name."""
    table = read_table(folder, f"{key}.parquet", key, content)
    return read_table(folder, _staged(key, content), key, content) if table is None else table


def _staged(key: str, content: str) -> str:
    return f".{key}.{content.partition(':')[2]}.parquet"
