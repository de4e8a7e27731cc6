"""The work of a run in chunks, and who has which of them in hand: what several extraction processes share.

Nothing here knows how the processes are reached. A chunk that was handed out is in hand until its process says that
all it got is sealed; a process that is lost gives back what the store does not have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Generic, TypeVar

from supportset.extract.outcome import CRASHED, MISSING
from supportset.extract.work.selection import Clip, Task, Work
from supportset.store.write.writer import Source

_SHARE = 8  # a chunk is at most this part of what a process would get if all that is left were shared now
_MOST_FILES = 256  # of a chunk
_FILE_BYTES = 2**18  # what opening a file costs, as bytes of video
_TRIES = 3  # processes that may die with a clip in hand before it is given up


@dataclass(frozen=True)
class Verdict:
    """A clip that is recorded without being tried."""

    clip: Clip
    status: str
    message: str
    source: Source | None = None


@dataclass(frozen=True)
class Chunk:
    """Work for one process.

    Attributes
    ----------
    tasks : clips to extract, those of one file one after the other
    verdicts : clips to record as they are
    tries : how many processes have died with these clips in hand
    """

    tasks: tuple[Task, ...]
    verdicts: tuple[Verdict, ...] = ()
    tries: int = 0

    @property
    def alone(self) -> bool:
        """Whether the process that takes this chunk gets nothing else until it is sealed."""
        return self.tries > 1 or bool(self.verdicts)


def verdicts_of(absent: Iterable[Clip]) -> tuple[Verdict, ...]:
    """Clips without a file, as they are recorded."""
    return tuple(Verdict(clip, MISSING, "no file of this clip was found") for clip in absent)


def one_chunk(work: Work) -> Chunk:
    """All the work, for a process that shares it with nobody."""
    return Chunk(tuple(work.tasks), verdicts_of(work.absent))


def cut_chunks(tasks: Iterable[Task], processes: int) -> list[Chunk]:
    """Cut work into chunks that ``processes`` processes take one after the other.

    The clips of a file, which lie side by side, stay together. Chunks become smaller to the end, so that all processes
    end at about the same time; a file that is a chunk of its own already comes first, as nothing could even it out at
    the end.
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
    """What is left to hand out, and what each process has in hand.

    Parameters
    ----------
    work : Work
    processes : int
        That will share it.
    """

    def __init__(self, work: Work, processes: int) -> None:
        self._left = deque(cut_chunks(work.tasks, processes))
        if work.absent:
            self._left.appendleft(Chunk((), verdicts_of(work.absent)))
        self._in_hand: dict[W, list[Chunk]] = {}
        self._through: set[str] = set()

    @property
    def left(self) -> int:
        """Chunks that nobody has in hand."""
        return len(self._left)

    @property
    def over(self) -> bool:
        """Whether everything is sealed."""
        return not self._left and not self._in_hand

    def take(self, process: W) -> Chunk | None:
        """Hand out a chunk; None: nothing for this process now, not before it has sealed what it has in hand."""
        held = self._in_hand.get(process, [])
        if not self._left or (held and (self._left[0].alone or any(chunk.alone for chunk in held))):
            return None
        chunk = self._left.popleft()
        self._in_hand.setdefault(process, []).append(chunk)
        return chunk

    def through(self, clip_id: str) -> bool:
        """Note that a clip has an outcome, sealed or not; returns whether it had none before."""
        new = clip_id not in self._through
        self._through.add(clip_id)
        return new

    def sealed(self, process: W) -> None:
        """Note that everything this process has in hand is sealed."""
        self._in_hand.pop(process, None)

    def in_hand(self, process: W) -> list[str]:
        """Clips that a process has in hand, sealed or not."""
        return [clip.clip_id for chunk in self._in_hand.get(process, []) for clip in _clips(chunk)]

    def lost(self, process: W, settled: Collection[str], *, suspect: bool) -> int:
        """Take back what a process that is gone had in hand and the store does not have; returns how many clips.

        Parameters
        ----------
        process : W
        settled : collection of str
            Those clips that the store has.
        suspect : bool
            Whether a clip may have been the end of the process (it died, its machine did not). Those that had no
            outcome yet are then tried again late, a file at a time; alone at the last try; and given up as
            ``crashed`` after that.
        """
        chunks, known = self._in_hand.pop(process, []), set(settled)
        count = 0
        again: list[Chunk] = []
        for chunk in chunks:
            tasks = tuple(task for task in chunk.tasks if task.clip.clip_id not in known)
            verdicts = tuple(verdict for verdict in chunk.verdicts if verdict.clip.clip_id not in known)
            count += len(tasks) + len(verdicts)
            if verdicts:
                again.append(Chunk((), verdicts))
            guilty = [task for task in tasks if suspect and task.clip.clip_id not in self._through]
            innocent = tuple(task for task in tasks if not suspect or task.clip.clip_id in self._through)
            if innocent:
                again.append(replace(chunk, tasks=innocent, verdicts=()))
            for of_file in _by_file(guilty):
                self._left.append(_next_try(of_file, chunk.tries + 1))
        self._left.extendleft(reversed(again))
        return count


def _clips(chunk: Chunk) -> list[Clip]:
    return [task.clip for task in chunk.tasks] + [verdict.clip for verdict in chunk.verdicts]


def _by_file(tasks: Iterable[Task]) -> list[tuple[Task, ...]]:
    return [tuple(of_file) for _, of_file in groupby(tasks, key=lambda task: task.source.path)]


def _next_try(tasks: tuple[Task, ...], tries: int) -> Chunk:
    if tries < _TRIES:
        return Chunk(tasks, tries=tries)
    message = f"{tries} extraction processes died with this clip in hand"
    return Chunk((), tuple(Verdict(task.clip, CRASHED, message, task.source) for task in tasks))
