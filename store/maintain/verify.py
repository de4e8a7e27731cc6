"""Is every byte of a feature set what was written? Each fault is found, named, and told with its fix."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import Folder, LocalFolder, StorePath, open_folder, store_path
from supportset.store.format.card import CARD, load_card
from supportset.store.format.index import ShardIndex, Vanished, has_features, index_name, read_index, shard_of
from supportset.store.maintain.file_check import FileCheck
from supportset.store.maintain.orphans import SHARDS, find_orphans
from supportset.store.maintain.repair import read_intact

WORKERS = 2  # shards at a time: one is read while the other is hashed
FAR_WORKERS = 8  # the same for a remote store, whose answers take their time

Progress = Callable[[int, int], None]
_Shard = tuple[ShardIndex, pa.Table]


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be.

    Attributes
    ----------
    kind : str
        ``card``, ``folder_name``, ``index``, ``recipe``, ``missing_file``, ``size``, ``content``; and the
        harmless ``orphan``, ``temporary``, ``replaced``, ``foreign``.
    path : str
        Of the file.
    says : str
        What is wrong with it.
    fix : str
        What to do.
    clips : tuple of str
        Ids of the clips whose features are damaged or gone.
    shard : str
        Id of the damaged shard, empty where it is something else.
    harmless : bool
        Whether readers are not concerned.
    """

    kind: str
    path: str
    says: str
    fix: str
    clips: tuple[str, ...] = ()
    shard: str = ""
    harmless: bool = False

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {**vars(self), "clips": list(self.clips)}

    def __str__(self) -> str:
        return f"{self.path}: {self.says}: {self.fix}"


@dataclass
class VerifyReport:
    """What a check found.

    Attributes
    ----------
    path : StorePath
        Of the feature set.
    shards : int
        Committed ones that were checked.
    clips : int
        Rows with features in them.
    bytes : int
        That were read and hashed.
    seconds : float
        It took.
    problems : list of Problem
        All of them, the harmless ones last.
    """

    path: StorePath
    shards: int = 0
    clips: int = 0
    bytes: int = 0
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)

    @property
    def harmful(self) -> list[Problem]:
        """Those that a reader meets."""
        return [problem for problem in self.problems if not problem.harmless]

    @property
    def damaged_clips(self) -> list[str]:
        """Ids of all clips whose features are damaged or gone."""
        return sorted({clip_id for problem in self.problems for clip_id in problem.clips})

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            **vars(self),
            "path": str(self.path),
            "problems": [problem.to_json() for problem in self.problems],
            "damaged_clips": self.damaged_clips,
        }


def verify(path: str | StorePath, *, progress: Progress | None = None) -> VerifyReport:
    """Check every file of a feature set against its size and hash. Nothing is changed.

    Files are read once from their first byte to their last; only where a hash differs are the clips compared, one by
    one, to say which are damaged.

    Parameters
    ----------
    path : str or StorePath
        The feature set's folder.
    progress : callable, optional
        Called with the number of bytes done and of all.

    Raises
    ------
    UsageError
        No feature set in the folder.
    SupportsetError
        The disk refuses; the set is of a newer format version.
    """
    started = time.monotonic()
    report = VerifyReport(store_path(path))
    root = open_folder(path)
    recipe_hash = _check_card(root, report)
    folder = root.child(SHARDS)
    checker = FileCheck(folder)
    # All indexes first: reading one holds the interpreter, which the threads that hash would wait for.
    shards = _without_replaced(list(_readable(folder, report)), folder, report)
    total = sum(file.size for index, _ in shards for file in index.files)
    with _Pool(WORKERS if isinstance(folder, LocalFolder) else FAR_WORKERS) as pool:
        checks = [(*shard, pool.submit(_check_shard, folder, checker, *shard)) for shard in shards]
        for index, rows, check in checks:
            problems, read = check.result()
            report.bytes += read
            if progress:
                progress(report.bytes, total)
            if problems and folder.size(index_name(index.shard)) is None:
                continue  # removed by another process in the meantime: another shard holds its clips
            report.problems += _of_another_recipe(folder, index, recipe_hash) + problems
            report.shards += 1
            report.clips += len(rows) - rows["offset"].null_count
    report.problems += _leftovers(report.path)
    report.problems.sort(key=lambda problem: problem.harmless)
    report.seconds = round(time.monotonic() - started, 3)
    return report


def _check_card(root: Folder, report: VerifyReport) -> str | None:
    try:
        recipe = load_card(root).recipe
    except UsageError:
        raise
    except SupportsetError as error:
        report.problems.append(_told("card", f"{root}/{CARD}", error, "restore the file"))
        return None
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


def _readable(folder: Folder, report: VerifyReport) -> Iterator[tuple[ShardIndex, pa.Table]]:
    """Index files with their rows; the others are reported."""
    shards = [shard for name in folder.names() if (shard := shard_of(name))]
    with _Pool(FAR_WORKERS) as pool:
        read = map if isinstance(folder, LocalFolder) else pool.map
        for shard, outcome in zip(shards, read(lambda shard: _index(folder, shard), shards), strict=True):
            name = index_name(shard)
            if isinstance(outcome, tuple):
                yield outcome
            elif not isinstance(outcome, Vanished):
                fix = (
                    "restore the file, or delete it and run the same `extract` again: the clips that only it has are "
                    "redone"
                )
                damaged = "damaged" in str(outcome)
                report.problems.append(_told("index", f"{folder}/{name}", outcome, fix if damaged else ""))
            elif name in folder.names():
                report.problems.append(_told("index", f"{folder}/{name}", outcome, "remove the broken link"))


