"""Import of features that other programs computed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import StorePath, open_folder
from supportset.store.format.card import FeatureCard, is_feature_set
from supportset.store.format.dataset import Dataset, list_datasets, open_dataset
from supportset.store.format.index import read_all
from supportset.store.format.status import OK
from supportset.store.read.catalog import feature_set_path, list_feature_sets
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.arrays import Fault
from supportset.store.transfer.clip import Features, Form, prepare, survey
from supportset.store.transfer.import_card import ImportOptions, make_card
from supportset.store.transfer.sources import ClipArrays
from supportset.store.write.writer import FeatureWriter, Source

Progress = Callable[[int, int], None]
Row = dict[str, Any]


@dataclass
class ImportSummary:
    """Outcome of an import.

    Attributes
    ----------
    dataset : str
    feature_set : str
    path : StorePath
        Place of the features.
    imported : int
        Clips written by this run.
    unchanged : int
        Clips that were in the store.
    failures : list of tuple of (str, str, str)
        (clip id, status, message) of each clip that could not be imported.
    zero_padded : int
        Written clips that end in rows of zeros.
    zero_rows : int
        Number of these rows.
    lost_values : int
        Values that are zero only in the stored dtype.
    outside : list of str
        Ids that are not clips (or captions) of the dataset's tables.
    lacking : int or None
        Clips (or captions) of the tables without features; None if the store has no tables of the dataset.
    notes : list of str
        Remarks for the user, one line each.
    """

    dataset: str
    feature_set: str
    path: StorePath
    imported: int = 0
    unchanged: int = 0
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    zero_padded: int = 0
    zero_rows: int = 0
    lost_values: int = 0
    outside: list[str] = field(default_factory=list)
    lacking: int | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, with the clips counted by status."""
        status = {OK: self.imported + self.unchanged, **Counter(status for _, status, _ in self.failures)}
        failures = [dict(zip(("clip_id", "status", "message"), failure, strict=True)) for failure in self.failures]
        return {**vars(self), "path": str(self.path), "status": status, "failures": failures}


def import_features(
    store: str | StorePath,
    dataset: str,
    source: ClipArrays,
    options: ImportOptions,
    *,
    times: ClipArrays | None = None,
    progress: Progress | None = None,
) -> ImportSummary:
    """Import features into a store. Clips that it holds already are not written again.

    Values are stored bit for bit, unless a dtype was requested; a clip that cannot be stored gets a failure row.
    Imports with equal options, width and dtype share a feature set. Clips that it holds already are first compared with
    the source, so that different features do not mix under one name.

    Parameters
    ----------
    store : str or StorePath
        Its folder.
    dataset : str
        Name; the dataset need not have tables.
    source : ClipArrays
        The features, from :func:`supportset.store.transfer.opening.open_source`.
    options : ImportOptions
        What the user knows about them.
    times : ClipArrays, optional
        Timestamps of the steps: for each clip (T, 2) seconds or (T,) moments.
    progress : callable, optional
        Called with the number of clips done and of all.

    Raises
    ------
    UsageError
        No id belongs to the dataset, float64 without a requested dtype, or two sources of timestamps.
    SupportsetError
        No clip is readable, or the set holds other features of the same clips: then nothing is written.
    """
    if not dataset or "/" in dataset or dataset.startswith("."):
        raise UsageError(f"dataset name {dataset!r} is not the name of a folder: use letters, digits, - and _")
    if times is not None and options.fps is not None:
        raise UsageError(
            f"--fps {options.fps:g} and --timestamps {times.path}: the steps' times can come from one only"
        )
    tables = open_dataset(store, dataset) if dataset in list_datasets(store) else None
    known = _known_ids(tables, options.kind)
    outside = [] if known is None else [clip_id for clip_id in source.ids if clip_id not in known]
    if known and len(outside) == len(source.ids):
        raise UsageError(
            f"{source.path}: none of its {len(outside):,} ids ({_some(outside)}) belongs to the dataset {dataset!r} "
            f"({_some(sorted(known))}): see --strip, --id-from and --id-list, or import under another dataset's name"
        )
    dim, dtype = survey(source, options.dim, options.dtype)
    form = Form(dim, dtype, options.dtype is not None, options.trim_zeros, options.fps)
    card = make_card(options, form, source, times)
    path = feature_set_path(store, dataset, card.recipe)
    summary = ImportSummary(dataset, path.name, path, outside=outside, notes=[*source.notes])
    earlier = _earlier(store, dataset, path, card)
    job = _Job(source, times, form, _rows_of(path, card), summary)
    todo = job.compare(options.replace)
    if todo or source.absent:
        with FeatureWriter(path, card, shard_format=options.shard_format) as writer:
            job.write(writer, todo, progress)
    summary.notes += earlier if summary.imported else []
    if known is not None:
        summary.lacking = len(known - set(FeatureSet.open(path).clip_ids))
    summary.notes += _remarks(summary, options, tables, timed=times is not None)
    return summary


