"""Verification of a feature set, or of a dataset's tables: every byte is compared with sizes and hashes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import Folder, LocalFolder, StorePath, open_folder, store_path
from supportset.store.format.card import CARD, card_fault, load_card
from supportset.store.format.dataset import DATASET, dataset_faults, open_dataset
from supportset.store.format.index import (
    DamagedIndex,
    ShardIndex,
    Vanished,
    index_name,
    lost_index,
    parse_index,
    refuse_cycles,
    shard_of,
)
from supportset.store.format.manifest import Entry, entry_name, read_entry
from supportset.store.format.tables import ALL_TABLES
from supportset.store.format.thumbnails import has_thumbnails, thumbnails_path
from supportset.store.maintain.file_check import FileCheck
from supportset.store.maintain.orphans import SHARDS, find_orphans
from supportset.store.maintain.problem import Problem, VerifyReport
from supportset.store.maintain.repair import read_intact

__all__ = ["Problem", "VerifyReport", "verify", "verify_dataset"]

WORKERS = 2  # shards at a time: one is read while the other is hashed
FAR_WORKERS = 8  # the same for a remote store, because of its latency

Progress = Callable[[int, int], None]
_Shard = tuple[ShardIndex, pa.Table]

REDO = "`store thumbnails`"  # what makes lost thumbnails again
_DROP = "restore the file, or run `store verify --drop-damaged` and then the same `extract` again"


def verify(path: str | StorePath, *, progress: Progress | None = None) -> VerifyReport:
    """Compare every file of a feature set, and of its thumbnails, with its size and hash. Nothing is changed.

    Each file is read once. Only if its hash differs, its clips are compared one by one, to find the damaged ones.

    Parameters
    ----------
    path : str or StorePath
        Folder of the feature set.
    progress : callable, optional
        Called with the numbers of bytes that are done and of all.

    Raises
    ------
    UsageError
        The folder has no feature set.
    """
    started = time.monotonic()
    report = VerifyReport(store_path(path))
    root = open_folder(path)
    folder = root.child(SHARDS)
    try:
        _check_files(report, root, folder, progress)
    except UsageError:
        raise
    except SupportsetError as error:  # a folder that cannot be listed, for instance
        report.problems.append(Problem.of_error("unreadable", folder, error))
    report.problems.sort(key=lambda problem: problem.harmless)
    report.seconds = round(time.monotonic() - started, 3)
    if has_thumbnails(path):
        report.thumbnails = verify(thumbnails_path(path), progress=progress)
        for number, problem in enumerate(report.thumbnails.problems):
            fix = problem.fix.replace("the same `extract` again", REDO)
            report.thumbnails.problems[number] = replace(problem, fix=fix)
    elif (lost := open_folder(thumbnails_path(path))).child(SHARDS).names():
        fix = "restore the file, or remove the folder and run `store thumbnails`"
        report.problems.insert(0, Problem("card", f"{lost}/{CARD}", "the card of the thumbnails is missing", fix))
    return report


def _check_files(report: VerifyReport, root: Folder, folder: Folder, progress: Progress | None) -> None:
    recipe_hash = _check_card(root, report)
    checker = FileCheck(folder)
    # First all indexes: parsing one holds the interpreter lock, for which the hashing threads would wait.
    readable = list(_readable(folder, report))
    try:
        refuse_cycles(folder, [index for index, _ in readable])
    except SupportsetError as error:
        name = f"{folder}/{index_name(readable[0][0].shard)}"
        report.problems.append(Problem.of_error("index", name, error, _DROP))
    shards = _without_replaced(readable, folder, report)
    total = sum(file.size for index, _ in shards for file in index.files)
    with _Pool(WORKERS if isinstance(folder, LocalFolder) else FAR_WORKERS) as pool:
        checks = [(*shard, pool.submit(_check_shard, folder, checker, *shard)) for shard in shards]
        for index, rows, check in checks:
            problems, read = check.result()
            report.bytes += read
            if progress:
                progress(report.bytes, total)
            if problems and folder.size(index_name(index.shard)) is None:
                continue  # replaced by another process meanwhile
            report.problems += _of_another_recipe(folder, index, recipe_hash) + problems
            report.shards += 1
            report.clips += len(rows) - rows["offset"].null_count
    report.problems += _orphans(folder, report)


def verify_dataset(root: str | StorePath, name: str) -> VerifyReport:
    """Compare every byte of a dataset's tables with sizes and hashes. Nothing is changed."""
    started = time.monotonic()
    report = VerifyReport(store_path(root) / name)
    folder = open_folder(report.path)
    fix = "run `extract` for this dataset again, it writes the tables anew"
    try:
        dataset = open_dataset(root, name)
        report.clips = len(dataset.clips)
        report.problems = [Problem("table", f"{folder}/{file}", says, fix) for file, says in dataset_faults(root, name)]
        if "hash" not in dataset.info:
            says, fix = (
                "has no hash (written before 0.2.0): only the rows of the tables were checked",
                f"harmless, {fix}",
            )
            report.problems.append(Problem("table", f"{folder}/{DATASET}", says, fix, harmless=True))
    except SupportsetError as error:
        report.problems.append(Problem.of_error("table", folder, error))
    report.bytes = sum(folder.size(file) or 0 for file in (DATASET, *(f"{key}.parquet" for key in ALL_TABLES)))
    report.seconds = round(time.monotonic() - started, 3)
    return report