def _without_replaced(shards: list[_Shard], folder: Folder, report: VerifyReport) -> list[_Shard]:
    """The shards that count; the others are reported."""
    replaced = {shard for index, _ in shards for shard in index.replaces}
    for index, _ in shards:
        if index.shard in replaced:
            name = f"{folder}/{index_name(index.shard)}"
            fix = "harmless, `store compact` removes it"
            report.problems.append(Problem("replaced", name, "another shard took its place", fix, harmless=True))
    return [(index, rows) for index, rows in shards if index.shard not in replaced]


def _of_another_recipe(folder: Folder, index: ShardIndex, recipe_hash: str | None) -> list[Problem]:
    if recipe_hash is None or index.recipe_hash == recipe_hash:
        return []
    says = f"belongs to the recipe {index.recipe_hash}, the card is of {recipe_hash}"
    name = f"{folder}/{index_name(index.shard)}"
    return [Problem("recipe", name, says, "move the shard to the set it came from")]


class _Pool(ThreadPoolExecutor):
    """Threads that do not go on with what waits when the work is given up, as on Ctrl-C."""

    def __exit__(self, *_: object) -> None:
        self.shutdown(cancel_futures=True)


def _index(folder: Folder, shard: str) -> tuple[ShardIndex, pa.Table] | SupportsetError:
    try:
        return read_index(folder, shard)
    except SupportsetError as error:
        return error


def _check_shard(folder: Folder, check: FileCheck, index: ShardIndex, rows: pa.Table) -> tuple[list[Problem], int]:
    """Compare a shard's files with its index; say also how many bytes were read."""
    if says := _contradiction(index, rows):
        clips = tuple(rows.filter(has_features(rows))["clip_id"].to_pylist())
        fix = f"delete it and run the same `extract` again: only these {len(clips):,} clips are redone"
        return [Problem("index", f"{folder}/{index_name(index.shard)}", says, fix, clips)], 0
    problems = []
    faults = [(file, *fault) for file in index.files if (fault := check.fault(file))]
    if faults:
        whole, _, _ = read_intact(folder, index, rows)
        clips = tuple(rows.filter(pa.array(~whole))["clip_id"].to_pylist())
        problems = [
            Problem(kind, f"{folder}/{file.name}", says, _fix(len(clips)), clips, index.shard)
            for file, kind, says in faults
        ]
    for name in sorted(set(folder.files(index.root) if index.files else ()) - {file.name for file in index.files}):
        fix = "harmless, move it away"
        problems.append(Problem("foreign", f"{folder}/{name}", "is no file of the shard", fix, harmless=True))
    unread = {file.name for file, kind, _ in faults if kind != "content"}
    return problems, sum(file.size for file in index.files if file.name not in unread)


def _fix(clips: int) -> str:
    if not clips:
        return "no clip is concerned: restore the file, or `store verify --drop-damaged` writes the shard anew"
    redone = f"only {clips:,} clips are redone" if clips > 1 else "only 1 clip is redone"
    return f"restore the file, or run `store verify --drop-damaged` and then the same `extract` again: {redone}"


def _contradiction(index: ShardIndex, rows: pa.Table) -> str | None:
    """What in an index cannot be, though its own hashes are right."""
    sizes = {file.name: file.size for file in index.files}
    for name, location in index.arrays.items():
        if location.file not in sizes or location.offset + location.nbytes > sizes[location.file]:
            return f"says that {name} lie where there is no file"
    steps = min(
        (index.arrays[name].shape[0] for name in ("values", "timestamps") if name in index.arrays), default=None
    )
    end = pc.max(pc.add(rows["offset"], rows["length"])).as_py()  # None where no clip has features
    if end is not None and not index.files:
        return "states features and no file that holds them"
    if steps is not None and end is not None and end > steps:
        return f"has a clip that ends at step {end} of {steps}"
    return None


def _leftovers(path: StorePath) -> Iterator[Problem]:
    told = {
        "orphan": (
            "a shard without an index, of a killed writer or of one that runs now",
            "`store compact` removes it",
        ),
        "temporary": ("unfinished, of a killed writer or of one that runs now", "`store compact` removes it"),
        "foreign": ("is no file of the store", "move it away"),
    }
    for orphan in find_orphans(path):
        says, fix = told[orphan.kind]
        yield Problem(orphan.kind, str(orphan.path), says, f"harmless, {fix}", harmless=True)


def _told(kind: str, path: str, error: SupportsetError, fix: str) -> Problem:
    """A problem from an error, whose line begins with the path and ends with a fix of its own."""
    says = re.sub("^" + re.escape(path) + ": ", "", str(error))
    said, colon, own = says.rpartition(": ")
    return Problem(kind, path, said if colon else says, fix or own)