class _Job:
    """Compares the source's clips with those in the store, and writes what is to be written."""

    def __init__(
        self,
        source: ClipArrays,
        times: ClipArrays | None,
        form: Form,
        rows: dict[str, Row],
        summary: ImportSummary,
    ) -> None:
        self._source = source
        self._times = times
        self._timed = frozenset(times.ids if times else ())
        self._form = form
        self._rows = rows
        self._summary = summary

    def compare(self, replace_others: bool) -> list[str]:
        """Return the clips to import: new ones, failed ones, and with ``replace_others`` changed ones."""
        todo, others = [], []
        for clip_id in self._source.ids:
            row = self._rows.get(clip_id)
            if row is None or row["length"] == 0:
                todo.append(clip_id)
                continue
            try:
                if self._is_unchanged(clip_id, row):
                    self._summary.unchanged += 1
                else:
                    others.append(clip_id)
            except Fault as fault:  # the stored features stay
                self._summary.failures.append((clip_id, fault.status, fault.message))
        if others and not replace_others:
            count = f"{len(others):,} clip{'s' if len(others) > 1 else ''}"
            raise SupportsetError(
                f"{self._summary.path}: holds other features of {count} ({_some(others)}), so nothing was imported: "
                "give these features another --name, --state what differs, or --replace those in the store"
            )
        return todo + others

    def write(self, writer: FeatureWriter, todo: list[str], progress: Progress | None) -> None:
        """Add each clip, or its failure."""
        for clip_id in self._source.absent:
            self._fail(writer, clip_id, Fault("missing", f"{self._source.path.name} holds no such clip"), None)
        for done, clip_id in enumerate(todo, 1):
            started = time.perf_counter()
            where = None
            try:
                where = self._locate(clip_id)
                features, digest = self._read(clip_id)
            except Fault as fault:
                self._fail(writer, clip_id, fault, where)
            else:
                origin, seconds = replace(where, hash=digest), time.perf_counter() - started
                writer.add(clip_id, features.values, features.timestamps, source=origin, seconds=seconds)
                self._summary.imported += 1
                self._summary.zero_padded += features.zero_rows > 0
                self._summary.zero_rows += features.zero_rows
                self._summary.lost_values += features.lost
            if progress:
                progress(done, len(todo))

    def _is_unchanged(self, clip_id: str, row: Row) -> bool:
        where = self._locate(clip_id)
        # Elsewhere, another file may have the same name, size and time: unpacked archives often have one time for all.
        if row["same_place"] and _origin(row) == (where.path, where.size, where.mtime_ns):
            return True
        if row["source_path"] == where.path and row["source_hash"] == self._hash(clip_id):
            return True
        features, _ = self._read(clip_id)
        return features.checksums == (row["checksum"], row["timestamps_checksum"])

    def _fail(self, writer: FeatureWriter, clip_id: str, fault: Fault, where: Source | None) -> None:
        self._summary.failures.append((clip_id, fault.status, fault.message))
        row = self._rows.get(clip_id)
        origin = (where.path, where.size, where.mtime_ns) if where else (None, None, None)
        if row is None or (row["status"], row["message"], *_origin(row)) != (fault.status, fault.message, *origin):
            writer.fail(clip_id, fault.status, fault.message, source=where)

    # With timestamps, a clip comes from two files: a change of either is a change of the clip.

    def _locate(self, clip_id: str) -> Source:
        where = self._source.locate(clip_id)
        if self._times is None:
            return where
        if clip_id not in self._timed:
            raise Fault("wrong_times", f"{self._times.path.name} has no times of the clip")
        other = self._times.locate(clip_id)
        path = f"{where.path} & {other.path}"
        return replace(
            where, path=path, size=where.size + other.size, mtime_ns=max(where.mtime_ns or 0, other.mtime_ns or 0)
        )

    def _hash(self, clip_id: str) -> str:
        both = [part.hash(clip_id) for part in (self._source, self._times) if part]
        return " ".join(both)

    def _read(self, clip_id: str) -> tuple[Features, str]:
        array, digest = self._source.read(clip_id)
        if self._times is None:
            return prepare(array, self._form), digest
        try:
            times, times_digest = self._times.read(clip_id)
        except Fault as fault:
            raise Fault("wrong_times", f"its times: {fault.message}") from None
        return prepare(array, self._form, times), f"{digest} {times_digest}"


