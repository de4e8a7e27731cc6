"""The work of one extraction process: chunks of clips in, shards of the store out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

from supportset.extract.decode.sampling import Sampling
from supportset.extract.options import Execution
from supportset.extract.pipeline.batch_size import pick_batch_size
from supportset.extract.pipeline.forward import compile_for, describe_device, pick_device
from supportset.extract.pipeline.pipeline import Plan, run_pipeline
from supportset.extract.pipeline.recipe import make_card, make_recipe
from supportset.extract.pipeline.recorder import Recorder
from supportset.extract.pipeline.thumbnails import open_writer
from supportset.extract.progress.progress import Progress
from supportset.extract.work.chunks import Chunk
from supportset.extract.work.selection import Task, Work
from supportset.store.files import StorePath
from supportset.store.read.catalog import feature_set_path
from supportset.store.write.writer import FeatureWriter

if TYPE_CHECKING:
    from supportset.extract.backbones.base import Backbone


@dataclass(frozen=True)
class Settings:
    """Settings of a worker process; they can be sent to another process.

    Attributes
    ----------
    root : str or StorePath
        The store.
    dataset : str
        Name of the dataset in the store.
    videos_root : Path
        Folder that the clips' paths are relative to.
    sampling : Sampling
        With the backbone's window.
    execution : Execution
        With one device, and a decoder that works on it.
    clips : int
        Clips to extract, for all processes together.
    cores : int
        Cores that the process may use.
    """

    root: str | StorePath
    dataset: str
    videos_root: Path
    sampling: Sampling
    execution: Execution
    clips: int
    cores: int


class ChunkSource(Protocol):
    """Source of a worker process's chunks."""

    def wait(self) -> Chunk | None:
        """Return the first chunk of a round, once everything before is sealed; None when the run is over."""
        ...

    def more(self) -> Chunk | None:
        """Return the next chunk of the round; None to finish and seal the round."""
        ...


class OnlyChunk:
    """The source of a run with one process: all clips in one chunk."""

    def __init__(self, chunk: Chunk) -> None:
        self._chunk: Chunk | None = chunk

    def wait(self) -> Chunk | None:
        """The chunk, once."""
        chunk, self._chunk = self._chunk, None
        return chunk

    def more(self) -> Chunk | None:
        """Nothing."""
        return None


class _Feed(Sequence[Task]):
    """Tasks of a round by number; iterating requests more chunks until there are none."""

    def __init__(self, first: Chunk, source: ChunkSource) -> None:
        self._first, self._source = first, source
        self._tasks: list[Task] = []

    def __iter__(self) -> Iterator[Task]:
        chunk: Chunk | None = self._first
        while chunk is not None:
            self._tasks += chunk.tasks
            yield from chunk.tasks
            chunk = self._source.more()

    def __len__(self) -> int:
        return len(self._tasks)

    @overload
    def __getitem__(self, number: int) -> Task: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[Task]: ...

    def __getitem__(self, number: int | slice) -> Task | Sequence[Task]:
        return self._tasks[number]


def run_extraction(source: ChunkSource, settings: Settings, backbone: Backbone, shown: Progress) -> None:
    """Extract chunk after chunk until the source has no more, then seal everything.

    The chunks of a round go through one pipeline without a gap. Complete clips are sealed on an exception or an
    interrupt, too.

    Parameters
    ----------
    source : ChunkSource
    settings : Settings
    backbone : Backbone
        Moved to the device.
    shown : Progress
        Receives the counts of clips and frames, and notes.

    Raises
    ------
    SupportsetError
        From the device, the workers, the model or the writer; or a clip failed and ``on_error`` is ``stop``.
    """
    execution = settings.execution
    place = pick_device(execution.device)
    backbone.to(place, execution.precision)
    recipe = make_recipe(backbone, settings.sampling, execution.dtype)
    card = make_card(recipe, describe_device(place), execution.precision, backbone.given, execution.decoder)
    path = feature_set_path(settings.root, settings.dataset, recipe)
    shards: dict[str, Any] = {
        "shard_format": execution.shard_format,
        "clips_per_shard": execution.clips_per_shard,
        "seconds_per_shard": execution.seconds_per_shard,
    }
    with ExitStack() as stack:
        pictures = None
        if execution.thumbnails:  # sealed before the features: who has the features has these
            pictures = stack.enter_context(
                open_writer(path, settings.sampling, execution.thumbnails, execution.decoder, **shards)
            )
        before = None if pictures is None else pictures.seal
        writer = stack.enter_context(FeatureWriter(path, card, **shards, before=before))
        batch_size = execution.batch_size or pick_batch_size(backbone, settings.clips)
        if execution.compile:
            compile_for(backbone, batch_size, shown.note)
        while (chunk := source.wait()) is not None:
            for item in chunk.settled:
                writer.fail(item.clip.clip_id, **vars(item.outcome), source=item.source)
                if item.source is not None:  # one of the clips that the run counts
                    shown.clip(item.outcome.status, item.clip.clip_id, item.outcome.message)
            if chunk.tasks:
                clips = len(chunk.tasks) if chunk.alone else settings.clips
                sizes = (
                    clips,
                    execution.workers,
                    batch_size,
                    execution.timeout,
                    settings.cores,
                    execution.decoder,
                    execution.thumbnails,
                )
                plan = Plan.make(backbone, settings.sampling, place, *sizes)
                feed = _Feed(chunk, source)
                keep, stop = execution.on_damage == "keep", execution.on_error == "stop"
                with Recorder(writer, feed, shown, keep, stop, pictures) as recorder:
                    run_pipeline(Work(feed, [], 0, 0), settings.videos_root, backbone, plan, recorder, shown)
                    recorder.flush()
            writer.seal()
