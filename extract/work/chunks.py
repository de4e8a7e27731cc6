"""The work of a run in chunks, which several extraction processes share.

Nothing here knows how the processes are reached. A process holds a chunk until it says that everything it got is
sealed. When a process is lost, what the store does not have is shared again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Generic, TypeVar

from supportset.extract.outcome import Outcome
from supportset.extract.work.selection import Clip, Task, Work
from supportset.store.format.status import CRASHED, MISSING
from supportset.store.write.writer import Source

_SHARE = 8  # a chunk is at most this part of what each process would get of the remaining work
_MOST_FILES = 256  # of a chunk
_FILE_BYTES = 2**18  # what opening a file costs, as bytes of video
_TRIES = 3  # processes that may die with a clip before the clip fails


@dataclass(frozen=True)
class Settled:
    """A clip that is recorded without being decoded; ``source`` is None where it has no file."""

    clip: Clip
    outcome: Outcome
    source: Source | None = None


@dataclass(frozen=True)
class Chunk:
    """Work for one process.

    Attributes
    ----------
    tasks : tuple of Task
        Clips to extract, those of one file adjacent.
    settled : tuple of Settled
        Clips to record without decoding.
    tries : int
        How many processes have died while they held these clips.
    """

    tasks: tuple[Task, ...]
    settled: tuple[Settled, ...] = ()
    tries: int = 0

    @property
    def alone(self) -> bool:
        """Whether the process that takes this chunk gets nothing else until it is sealed."""
        return self.tries > 1 or bool(self.settled)


def settle_missing(absent: Iterable[Clip]) -> tuple[Settled, ...]:
    """Settle clips without a file."""
    return tuple(Settled(clip, Outcome(MISSING, "no file of this clip was found")) for clip in absent)


def one_chunk(work: Work) -> Chunk:
    """Put all the work into one chunk, for a single process."""
    return Chunk(tuple(work.tasks), settle_missing(work.absent))


def cut_chunks(tasks: Iterable[Task], processes: int) -> list[Chunk]:
    """Cut work into chunks that ``processes`` processes take one after the other.

    The clips of a file, which are adjacent, stay together. Chunks become smaller towards the end, so that all processes
    end at about the same time. A file that fills a chunk alone comes first.
    """
    files = [(of_file, of_file[0].source.size + _FILE_BYTES) for of_file in _by_file(tasks)]
    left = sum(weight for _, weight in files)
    parts = processes * _SHARE
    large = [(of_file, weight) for of_file, weight in files if weight * parts > left]
    large.sort(key=lambda file: -file[1])
    chunks = [Chunk(of_file) for of_file, _ in large]
    small = [(of_file, weight) for of_file, weight in files if weight * parts <= left]
    left = sum(weight for _, weight in small)
    taken: list[Task] = []
    count = size = 0
    for of_file, weight in small:
        taken += of_file
        count, size = count + 1, size + weight
        if size * parts >= left or count == _MOST_FILES:
            chunks.append(Chunk(tuple(taken)))
            left -= size
            taken, count, size = [], 0, 0
    return chunks


W = TypeVar("W")


class ChunkBoard(Generic[W]):
    """What is left to do, and what each process holds.

    Parameters
    ----------
    work : Work
    processes : int
        How many processes share it.
    """

    def __init__(self, work: Work, processes: int) -> None:
        self._left = deque(cut_chunks(work.tasks, processes))
        if work.absent:
            self._left.appendleft(Chunk((), settle_missing(work.absent)))
        self._held: dict[W, list[Chunk]] = {}
        self._through: set[str] = set()

    @property
    def left(self) -> int:
        """Number of chunks that no process holds."""
        return len(self._left)

    @property
    def over(self) -> bool:
        """Whether everything is sealed."""
        return not self._left and not self._held

    def take(self, process: W) -> Chunk | None:
        """Give a chunk to a process; None where it must first seal what it holds."""
        held = self._held.get(process, [])
        if not self._left or (held and (self._left[0].alone or any(chunk.alone for chunk in held))):
            return None
        chunk = self._left.popleft()
        self._held.setdefault(process, []).append(chunk)
        return chunk

    def through(self, clip_id: str) -> bool:
        """Note that a clip has an outcome, sealed or not; return whether that is new."""
        new = clip_id not in self._through
        self._through.add(clip_id)
        return new

    def sealed(self, process: W) -> None:
        """Note that everything this process holds is sealed."""
        self._held.pop(process, None)

    def held_by(self, process: W) -> list[str]:
        """Ids of the clips that a process holds, sealed or not."""
        return [clip.clip_id for chunk in self._held.get(process, []) for clip in _clips(chunk)]

    def lost(self, process: W, settled: Collection[str], *, suspect: bool) -> int:
        """Take back what a lost process held and the store does not have.

        Parameters
        ----------
        process : W
        settled : collection of str
            Ids of the clips that the store has.
        suspect : bool
            Whether a clip may have killed the process (it died, its machine did not). Clips without an outcome are then
            tried again late, a file at a time; alone at the last try; after that they are ``crashed``.

        Returns
        -------
        int
            How many clips were taken back.
        """
        chunks, known = self._held.pop(process, []), set(settled)
        count = 0
        again: list[Chunk] = []
        for chunk in chunks:
            tasks = tuple(task for task in chunk.tasks if task.clip.clip_id not in known)
            rest = tuple(item for item in chunk.settled if item.clip.clip_id not in known)
            count += len(tasks) + len(rest)
            if rest:
                again.append(Chunk((), rest))
            suspects = [task for task in tasks if suspect and task.clip.clip_id not in self._through]
            others = tuple(task for task in tasks if not suspect or task.clip.clip_id in self._through)
            if others:
                again.append(replace(chunk, tasks=others, settled=()))
            for of_file in _by_file(suspects):
                self._left.append(_next_try(of_file, chunk.tries + 1))
        self._left.extendleft(reversed(again))
        return count


def _clips(chunk: Chunk) -> list[Clip]:
    return [task.clip for task in chunk.tasks] + [item.clip for item in chunk.settled]


def _by_file(tasks: Iterable[Task]) -> list[tuple[Task, ...]]:
    return [tuple(of_file) for _, of_file in groupby(tasks, key=lambda task: task.source.path)]


def _next_try(tasks: tuple[Task, ...], tries: int) -> Chunk:
    if tries < _TRIES:
        return Chunk(tasks, tries=tries)
    outcome = Outcome(CRASHED, f"{tries} extraction processes died while they held this clip")
    return Chunk((), tuple(Settled(task.clip, outcome, task.source) for task in tasks))
