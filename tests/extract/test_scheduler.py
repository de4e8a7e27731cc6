"""Sharing a run among processes, without any: processes that work, seal and die as a die falls."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supportset.extract.processes.local import Gone, WorkerProcess
from supportset.extract.processes.scheduler import schedule
from supportset.extract.processes.worker_process import Advance, Ask, Finished, Message, Note
from supportset.extract.progress.progress import Progress
from supportset.extract.progress.stage_timing import Spent
from supportset.extract.work.chunks import Chunk, ChunkBoard
from supportset.extract.work.selection import Clip, Task, Work
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.write.writer import Source

Life = Iterator[Message | Gone | None]


def work_of(files: int, absent: int = 0) -> Work:
    tasks = [Task(Clip(f"c{i}", f"{i}.mp4", None, None), Source(f"{i}.mp4", 10, 0)) for i in range(files)]
    return Work(tasks, [Clip(f"gone{i}", None, None, None) for i in range(absent)], files, 0)


def ids(work: Work) -> list[str]:
    return sorted([task.clip.clip_id for task in work.tasks] + [clip.clip_id for clip in work.absent])


class Shown(Progress):
    """Remembers what is shown."""

    def __init__(self) -> None:
        super().__init__(0, quiet=True)
        self.notes: list[str] = []
        self.clips: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def clip(self, status: str, clip_id: str, message: str) -> None:
        self.clips.append(clip_id)


class Played:
    """A worker process as :mod:`supportset.extract.processes.worker_process` plays it, in one process."""

    def __init__(self, name: str, play: Callable[[Played], Life]) -> None:
        self.name, self.answers, self.interrupted = name, list[Chunk | None](), False
        self.life = play(self)

    def send(self, answer: Chunk | None) -> None:
        self.answers.append(answer)

    def interrupt(self) -> None:
        self.interrupted = True


class Stage:
    """Lets a life say a word at each poll; a life that waits says None."""

    def __init__(self, play: Callable[[Played], Life]) -> None:
        self.play, self.alive, self.started, self.closed = play, list[Played](), list[str](), False

    def start(self, place: str) -> WorkerProcess:
        self.started.append(place)
        self.alive.append(Played(place, self.play))
        return self.alive[-1]

    def events(self, seconds: float) -> list[tuple[WorkerProcess, Message | Gone]]:
        said: list[tuple[WorkerProcess, Message | Gone]] = []
        for process in list(self.alive):
            message = next(process.life)
            if message is not None:
                said.append((process, message))
            if isinstance(message, Gone):
                self.alive.remove(process)
        return said

    def close(self) -> None:
        self.closed = True


def worker(stored: list[str], die: Callable[[list[str]], Gone | None]) -> Callable[[Played], Life]:
    """A life: take chunks until there is nothing more, seal, ask again; ``die`` may end it at each clip."""

    def play(process: Played) -> Life:
        while True:
            held: list[str] = []
            yield Ask(sealed=True)
            while not process.answers:
                if process.interrupted:
                    yield Finished(interrupted=True)
                    yield Gone("ended", suspect=True)
                yield None
            chunk = process.answers.pop(0)
            if chunk is None:
                yield Finished()
                yield Gone("exit code 0", suspect=True)
            while chunk is not None:
                for clip in [item.clip for item in chunk.settled] + [task.clip for task in chunk.tasks]:
                    held.append(clip.clip_id)
                    if process.interrupted:
                        stored.extend(held)
                        yield Finished(interrupted=True)
                        yield Gone("ended", suspect=True)
                    if (gone := die(held)) is not None:
                        stored.extend(held[: len(held) // 2])
                        yield gone
                    if not chunk.settled:
                        yield Advance(1, (("ok", clip.clip_id, ""),), Spent())
                if chunk.alone:
                    break
                yield Ask(sealed=False)
                chunk = process.answers.pop(0)
            stored.extend(held)

    return play


def run(work: Work, processes: int, stage: Stage, stored: list[str]) -> Shown:
    shown = Shown()
    board: ChunkBoard[WorkerProcess] = ChunkBoard(work, processes)

    def settled(clips: Collection[str]) -> dict[str, tuple[str, str]]:
        return {clip: ("missing" if clip.startswith("gone") else "ok", "") for clip in set(stored) & set(clips)}

    schedule(stage, [f"place {i}" for i in range(processes)], board, settled, shown)
    return shown


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 2), st.integers(1, 4), st.floats(0, 0.2), st.integers(0, 2**32))
def test_nothing_is_lost_and_nothing_stored_twice(
    files: int, absent: int, processes: int, mortality: float, seed: int
) -> None:
    dice, left = random.Random(seed), [4]

    def die(held: list[str]) -> Gone | None:
        if left[0] and dice.random() < mortality:
            left[0] -= 1
            return Gone("fell", suspect=dice.random() < 0.5)
        return None

    stored: list[str] = []
    work = work_of(files, absent)
    stage = Stage(worker(stored, die))
    shown = run(work, processes, stage, stored)
    assert sorted(stored) == ids(work)
    counted = [clip for clip in ids(work) if not clip.startswith("gone")]
    assert sorted(shown.clips) == counted, "each clip is counted once, however often it is done"
    assert not stage.alive
    assert stage.closed
    assert sum("fell" in note for note in shown.notes) <= 4 - left[0], "a death after all is done is no news"


def test_a_poisonous_clip_costs_three_processes_and_itself() -> None:
    stored: list[str] = []
    killed: list[str] = []

    def die(held: list[str]) -> Gone | None:
        if held[-1] == "c5" and len(killed) < 3:
            killed.append(held[-1])
            return Gone("died: signal 11", suspect=True)
        return None

    work = work_of(12)
    shown = run(work, 2, Stage(worker(stored, die)), stored)
    assert sorted(stored) == ids(work), "given up is an outcome, too"
    assert len([note for note in shown.notes if "signal 11" in note]) == 3


def test_processes_that_never_come_to_a_clip_end_the_run() -> None:
    def play(process: Played) -> Life:
        yield Gone("died: no such device", suspect=True)

    stage = Stage(play)
    with pytest.raises(SupportsetError, match="keep ending") as error:
        run(work_of(9), 2, stage, [])
    assert len(stage.started) == 10, "five at each place"
    assert "the same command resumes" in str(error.value)
    assert stage.closed


@pytest.mark.parametrize("kind", [SupportsetError, UsageError])
def test_an_error_that_concerns_all_stops_the_others_in_good_order(kind: type[SupportsetError]) -> None:
    stored: list[str] = []
    well = worker(stored, lambda held: None)

    def play(process: Played) -> Life:
        if process.name != "place 1":
            yield from well(process)
        yield Note("the disk is nearly full")
        yield Finished(kind("no space left on device"))
        yield Gone("exit code 0", suspect=True)

    stage = Stage(play)
    with pytest.raises(kind, match="no space left"):
        run(work_of(40), 2, stage, stored)
    assert stored, "the other one sealed what it had"
    assert not stage.alive


def test_a_process_that_was_stopped_alone_is_replaced() -> None:
    stored: list[str] = []
    stopped: list[Played] = []
    well = worker(stored, lambda held: None)

    def play(process: Played) -> Life:
        if not stopped:
            stopped.append(process)
            process.interrupted = True
        yield from well(process)

    shown = run(work_of(10), 1, Stage(play), stored)
    assert sorted(stored) == ids(work_of(10))
    assert any("stopped from outside" in note for note in shown.notes)


def test_no_more_processes_than_chunks() -> None:
    stored: list[str] = []
    stage = Stage(worker(stored, lambda held: None))
    run(work_of(2), 8, stage, stored)
    assert len(stage.started) == 2


def test_a_process_that_has_not_started_when_all_is_done_is_let_go() -> None:
    stored: list[str] = []
    well = worker(stored, lambda held: None)

    def play(process: Played) -> Life:
        if process.name == "place 0":
            yield from well(process)
        while not process.interrupted:
            yield None
        yield Gone("never came", suspect=False)

    shown = run(work_of(5), 2, Stage(play), stored)
    assert sorted(stored) == ids(work_of(5))
    assert shown.notes == []
