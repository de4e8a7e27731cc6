"""What one extraction process does, alone or beside others: chunks of clips in, shards of the store out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, overload

from supportset.extract.decode.sampling import Sampling
from supportset.extract.pipeline.batch_size import pick_batch_size
from supportset.extract.pipeline.forward import compile_for, describe_device, pick_device
from supportset.extract.pipeline.pipeline import Plan, run_pipeline
from supportset.extract.pipeline.recipe import make_card, make_recipe
from supportset.extract.pipeline.recorder import Recorder
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
    """What decides how an engine works; it can be sent to another process.

    Attributes
    ----------
    root, dataset : the store and the name of the dataset in it
    videos_root : folder that the clips' paths are relative to
    sampling : with the backbone's window
    dtype, shard_format, clips_per_shard, seconds_per_shard : of what is stored
    device, precision : of the forward
    decoder : a name of :mod:`supportset.extract.decode.decoders`, known to work
    clips : how many there are to do, for all engines together
    cores : that the engine may count on
    workers, batch_size : decode processes and steps of one forward; None: by cores, as measured on the device
    timeout : seconds that a clip may go without progress
    keep_damaged, stop_on_error : what becomes of damaged and of failed clips
    compile : whether the forward is compiled
    """

    root: str | StorePath
    dataset: str
    videos_root: Path
    sampling: Sampling
    dtype: str
    shard_format: str
    clips_per_shard: int
    seconds_per_shard: float
    device: str
    precision: str
    decoder: str
    clips: int
    cores: int
    workers: int | None
    batch_size: int | None
    timeout: float
    keep_damaged: bool
    stop_on_error: bool
    compile: bool = False


class ChunkSource(Protocol):
    """Where an engine gets its work from."""

    def wait(self) -> Chunk | None:
        """The first chunk of a round, when everything before is sealed; None: the run is over."""
        ...

    def more(self) -> Chunk | None:
        """The next chunk of the round; None: finish and seal what is in hand."""
        ...


class OnlyChunk:
    """The source of an engine that works alone."""

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
    """The tasks of a round by their numbers; iterating over them asks for more chunks as long as there are any."""

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


def run_engine(source: ChunkSource, settings: Settings, backbone: Backbone, shown: Progress) -> None:
    """Extract chunk after chunk until the source has no more; everything is sealed then.

    Rounds of chunks go through one pipeline without a gap. On an exception, an interrupt too, what is complete is
    sealed as well.

    Parameters
    ----------
    source : ChunkSource
    settings : Settings
    backbone : Backbone
        Moved to the device.
    shown : Progress
        Told of clips, frames, and what else there is to say.

    Raises
    ------
    SupportsetError
        From the device, the workers, the model or the writer; or a clip failed and the run is to stop then.
    """
    place = pick_device(settings.device)
    backbone.to(place, settings.precision)
    recipe = make_recipe(backbone, settings.sampling, settings.dtype)
    card = make_card(recipe, describe_device(place), settings.precision, backbone.given, settings.decoder)
    with FeatureWriter(
        feature_set_path(settings.root, settings.dataset, recipe),
        card,
        shard_format=settings.shard_format,
        clips_per_shard=settings.clips_per_shard,
        seconds_per_shard=settings.seconds_per_shard,
    ) as writer:
        batch_size = settings.batch_size or pick_batch_size(backbone, settings.clips)
        if settings.compile:
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
                    settings.workers,
                    batch_size,
                    settings.timeout,
                    settings.cores,
                    settings.decoder,
                )
                plan = Plan.make(backbone, settings.sampling, place, *sizes)
                feed = _Feed(chunk, source)
                with Recorder(writer, feed, shown, settings.keep_damaged, settings.stop_on_error) as recorder:
                    run_pipeline(Work(feed, [], 0, 0), settings.videos_root, backbone, plan, recorder, shown)
                    recorder.flush()
            writer.seal()
