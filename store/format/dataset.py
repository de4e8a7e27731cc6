"""The tables of a dataset: clips, captions, and the splits of each protocol.

``dataset.json`` names the content of ``clips.parquet``, ``captions.parquet`` and ``splits.parquet`` by hash. It is
written last: it is the commit. :func:`write_dataset` says why a reader never sees a mixture.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
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
from supportset.store.format.tables import (
    ALL_TABLES,
    ATTRIBUTES,
    OPTIONAL,
    TABLES,
    Rows,
    as_table,
    read_table,
    to_parquet,
    validate,
    with_all_splits,
)

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
    name : str
    info : dict
        Content of ``dataset.json``.
    clips : pyarrow.Table
    captions : pyarrow.Table
    splits : pyarrow.Table
        Columns as in ``docs/store-format.md``.
    attributes : pyarrow.Table
        Further values of clips by name, for filters; often empty.
    gone : frozenset of str
        Clips that an extraction run did not find any more, though feature sets hold features of them: search,
        evaluation and training leave them out.
    """

    def __init__(self, name: str, info: dict[str, Any], tables: Mapping[str, pa.Table]) -> None:
        self.name = name
        self.info = info
        self.gone = frozenset(info.get("gone", ()))
        self.clips = tables["clips"]
        self.captions = tables["captions"]
        self.splits = tables["splits"]
        self.attributes = tables.get("attributes", ATTRIBUTES.empty_table())

    def protocols(self) -> list[str]:
        """Return the names of the protocols, in the reader's order."""
        return list(self.info["protocols"])

    def split_names(self, protocol: str) -> list[str]:
        """Return the names of a protocol's splits; UsageError lists the known protocols."""
        self._check(protocol)
        return list(self.info["protocols"][protocol])

    def split_clips(self, protocol: str, split: str) -> list[str]:
        """Return the clips of a split, each once, in the order of the table.

        Raises
        ------
        UsageError
            The protocol or split is unknown; the message lists the known ones.
        """
        rows = self._split(protocol, split)
        return list(dict.fromkeys(rows["clip_id"].to_pylist()))

    def split_captions(self, protocol: str, split: str) -> list[Caption]:
        """Return the captions of a split, in the order of the table, then of the captions.

        Raises
        ------
        UsageError
            The protocol or split is unknown; the message lists the known ones.
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
        """Return the number of clips that the protocol requires in a split; None if it does not say."""
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
    origin: Mapping[str, str] | None = None,
    gone: Iterable[str] | None = None,
    attributes: Rows = (),
) -> Dataset:
    """Write a dataset's tables, or do nothing where they hold the same already.

    A reader never sees a mixture of old and new tables, and a killed writer leaves the old or the new ones:

    1. The tables are written under staged names with the hash of their content (``.clips.<hash>.parquet``).
    2. ``dataset.json``, which names these hashes, is replaced by a rename: the commit.
    3. The tables are written under their plain names, and the staged ones are removed.

    A reader uses the table under its plain name if it has the hash, else the staged one.

    Parameters
    ----------
    root : str or StorePath
        The store.
    name : str
        Name of the dataset, and of its folder.
    clips : pyarrow.Table or iterable of rows
    captions : pyarrow.Table or iterable of rows
    splits : pyarrow.Table or iterable of rows
        A row is a dict or a dataclass; nullable columns may be omitted.
    protocols : mapping
        Number of clips that each split must have; None if unknown.
    sources : iterable of Path
        Annotation files; their names and hashes are recorded.
    origin : mapping, optional
        Where the rows are from; recorded.
    gone : iterable of str, optional
        Clips whose videos are gone; by default those that the dataset has recorded.
    attributes : pyarrow.Table or iterable of rows, optional
        Further values of clips by name, for filters.

    Returns
    -------
    Dataset

    Raises
    ------
    SupportsetError
        Rows contradict each other (a repeated id, a caption of an unknown clip, ...), or a file cannot be read or
        written.
    """
    if not name or "/" in name or name.startswith("."):
        raise UsageError(f"dataset name {name!r} is not the name of a folder: use letters, digits, - and _")
    given = {"clips": clips, "captions": captions, "splits": splits, "attributes": attributes}
    tables = {key: as_table(key, rows) for key, rows in given.items()}
    tables = {key: table for key, table in tables.items() if key in TABLES or len(table)}
    sizes = with_all_splits(protocols, tables["splits"])
    validate(name, tables)
    contents = {key: hash_rows(table) for key, table in tables.items()}
    files = {key: to_parquet(tables[key], content) for key, content in contents.items()}
    hashes = {(path.name, hash_file(path)) for path in map(Path, sources)}
    folder = open_folder(store_path(root) / name)
    info: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": name,
        "counts": {key: len(table) for key, table in tables.items()},
        "tables": {
            key: {"file": f"{key}.parquet", "content": content, **_file_facts(files[key])}
            for key, content in contents.items()
        },
        "protocols": sizes,
        "sources": [{"name": file, "xxh3": xxh3} for file, xxh3 in sorted(hashes)],
        **({"origin": dict(origin)} if origin else {}),
    }
    if marked := sorted(recorded_gone(root, name) if gone is None else set(gone)):
        info["gone"] = marked
    info["hash"] = _hash_of(info)
    commit = _file_of(info)
    if folder.read(DATASET) != commit or not _settled(folder, contents):
        for key, content in contents.items():
            folder.put({_staged(key, content): [files[key]]})
        folder.put({DATASET: [commit]})
        for key in files:
            if folder.read(DATASET) == commit:  # else another writer committed later, and the plain names are its
                folder.put({f"{key}.parquet": [files[key]]})
    if folder.read(DATASET) == commit and _settled(folder, contents):
        unnamed = [f"{key}.parquet" for key in OPTIONAL if key not in files]
        for other in folder.names():
            if other in unnamed or other.startswith(tuple(f".{key}." for key in ALL_TABLES)):
                folder.remove(other)
    return Dataset(name, info, tables)


def open_dataset(root: str | StorePath, name: str) -> Dataset:
    """Open a dataset of the store in the folder ``root``.

    Raises
    ------
    UsageError
        The dataset does not exist; the message lists those that do.
    SupportsetError
        The dataset is damaged, or written by a newer version.
    """
    folder = open_folder(store_path(root) / name)
    if not name or folder.read(DATASET) is None:
        known = list_datasets(root)
        there = f"there are {', '.join(known)}" if known else "the store is empty"
        raise UsageError(f"{root}: no dataset {name!r}; {there}; `extract` makes one, --store names another store")
    problem = ""
    for _ in range(3):  # a writer may commit other content meanwhile: then read again
        info = load_json(folder, DATASET, "not a dataset")
        check_format(info, FORMAT, FORMAT_VERSION, f"{folder}/{DATASET}")
        try:
            present = [*TABLES, *(key for key in OPTIONAL if key in info["tables"])]
            contents = {key: info["tables"][key]["content"] for key in present}
            {protocol: dict(splits) for protocol, splits in info["protocols"].items()}
            if not _is_list_of_ids(info.get("gone", [])):
                raise TypeError("a list of clips in 'gone'")
        except (KeyError, TypeError, AttributeError) as error:
            problem = f"{folder}/{DATASET}: damaged, {error} is missing"
            break
        tables = {key: _read(folder, key, content) for key, content in contents.items()}
        absent = [key for key, table in tables.items() if table is None]
        if not absent:
            return Dataset(name, info, {key: table for key, table in tables.items() if table is not None})
        problem = f"{folder}/{absent[0]}.parquet: missing, or not the table that {DATASET} names"
    raise SupportsetError(f"{problem}: run `extract` for this dataset again, it writes the tables anew")


def recorded_gone(root: str | StorePath, name: str) -> frozenset[str]:
    """Return the clips that a dataset has recorded as gone; none where it does not exist, or is damaged."""
    try:
        found = load_json(open_folder(store_path(root) / name), DATASET, "not a dataset").get("gone", [])
    except (SupportsetError, AttributeError):
        return frozenset()
    return frozenset(found) if _is_list_of_ids(found) else frozenset()


def dataset_faults(root: str | StorePath, name: str) -> Iterator[tuple[str, str]]:
    """Compare every byte of a dataset's files with sizes and hashes.

    Yields
    ------
    file : str
        Name of the damaged file.
    says : str
        What is wrong with it.

    Raises
    ------
    SupportsetError
        The dataset cannot be opened.
    """
    folder = open_folder(store_path(root) / name)
    info = open_dataset(root, name).info
    hashed = "hash" in info or any("xxh3" in info["tables"][key] for key in TABLES)  # else from before 0.2.0
    if hashed and (info.get("hash") != _hash_of(info) or folder.read(DATASET) != _file_of(info)):
        yield DATASET, "its content differs from what was written"
    for key in (key for key in ALL_TABLES if key in info["tables"]):
        facts = info["tables"][key]
        content = folder.read(f"{key}.parquet")
        if content is None:
            content = folder.read(_staged(key, facts["content"])) or b""
        if "xxh3" in facts and _file_facts(content) != {"size": facts.get("size"), "xxh3": facts["xxh3"]}:
            yield f"{key}.parquet", "its content differs from what was written"


def list_datasets(root: str | StorePath, errors: list[SupportsetError] | None = None) -> list[str]:
    """List the names of the datasets in a store, sorted; an absent folder has none.

    Parameters
    ----------
    root : str or StorePath
        The store.
    errors : list of SupportsetError, optional
        If given, a folder that cannot be read, and tables without ``dataset.json``, add an error here.
    """
    folder = open_folder(root)
    if errors is None:
        return sorted(name.partition("/")[0] for name in folder.glob(f"*/{DATASET}"))
    found = []
    for name in folder.names():
        try:
            if folder.child(name).size(DATASET) is not None:
                found.append(name)
            elif any(folder.child(name).size(f"{key}.parquet") is not None for key in TABLES):
                errors.append(SupportsetError(f"{folder}/{name}/{DATASET}: missing, beside tables: restore it"))
        except SupportsetError as error:
            errors.append(error)
    return found


def _is_list_of_ids(found: object) -> bool:
    return isinstance(found, list) and all(isinstance(each, str) for each in found)


def _hash_of(info: Mapping[str, Any]) -> str:
    """Hash of ``dataset.json`` without its own hash."""
    return hash_parts([_file_of({key: value for key, value in info.items() if key != "hash"})])


def _file_of(info: Mapping[str, Any]) -> bytes:
    return (json.dumps(info, indent=2) + "\n").encode("utf-8")


def _file_facts(content: bytes | memoryview) -> dict[str, Any]:
    return {"size": len(content), "xxh3": hash_parts([content])}


def _settled(folder: Folder, contents: Mapping[str, str]) -> bool:
    """Whether every table is complete under its plain name."""
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
