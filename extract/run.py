"""The extraction run: from the clips of a dataset to features in the store."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from supportset._process import cores
from supportset.extract.decode.decoders import pick_decoder
from supportset.extract.decode.sampling import Sampling
from supportset.extract.disk import DiskUse, check_disk, estimate
from supportset.extract.options import Execution, Selection
from supportset.extract.pipeline.devices import pick_devices
from supportset.extract.pipeline.recipe import fit_sampling, make_card, make_recipe
from supportset.extract.processes.extraction import OnlyChunk, Settings, run_extraction
from supportset.extract.processes.ray_cluster import check_ray_options
from supportset.extract.processes.sharing import share_among_devices, share_on_ray
from supportset.extract.progress.interrupted import Interrupted, sigterm_interrupts
from supportset.extract.progress.progress import Observer, Progress
from supportset.extract.progress.run_log import RunLog
from supportset.extract.progress.summary import Summary, count_statuses, exit_code
from supportset.extract.thumbnails import make_thumbnails
from supportset.extract.work.chunks import one_chunk
from supportset.extract.work.same_content import take_over
from supportset.extract.work.selection import Clip, Task, Work, plan_work, require_videos, rows_of, select_clips
from supportset.store.files import StorePath, store_path
from supportset.store.format.card import is_feature_set
from supportset.store.format.dataset import Dataset
from supportset.store.format.index import SCHEMA
from supportset.store.read.catalog import feature_set_path
from supportset.store.read.feature_set import FeatureSet

if TYPE_CHECKING:
    from supportset.extract.backbones.base import Backbone


def extract(
    dataset: Dataset,
    root: str | StorePath,
    videos_root: str | Path,
    backbone: Backbone,
    sampling: Sampling | None = None,
    selection: Selection | None = None,
    execution: Execution | None = None,
    *,
    progress: bool = True,
    observer: Observer | None = None,
) -> Summary:
    """Extract the features of a dataset's clips that the store does not have yet.

    Every selected clip ends with a row in the index: its features, or why there are none. A run that was stopped or
    killed resumes when it is started again, and repeats at most what was not yet sealed.

    Parameters
    ----------
    dataset : Dataset
    root : str or StorePath
        The store's folder or URL.
    videos_root : str or Path
        Folder that the clips' paths are relative to.
    backbone : Backbone
        Moved to the device.
    sampling : Sampling, optional
        Default: one step a second. The window is the backbone's.
    selection : Selection, optional
        Default: all clips, without those that failed before.
    execution : Execution, optional
    progress : bool
        Whether a live line, or log lines, appear on standard error.
    observer : callable, optional
        Takes what happens, event by event; see :class:`supportset.extract.progress.progress.Progress`. Then no log of
        the run is written: a server makes many short runs.

    Returns
    -------
    Summary

    Raises
    ------
    UsageError
        Wrong values, or not one video where they should be. Nothing is written then.
    Interrupted
        On Ctrl-C or SIGTERM.
    SupportsetError
        If the disk or a worker fails, or a clip failed and ``on_error`` is ``stop``. Complete clips are stored.
    """
    began, root, videos_root = time.monotonic(), store_path(root), Path(videos_root)
    selection, execution = selection or Selection(), execution or Execution()
    devices = check_places(execution)
    sampling = fit_sampling(sampling or Sampling(), backbone)
    execution = replace(execution, device=devices[0], decoder=pick_decoder(execution.decoder))
    clips = select_clips(dataset, selection)
    recipe = make_recipe(backbone, sampling, execution.dtype)
    path = feature_set_path(root, dataset.name, recipe)
    work = plan_work(clips, videos_root, _rows(path, clips), retry_failed=selection.retry_failed)
    if not work.found and not work.done:
        require_videos(clips, videos_root)
    asked = work.tasks
    if work.tasks or work.absent:
        use = estimate(work.tasks, videos_root, backbone, sampling, execution.dtype, execution.thumbnails)
        check_disk(use, path, execution.max_disk)
        settings = Settings(root, dataset.name, videos_root, sampling, execution, clips=len(work.tasks), cores=cores())
        shown = Progress(len(work.tasks), quiet=not progress, log=None if observer else RunLog(path), observer=observer)
        with shown, sigterm_interrupts():
            card = make_card(recipe, ", ".join(devices), execution.precision, backbone.given, execution.decoder)
            shown.begin(
                _announcement(dataset, path, clips, work, use),
                dataset=dataset.name,
                settled=work.done,
                absent=len(work.absent),
                recipe=recipe.to_json(),
                provenance=card.provenance,
            )
            try:
                work = take_over(
                    work,
                    path,
                    videos_root,
                    shown,
                    named_after_files=_read_as_folder(dataset),
                    keep_damaged=execution.on_damage == "keep",
                )
                if work.tasks or work.absent:
                    job = (work, settings, backbone, recipe)
                    if execution.ray is not None:
                        share_on_ray(*job, dataset, lambda: _rows(path, clips), shown)
                    elif len(devices) > 1:
                        share_among_devices(*job, devices, lambda: _rows(path, clips), shown)
                    else:
                        run_extraction(OnlyChunk(one_chunk(work)), settings, backbone, shown)
            except KeyboardInterrupt:
                there = count_statuses(_rows(path, clips))
                told = ", ".join(f"{count:,} {status}" for status, count in there.items()) or "none"
                raise Interrupted(
                    f"stopped: of {len(clips):,} clips the store has {told}, in {path}; the same command resumes"
                ) from None
    thumbnails = _complete(dataset, path, videos_root, clips, selection, execution, progress=progress)
    final = _rows(path, clips)
    gone = _gone(dataset, asked, final)
    return Summary(
        dataset.name,
        path.name,
        str(path),
        len(clips),
        count_statuses(final, gone),
        time.monotonic() - began,
        exit_code(final, execution.max_failures, execution.strict, gone),
        sorted(gone.intersection(FeatureSet.open(path).clip_ids)) if gone and is_feature_set(path) else [],
        thumbnails,
    )


def check_places(execution: Execution) -> list[str]:
    """Return the devices of a run; for a Ray cluster their kind.

    Raises
    ------
    UsageError
        A device that this machine does not have, or options that Ray does not take.
    """
    if execution.ray is None:
        return pick_devices(execution.device, execution.processes)
    check_ray_options(execution.device, execution.processes)
    return [execution.device]


def _complete(
    dataset: Dataset,
    path: StorePath,
    videos_root: Path,
    clips: list[Clip],
    selection: Selection,
    execution: Execution,
    *,
    progress: bool,
) -> dict[str, Any] | None:
    """Make the thumbnails of clips whose features come from a run without; None if there is nothing to make."""
    if not execution.thumbnails or not videos_root.is_dir() or not is_feature_set(path):
        return None
    made = make_thumbnails(
        dataset,
        path,
        videos_root,
        clips=clips,
        most=execution.thumbnails,
        workers=execution.workers,
        timeout=execution.timeout,
        shard_format=execution.shard_format,
        retry_failed=selection.retry_failed,
        progress=progress,
    )
    return made.to_json() if made.made or made.failures else None


def _rows(path: StorePath, clips: list[Clip]) -> pa.Table:
    """Return the clips' index rows; none where there is no feature set yet."""
    if not is_feature_set(path):
        return SCHEMA.empty_table()
    return rows_of(FeatureSet.open(path).rows(), clips)


def _read_as_folder(dataset: Dataset) -> bool:
    origin = dataset.info.get("origin")
    return isinstance(origin, dict) and origin.get("reader") == "folder"


def _gone(dataset: Dataset, asked: Iterable[Task], rows: pa.Table) -> frozenset[str]:
    """The clips that are gone: as recorded, but for those of which this run tried the file that is there now.

    Where a file was replaced by one that has no features, the features of the earlier file still count in the index.
    """
    sizes = dict(zip(rows["clip_id"].to_pylist(), rows["source_size"].to_pylist(), strict=True))
    of_now = {task.clip.clip_id: sizes.get(task.clip.clip_id) == task.source.size for task in asked}
    return (dataset.gone - of_now.keys()) | {clip_id for clip_id, same in of_now.items() if not same}


def _announcement(dataset: Dataset, path: StorePath, clips: list[Clip], work: Work, use: DiskUse) -> str:
    words = [f"{len(work.tasks):,} of {len(clips):,} clips of {dataset.name} to do"]
    if work.done:
        words.append(f"{work.done:,} settled before")
    if work.absent:
        words.append(f"{len(work.absent):,} without a video")
    if work.tasks:
        words.append(f"{use} of features")
    return f"extract: {', '.join(words)}; into {path}"