def _known_ids(tables: Dataset | None, kind: str) -> set[str] | None:
    if tables is None:
        return None
    column = tables.captions["caption_id"] if kind == "text" else tables.clips["clip_id"]
    return set(column.to_pylist())


def _rows_of(path: StorePath, card: FeatureCard) -> dict[str, Row]:
    """Rows by clip; ``same_place``: imported from where the card says."""
    if not is_feature_set(path):
        return {}
    indexes, _ = read_all(open_folder(path).child("shards"), ["clip_id"])
    near = {index.shard for index in indexes if _places(index.provenance) == _places(card.provenance)}
    columns = ["clip_id", "length", "status", "message", "checksum", "timestamps_checksum"]
    table = FeatureSet.open(path).rows().select([*columns, *_ORIGIN, "source_hash", "shard"])
    return {row["clip_id"]: row | {"same_place": row["shard"] in near} for row in table.to_pylist()}


def _places(provenance: dict[str, Any]) -> set[tuple[str | None, str | None]]:
    """Where features and times are from; of a compacted shard perhaps several places."""
    return {
        (each.get("source", {}).get("place"), each.get("times", {}).get("place"))
        for each in provenance.get("merged", [provenance])
    }


_ORIGIN = ("source_path", "source_size", "source_mtime_ns")


def _origin(row: Row) -> tuple[Any, ...]:
    return tuple(row[column] for column in _ORIGIN)


def _earlier(store: str | StorePath, dataset: str, path: StorePath, card: FeatureCard) -> list[str]:
    """Notes about features of this name in the store."""
    notes = []
    for info in list_feature_sets(store, dataset):
        try:
            there = info.card
        except SupportsetError:  # damaged, or newer
            continue
        name = there.provenance.get("source", {}).get("name")
        if info.path == path and name != card.provenance["source"]["name"]:
            notes.append(f"adds to features of the same name and recipe that were imported from {name!r}")
        elif info.path != path and there.recipe.backbone == card.recipe.backbone:
            differing = ", ".join(there.recipe.differences(card.recipe))
            notes.append(f"the store also holds {dataset}/{info.name}, of the same name (different: {differing})")
    return notes


def _remarks(summary: ImportSummary, options: ImportOptions, tables: Dataset | None, *, timed: bool) -> list[str]:
    notes = []
    if summary.zero_padded:
        fate = "cut (--trim-zeros)" if options.trim_zeros else "kept: --trim-zeros cuts them if they are padding"
        notes.append(f"clips that end in rows of zeros: {summary.zero_padded:,} ({summary.zero_rows:,} rows), {fate}")
    if summary.lost_values:
        notes.append(f"values that are zero in {options.dtype}, not in the source: {summary.lost_values:,}")
    if not timed and options.fps is None and options.kind == "video":
        notes.append("the steps' times are unknown, one second each is assumed: --fps or --timestamps states them")
    noun = "captions" if options.kind == "text" else "clips"
    if tables is None:
        notes.append(
            f"the store has no captions and splits of {summary.dataset!r}: "
            f"`extract READER --name {summary.dataset} --data DIR --annotations-only` adds them"
        )
    if summary.outside:
        notes.append(f"ids that are no {noun} of the dataset: {len(summary.outside):,} ({_some(summary.outside)})")
    if summary.lacking:
        notes.append(f"{noun} of the dataset without features in this set: {summary.lacking:,}")
    return notes


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