def _check_card(root: Folder, report: VerifyReport) -> str | None:
    try:
        recipe = load_card(root).recipe
    except UsageError:
        raise
    except SupportsetError as error:
        report.problems.append(Problem.of_error("card", f"{root}/{CARD}", error, "restore the file"))
        return None
    if says := card_fault(root):
        report.problems.append(Problem("card", f"{root}/{CARD}", says, "restore the file"))
    name = (report.path.resolve() if isinstance(report.path, Path) else report.path).name
    if name != recipe.folder:
        report.problems.append(
            Problem(
                "folder_name",
                str(report.path),
                f"its card is that of {recipe.folder}",
                "rename the folder to that, or restore the card",
            )
        )
    return recipe.hash


def _readable(folder: Folder, report: VerifyReport) -> Iterator[_Shard]:
    """Read all index files; report those that are damaged, or not the files of the manifest."""
    shards = [shard for name in folder.names() if (shard := shard_of(name))]
    with _Pool(FAR_WORKERS) as pool:
        read = map if isinstance(folder, LocalFolder) else pool.map
        for shard, outcome in zip(shards, read(lambda shard: _index(folder, shard), shards), strict=True):
            path = f"{folder}/{index_name(shard)}"
            if isinstance(outcome, tuple):
                index, rows, problem = outcome
                report.problems += [problem] if problem else []
                yield index, rows
            elif isinstance(outcome, DamagedIndex):
                report.problems.append(Problem.of_error("index", path, outcome, _DROP, shard))
            elif not isinstance(outcome, Vanished):
                report.problems.append(Problem.of_error("index", path, outcome))
            elif index_name(shard) in folder.names():
                report.problems.append(Problem.of_error("index", path, outcome, "remove the broken link"))


def _without_replaced(shards: list[_Shard], folder: Folder, report: VerifyReport) -> list[_Shard]:
    """Return the shards that count; report the others."""
    replaced = {shard for index, _ in shards for shard in index.replaces}
    for index, _ in shards:
        if index.shard in replaced:
            name = f"{folder}/{index_name(index.shard)}"
            fix = "harmless, `store compact` removes it"
            report.problems.append(Problem("replaced", name, "another shard replaces it", fix, harmless=True))
    return [(index, rows) for index, rows in shards if index.shard not in replaced]


def _of_another_recipe(folder: Folder, index: ShardIndex, recipe_hash: str | None) -> list[Problem]:
    if recipe_hash is None or index.recipe_hash == recipe_hash:
        return []
    says = f"belongs to the recipe {index.recipe_hash}, the card is of {recipe_hash}"
    name = f"{folder}/{index_name(index.shard)}"
    return [Problem("recipe", name, says, "move the shard to the set it came from")]


