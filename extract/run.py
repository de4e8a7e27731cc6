"""The extraction run: from the clips of a dataset to features in the store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from supportset.extract.decode.decoders import pick_decoder
from supportset.extract.decode.sampling import Sampling
from supportset.extract.pipeline.devices import cores_of_machine, pick_devices
from supportset.extract.pipeline.recipe import fit_sampling, make_card, make_recipe
from supportset.extract.processes.extraction import OnlyChunk, Settings, run_engine
from supportset.extract.processes.ray_cluster import check_wishes
from supportset.extract.processes.sharing import share_among_devices, share_on_ray
from supportset.extract.progress.interrupted import Interrupted, sigterm_interrupts
from supportset.extract.progress.progress import Progress
from supportset.extract.progress.run_log import RunLog
from supportset.extract.progress.summary import Summary, count_statuses, exit_code
from supportset.extract.work.chunks import one_chunk
from supportset.extract.work.selection import Clip, Work, plan_work, require_videos, rows_of, select_clips
from supportset.store.errors import UsageError
from supportset.store.files import StorePath, store_path
from supportset.store.format.card import is_feature_set
from supportset.store.format.dataset import Dataset
from supportset.store.format.index import SCHEMA
from supportset.store.format.registry import shard_format as check_shard_format
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
    *,
    protocol: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    shard: tuple[int, int] | None = None,
    shard_format: str = "zarr",
    dtype: str = "float16",
    workers: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    processes: int | None = None,
    ray: str | None = None,
    precision: str = "fp32",
    compile: bool = False,
    decoder: str = "auto",
    timeout: float = 600.0,
    clips_per_shard: int = 500,
    seconds_per_shard: float = 300.0,
    retry_failed: bool = False,
    on_error: Literal["skip", "stop"] = "skip",
    on_damage: Literal["keep", "drop"] = "keep",
    max_failures: float = 0.05,
    strict: bool = False,
    progress: bool = True,
) -> Summary:
    """Extract the features of a dataset's clips that the store does not have yet.

    Every selected clip ends with a row in the index: its features, or why there are none. A run that is stopped or
    killed goes on when started again, and redoes at most what was not yet sealed.

    Parameters
    ----------
    dataset : Dataset
    root : the store's folder
    videos_root : folder that the clips' paths are relative to
    backbone : Backbone
        Moved to the device.
    sampling : Sampling, optional
        Default: one step a second. The window is the backbone's.
    protocol, split, limit, shard : see :func:`supportset.extract.work.selection.select_clips`
    shard_format : ``zarr`` or ``hdf5``
    dtype : ``float16`` or ``float32``, as stored; a value that does not fit fails its clip (``overflow``)
    workers : decode processes of each extraction process; default: of its share of the cores half where the model
        runs on them too, else all but one
    batch_size : steps of one forward; default: 8 on a CPU, measured on a GPU
    device, precision : of the forward; see :func:`supportset.extract.pipeline.devices.pick_devices`
    processes : extraction processes of this machine, or of the Ray cluster; default: one a GPU
    ray : address of a Ray cluster, or ``local``; see :class:`supportset.extract.processes.ray_cluster.RayEngines`
    compile : have ``torch.compile`` translate the forward; where that fails the run goes on without
    decoder : ``auto``, ``pyav``, ``torchcodec`` or ``nvdec``, see :mod:`supportset.extract.decode.decoders`
    timeout : seconds a clip may go without progress before its worker is killed
    clips_per_shard, seconds_per_shard : when a shard is sealed; what was not sealed is lost when the process is killed
    retry_failed : try clips again that failed in earlier runs
    on_error : ``stop`` ends the run at the first clip that fails
    on_damage : whether features of damaged clips are kept (with the damage as message) or dropped
    max_failures, strict : decide the summary's exit code, see :func:`supportset.extract.progress.summary.exit_code`
    progress : show a live line, or log lines, on standard error

    Returns
    -------
    Summary

    Raises
    ------
    UsageError
        Wrong values, or not one video where they should be; nothing has been written then.
    Interrupted
        On Ctrl-C or SIGTERM.
    SupportsetError
        If the disk or a worker refuses to work, or a clip failed and ``on_error`` is ``stop``; what was complete is
        stored.
    """
    began, root, videos_root = time.monotonic(), store_path(root), Path(videos_root)
    _check_choices(shard_format, on_error, on_damage, max_failures, timeout, workers, batch_size)
    if ray is not None:
        check_wishes(device, processes)
    devices = [device] if ray is not None else pick_devices(device, processes)
    sampling = fit_sampling(sampling or Sampling(), backbone)
    decoder = pick_decoder(decoder)
    clips = select_clips(dataset, protocol, split, limit, shard)
    recipe = make_recipe(backbone, sampling, dtype)
    path = feature_set_path(root, dataset.name, recipe)
    work = plan_work(clips, videos_root, _rows(path, clips), retry_failed=retry_failed)
    if not work.found and not work.done:
        require_videos(clips, videos_root)
    if work.tasks or work.absent:
        settings = Settings(
            root=root,
            dataset=dataset.name,
            videos_root=videos_root,
            sampling=sampling,
            dtype=dtype,
            shard_format=shard_format,
            clips_per_shard=clips_per_shard,
            seconds_per_shard=seconds_per_shard,
            device=devices[0],
            precision=precision,
            decoder=decoder,
            clips=len(work.tasks),
            cores=cores_of_machine(),
            workers=workers,
            batch_size=batch_size,
            timeout=timeout,
            keep_damaged=on_damage == "keep",
            stop_on_error=on_error == "stop",
            compile=compile,
        )
        with Progress(len(work.tasks), quiet=not progress, log=RunLog(path)) as shown, sigterm_interrupts():
            card = make_card(recipe, ", ".join(devices), precision, backbone.given, decoder)
            shown.begin(
                _announcement(dataset, path, clips, work),
                dataset=dataset.name,
                settled=work.done,
                absent=len(work.absent),
                recipe=recipe.to_json(),
                provenance=card.provenance,
            )
            try:
                job = (work, settings, backbone, recipe)
                if ray is not None:
                    share_on_ray(*job, dataset, ray, processes, lambda: _rows(path, clips), shown)
                elif len(devices) > 1:
                    share_among_devices(*job, devices, lambda: _rows(path, clips), shown)
                else:
                    run_engine(OnlyChunk(one_chunk(work)), settings, backbone, shown)
            except KeyboardInterrupt:
                there = count_statuses(_rows(path, clips))
                told = ", ".join(f"{count:,} {status}" for status, count in there.items()) or "none"
                raise Interrupted(
                    f"stopped: of {len(clips):,} clips the store has {told}, in {path}; "
                    "the same command goes on from there"
                ) from None
    final = _rows(path, clips)
    return Summary(
        dataset.name,
        path.name,
        str(path),
        len(clips),
        count_statuses(final),
        time.monotonic() - began,
        exit_code(final, max_failures, strict),
    )


def _rows(path: StorePath, clips: list[Clip]) -> pa.Table:
    """What the index has of the clips; nothing where there is no feature set yet."""
    if not is_feature_set(path):
        return SCHEMA.empty_table()
    return rows_of(FeatureSet.open(path).rows(), clips)


def _announcement(dataset: Dataset, path: StorePath, clips: list[Clip], work: Work) -> str:
    words = [f"{len(work.tasks):,} of {len(clips):,} clips of {dataset.name} to do"]
    if work.done:
        words.append(f"{work.done:,} settled before")
    if work.absent:
        words.append(f"{len(work.absent):,} without a video")
    return f"extract: {', '.join(words)}; into {path}"


def _check_choices(
    shard_format: str,
    on_error: str,
    on_damage: str,
    max_failures: float,
    timeout: float,
    workers: int | None,
    batch_size: int | None,
) -> None:
    check_shard_format(shard_format)
    for name, value, choices in (("on_error", on_error, ("skip", "stop")), ("on_damage", on_damage, ("keep", "drop"))):
        if value not in choices:
            raise UsageError(f"{name}={value!r} is not one of {', '.join(choices)}")
    if not 0 <= max_failures <= 1:
        raise UsageError(f"max_failures={max_failures} is not a share from 0 to 1")
    for name, number in (("timeout", timeout), ("workers", workers), ("batch_size", batch_size)):
        if number is not None and not number > 0:
            raise UsageError(f"{name}={number} should be above 0")
