"""One run on several GPUs or machines: start the processes, schedule, check that every clip reached the store."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from supportset.extract.pipeline.devices import share_of_cores
from supportset.extract.processes.extraction import Settings
from supportset.extract.processes.local import LocalProcesses, WorkerProcess, WorkerProcesses
from supportset.extract.processes.ray_cluster import RayProcesses
from supportset.extract.processes.scheduler import schedule
from supportset.extract.processes.worker_process import Order
from supportset.extract.progress.progress import Progress
from supportset.extract.work.chunks import ChunkBoard
from supportset.extract.work.selection import Work
from supportset.store.errors import SupportsetError
from supportset.store.format.card import Recipe
from supportset.store.format.dataset import Dataset

if TYPE_CHECKING:
    from supportset.extract.backbones.base import Backbone

Rows = Callable[[], pa.Table]


def share_among_devices(
    work: Work,
    settings: Settings,
    backbone: Backbone,
    recipe: Recipe,
    devices: Sequence[str],
    rows: Rows,
    shown: Progress,
) -> None:
    """Run one extraction process for each device of this machine; they divide its cores.

    Parameters
    ----------
    work : Work
    settings : Settings
        The device and the cores are replaced.
    backbone : Backbone
        The processes load it by the name it was given.
    recipe : Recipe
    devices : sequence of str
        One for each process; repeats are allowed.
    rows : callable
        Returns the index rows of the run's clips.
    shown : Progress

    Raises
    ------
    KeyboardInterrupt, SupportsetError
        As :func:`supportset.extract.processes.scheduler.schedule`.
    """
    times = Counter(devices)
    numbers: Counter[str] = Counter()
    places = []
    for device in devices:
        numbers[device] += 1
        places.append(device if times[device] == 1 else f"{device} #{numbers[device]}")
    places = places[: len({task.source.path for task in work.tasks})]
    settings = replace(settings, cores=share_of_cores(places))
    shown.note(f"extract: {_processes(places, settings.cores)}: {', '.join(places)}")
    order = Order(settings, backbone.given, recipe.hash, os.getcwd())
    _schedule(LocalProcesses(order), places, work, rows, shown)


def share_on_ray(
    work: Work,
    settings: Settings,
    backbone: Backbone,
    recipe: Recipe,
    dataset: Dataset,
    rows: Rows,
    shown: Progress,
) -> None:
    """Run extraction processes on the Ray cluster at an address; see ``ray_cluster.RayProcesses``.

    All machines need the videos and the store under the names they have here; each process checks that.
    The other parameters are those of :func:`share_among_devices`.
    """
    order = Order(settings, backbone.given, recipe.hash, os.getcwd(), dataset.info, seal_when_orphaned=False)
    address = settings.execution.ray or "local"
    processes = RayProcesses(order, address, settings.execution.processes)
    each = "a GPU and " if processes.gpus else ""
    shown.note(f"extract: {_processes(processes.places, processes.cores, each)} on the Ray cluster at {address}")
    _schedule(processes, processes.places, work, rows, shown)


def _processes(places: Sequence[str], cores: int, each: str = "") -> str:
    return f"{len(places):,} process{'es' * (len(places) != 1)} with {each}{cores} core{'s' * (cores != 1)} each"


def _schedule(processes: WorkerProcesses, places: Sequence[str], work: Work, rows: Rows, shown: Progress) -> None:
    before = {row.clip_id: row.generation for row in _index(rows())}

    def settled(clip_ids: Collection[str]) -> dict[str, tuple[str, str]]:
        wanted = set(clip_ids)
        now = [row for row in _index(rows()) if row.clip_id in wanted] if wanted else []
        return {row.clip_id: (row.status, row.message) for row in now if row.generation > before.get(row.clip_id, -1)}

    board: ChunkBoard[WorkerProcess] = ChunkBoard(work, len(places))
    schedule(processes, places, board, settled, shown)
    asked = [task.clip.clip_id for task in work.tasks] + [clip.clip_id for clip in work.absent]
    lost = len(asked) - len(settled(asked))
    if lost:
        raise SupportsetError(
            f"{lost:,} of {len(asked):,} clips were reported as stored, but this machine does not find them in the "
            "store: --store must be one folder that all machines share, or a URL; the same command resumes"
        )


class _Row(NamedTuple):
    clip_id: str
    generation: int
    status: str
    message: str


def _index(rows: pa.Table) -> list[_Row]:
    return [_Row(*row) for row in zip(*(rows[name].to_pylist() for name in _Row._fields), strict=True)]