class _Pool(ThreadPoolExecutor):
    """Threads that drop waiting work after an error or Ctrl-C."""

    def __exit__(self, *_: object) -> None:
        self.shutdown(cancel_futures=True)


def _index(folder: Folder, shard: str) -> tuple[ShardIndex, pa.Table, Problem | None] | SupportsetError:
    """Read an index, and compare its bytes with the shard's manifest entry."""
    try:
        content = folder.read(index_name(shard))
        index, rows = parse_index(folder, shard, content)
    except SupportsetError as error:
        return error
    try:
        entry = read_entry(folder, shard)
    except SupportsetError as error:
        name, fix = f"{folder}/{entry_name(shard)}", "`store compact` writes it anew"
        return index, rows, Problem.of_error("manifest", name, error, fix)
    if content is not None and entry and entry.is_closed and entry != Entry.of_index(content):
        says = "the index, or its manifest entry, differs from what was written"
        return index, rows, Problem("index", f"{folder}/{index_name(shard)}", says, _DROP, shard=shard)
    if entry is None:
        says = "has no manifest entry (written before 0.2.0), so its loss would not be found"
        fix = "harmless, `store compact` adds it"
        return index, rows, Problem("manifest", f"{folder}/{index_name(shard)}", says, fix, harmless=True)
    return index, rows, None


def _check_shard(folder: Folder, check: FileCheck, index: ShardIndex, rows: pa.Table) -> tuple[list[Problem], int]:
    """Compare a shard's files with its index; also return the number of bytes read."""
    problems = []
    faults = [(file, *fault) for file in index.files if (fault := check.fault(file))]
    if faults:
        kept, _, _ = read_intact(folder, index, rows)
        clips = tuple(rows.filter(pa.array(~kept))["clip_id"].to_pylist())
        problems = [
            Problem(kind, f"{folder}/{file.name}", says, _fix(len(clips)), clips, index.shard)
            for file, kind, says in faults
        ]
    for name in sorted(set(folder.files(index.root) if index.files else ()) - {file.name for file in index.files}):
        fix = "harmless, move it away"
        problems.append(Problem("foreign", f"{folder}/{name}", "is not a file of the shard", fix, harmless=True))
    unread = {file.name for file, kind, _ in faults if kind != "content"}
    return problems, sum(file.size for file in index.files if file.name not in unread)


def _fix(clips: int) -> str:
    if not clips:
        return "no clip is affected: restore the file, or `store verify --drop-damaged` rewrites the shard"
    redone = f"only {clips:,} clips are redone" if clips > 1 else "only 1 clip is redone"
    return f"restore the file, or run `store verify --drop-damaged` and then the same `extract` again: {redone}"


def _orphans(folder: Folder, report: VerifyReport) -> Iterator[Problem]:
    """Report the files that no index accounts for."""
    unproven = any(problem.kind == "manifest" for problem in report.problems)  # the manifest is not complete
    kinds = {
        "orphan": ("was not committed: of a killed or a running writer", "harmless, `store compact` removes it", True),
        "temporary": ("unfinished: of a killed or a running writer", "harmless, `store compact` removes it", True),
        "foreign": ("is not a file of the store", "harmless, move it away", True),
        "unlisted": (
            "has no index and no manifest entry: never committed, or they were lost",
            "restore them, or remove the shard by hand and run the same `extract` again",
            unproven,
        ),
    }
    lost = set()
    for orphan in find_orphans(report.path):
        if orphan.kind in kinds:
            says, fix, harmless = kinds[orphan.kind]
            yield Problem(orphan.kind, str(orphan.path), says, fix, harmless=harmless)
        elif orphan.shard not in lost:
            lost.add(orphan.shard)
            error = SupportsetError(lost_index(folder, orphan.shard))
            yield Problem.of_error("index", f"{folder}/{index_name(orphan.shard)}", error, shard=orphan.shard)
