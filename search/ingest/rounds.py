"""A round: what is new in a folder of videos is extracted, some files at a time, and what is gone is recorded.

Rounds are short, so that what is ready can be searched, and what came or went meanwhile is seen.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from supportset.extract.backbones import DEFAULT_BACKBONE, load_backbone
from supportset.extract.backbones.weights import NO_DOWNLOAD
from supportset.extract.decode.damage.truncation import is_cut_short
from supportset.extract.decode.decoders import pick_decoder
from supportset.extract.decode.sampling import Sampling
from supportset.extract.decode.thumbnails import MOST
from supportset.extract.options import Execution, Selection
from supportset.extract.pipeline.recipe import fit_sampling, make_recipe
from supportset.extract.progress.progress import Observer
from supportset.extract.readers.annotate import AnnotatedDataset, read_dataset
from supportset.extract.readers.videos import NoVideos
from supportset.extract.run import check_places, extract
from supportset.extract.work.selection import Task, plan_work, select_clips
from supportset.search.ingest.messages import PATIENCE_SECONDS, SHARD_SECONDS, Gone, Order, Result
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.card import is_feature_set
from supportset.store.format.dataset import Dataset, list_datasets, open_dataset, write_dataset
from supportset.store.format.index import SCHEMA
from supportset.store.format.status import CRASHED, ERROR, MISSING, OK, OUT_OF_MEMORY, TIMEOUT
from supportset.store.maintain.compact import compact
from supportset.store.read.catalog import feature_set_path, list_feature_sets
from supportset.store.read.feature_set import FeatureSet

if TYPE_CHECKING:
    from supportset.extract.backbones.base import Backbone
    from supportset.store.files import StorePath

MANY_SHARDS = 64  # of a few clips each; more are merged when there is nothing else to do
LISTED = 200  # failures that are listed; all are counted
PASSING = (TIMEOUT, CRASHED, OUT_OF_MEMORY, ERROR)  # failures that may be of the machine: tried again, once a start


class EncoderMissing(SupportsetError):  # noqa: N818 - named for what it tells
    """The encoder pair cannot be loaded."""


class Rounds:
    """Extracts round by round; the encoder is loaded once.

    Parameters
    ----------
    order : Order
    observer : callable
        Takes events of the extraction, ``"phase", {"phase"}`` and ``"plan", {"clips", "done", "features"}``.
    """

    def __init__(self, order: Order, observer: Observer) -> None:
        self._order, self._tell = order, observer
        self._folder = Path(order.folder)
        self._encoder: Backbone | None = None
        self._files: dict[str, str] = {}  # by clip, of this round
        self._tried: set[str] = set()  # files with a failure that may pass, tried again by this process
        self._execution = Execution(
            device=order.device,
            decoder=pick_decoder("auto"),
            seconds_per_shard=SHARD_SECONDS,
            max_failures=1.0,
            thumbnails=MOST,
        )
        check_places(self._execution)

    def round(self, files: Sequence[str], most: int, gone: Gone, only: Sequence[str] | None = None) -> Result:
        """Record what is gone, and extract at most ``most`` files, the newest first.

        Parameters
        ----------
        files : sequence of str
            The files that are whole, relative to the folder.
        most : int
        gone : {"auto", "mark"}
            Whether so many lost videos that a disk may not be mounted are an error, or recorded as gone.
        only : sequence of str, optional
            Extract these files only: a process died with them.

        Raises
        ------
        EncoderMissing
            In one line, with what to do.
        UsageError
            So many videos are gone that a disk may not be mounted.
        SupportsetError
            The store cannot be written, for instance.
        """
        self._tell("phase", {"phase": "scanning"})
        found = self._read()
        if found is None:
            return self._without_videos(gone)
        encoder = self._load()
        tables = found.write(self._order.store, gone)
        sampling = fit_sampling(Sampling(), encoder)
        path = feature_set_path(self._order.store, tables.name, make_recipe(encoder, sampling, self._execution.dtype))
        whole = _only(tables, files)
        result = Result()
        tasks, again = self._plan(whole, path, result)
        fitting = tasks if only is None else [task for task in tasks if task.source.path in only]
        chosen = self._choose(fitting, most, result)
        self._tell("plan", {"clips": result.clips, "done": result.done, "features": path.name})
        if chosen:
            self._files = {task.clip.clip_id: task.source.path for task in tasks}
            self._tell("phase", {"phase": "extracting"})
            summary = extract(
                _only(tables, chosen), self._order.store, self._folder, encoder, sampling,
                Selection(retry_failed=again), self._execution, progress=False, observer=self._observe,
            )  # fmt: skip
            result.taken = len(chosen)
            result.done += sum(task.source.path in chosen for task in tasks)
            if tables.gone or summary.gone:
                tables = found.write(self._order.store, gone, summary.gone)
        if not result.left and only is None:
            self._merge(path)
        self._report(tables, path, result)
        return result

    def _observe(self, event: str, facts: dict[str, Any]) -> None:
        if event == "clip":
            facts = facts | {"file": self._files.get(facts["clip_id"])}
        self._tell(event, facts)

    def _read(self) -> AnnotatedDataset | None:
        """The folder as a dataset; None where it has no video or image."""
        try:
            return read_dataset("folder", self._folder, name=self._order.name)
        except NoVideos:
            return None

    def _load(self) -> Backbone:
        if self._encoder is None:
            self._tell("phase", {"phase": "loading the encoder"})
            name = self._order.encoder
            try:
                encoder = load_backbone(name)
            except UsageError as error:
                raise EncoderMissing(_for_serve(str(error))) from error
            if "embedding" not in encoder.layer:
                raise EncoderMissing(
                    f"encoder {name} has no text tower, so no text can be compared with videos: "
                    f"--encoder takes an encoder pair, as {DEFAULT_BACKBONE}"
                )
            self._encoder = encoder
        return self._encoder

    def _plan(self, whole: Dataset, path: StorePath, result: Result) -> tuple[list[Task], bool]:
        """The clips to do, and whether some of them failed before in a way that may pass."""
        if not len(whole.clips):
            return [], False
        clips, rows = select_clips(whole, Selection()), _rows(path)
        work = plan_work(clips, self._folder, rows)
        tasks = list(work.tasks)
        passing = pc.is_in(rows["status"], pa.array(PASSING))
        failed = set(rows.filter(passing)["source_path"].to_pylist()) - self._tried
        retried = plan_work(clips, self._folder, rows, retry_failed=True).tasks
        again = [each for each in retried if each.source.path in failed]
        self._tried |= {task.source.path for task in again}
        known = {task.clip.clip_id for task in tasks}
        tasks += [task for task in again if task.clip.clip_id not in known]
        result.clips = len(clips)
        result.done = len(clips) - len(tasks)
        return tasks, bool(again)

    def _choose(self, tasks: Iterable[Task], most: int, result: Result) -> list[str]:
        """The files of this round; the others are counted as left, or as incomplete."""
        times = {task.source.path: (task.source.mtime_ns or 0) / 1e9 for task in tasks}
        chosen: list[str] = []
        for path in sorted(times, key=lambda path: times[path], reverse=True):
            if len(chosen) == most:
                result.left = len(times) - len(chosen) - len(result.incomplete)
                break
            young = abs(time.time() - times[path]) < PATIENCE_SECONDS
            (result.incomplete if young and _ends_early(self._folder / path) else chosen).append(path)
        return chosen

    def _merge(self, path: StorePath) -> None:
        """Merge the shards of many short rounds."""
        if is_feature_set(path) and len(_rows(path)["shard"].unique()) > MANY_SHARDS:
            self._tell("phase", {"phase": "merging shards"})
            compact(path)

    def _report(self, tables: Dataset, path: StorePath, result: Result) -> None:
        rows = _rows(path)
        result.features = path.name if is_feature_set(path) else None
        here = pc.is_in(rows["clip_id"], tables.clips["clip_id"].combine_chunks())
        rows = rows.filter(pc.and_(here, pc.not_equal(rows["status"], MISSING)))
        result.counts = dict(Counter(rows["status"].to_pylist()))
        failed = rows.filter(pc.not_equal(rows["status"], OK))
        result.failed, failed = len(failed), failed.slice(0, LISTED)
        columns = (failed[name].to_pylist() for name in ("source_path", "clip_id", "status", "message"))
        result.failures = [
            {"file": file or clip_id, "status": status, "message": message}
            for file, clip_id, status, message in zip(*columns, strict=True)
        ]
        result.gone = len(tables.gone)

    def _without_videos(self, gone: Gone) -> Result:
        """The folder has no video: deleted while the server ran, never there, or on a disk that is not mounted."""
        root, name = self._order.store, self._order.name
        waits = f"{self._folder}: no video or image yet: it waits for some"
        if name not in list_datasets(root):
            return Result(message=waits)
        tables = open_dataset(root, name)
        known = {clip_id for info in list_feature_sets(root, name) for clip_id in info.open().clip_ids}
        if gone == "auto" and (lost := known - tables.gone):
            raise UsageError(
                f"{self._folder}: has no video or image, but the store has {len(lost):,} of its clips: "
                "mount the missing disk; nothing is dropped meanwhile"
            )
        if known - tables.gone:
            write_dataset(
                root, name, clips=tables.clips, captions=tables.captions, splits=tables.splits,
                protocols=tables.info["protocols"], sources=(), origin=tables.info.get("origin"), gone=known,
                attributes=tables.attributes,
            )  # fmt: skip
        return Result(message=waits, gone=len(known))


def _only(tables: Dataset, files: Iterable[str]) -> Dataset:
    """The same dataset with the clips of some files only."""
    among = pc.is_in(tables.clips["path"], pa.array([*files], pa.string()))
    of_files = {"clips": tables.clips.filter(among), "captions": tables.captions, "splits": tables.splits}
    return Dataset(tables.name, tables.info, of_files)


def _rows(path: StorePath) -> pa.Table:
    return FeatureSet.open(path).rows() if is_feature_set(path) else SCHEMA.empty_table()


def _ends_early(path: Path) -> bool:
    try:
        return is_cut_short(path)
    except OSError:
        return False  # extraction says what is wrong with it


def _for_serve(message: str) -> str:
    """The message of ``extract`` in the words of ``serve``."""
    return f"{message.removesuffix(NO_DOWNLOAD)}, with --encoder"
