"""Sharing work among processes: every clip is given out, and none is forgotten when a process is lost."""

from __future__ import annotations

import random
from collections import Counter
from itertools import count, groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from supportset.extract.work.chunks import Chunk, ChunkBoard, cut_chunks, one_chunk
from supportset.extract.work.selection import Clip, Task, Work
from supportset.store.write.writer import Source


def tasks_of(sizes: list[tuple[int, int]]) -> list[Task]:
    """Files of (bytes, clips)."""
    return [
        Task(Clip(f"{file}-{i}", f"{file}.mp4", float(i), i + 1.0), Source(f"{file}.mp4", size, 0))
        for file, (size, clips) in enumerate(sizes)
        for i in range(clips)
    ]


def work_of(sizes: list[tuple[int, int]], absent: int = 0) -> Work:
    return Work(tasks_of(sizes), [Clip(f"gone{i}", None, None, None) for i in range(absent)], len(sizes), 0)


def ids(chunk: Chunk) -> list[str]:
    return [task.clip.clip_id for task in chunk.tasks] + [item.clip.clip_id for item in chunk.settled]


FILES = st.lists(st.tuples(st.sampled_from([0, 1000, 10**6, 10**9]), st.integers(1, 4)), max_size=80)


@given(FILES, st.integers(1, 9))
def test_chunks_are_whole_files_and_everything(sizes: list[tuple[int, int]], processes: int) -> None:
    tasks = tasks_of(sizes)
    chunks = cut_chunks(tasks, processes)
    assert sorted(task.clip.clip_id for chunk in chunks for task in chunk.tasks) == sorted(
        t.clip.clip_id for t in tasks
    )
    files = Counter(path for chunk in chunks for path, _ in groupby(chunk.tasks, key=lambda task: task.source.path))
    assert set(files.values()) <= {1}


def test_equal_files_are_even_to_the_end() -> None:
    chunks = cut_chunks(tasks_of([(10**6, 1)] * 1000), 4)
    counts = [len(chunk.tasks) for chunk in chunks]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 32, "no chunk is more than an eighth of a process's share"
    assert counts[-1] == 1


def test_a_film_among_short_clips_comes_first() -> None:
    chunks = cut_chunks(tasks_of([(10**6, 1)] * 50 + [(10**9, 3)] + [(10**6, 1)] * 50), 2)
    assert ids(chunks[0]) == ["50-0", "50-1", "50-2"]
    assert sum(len(chunk.tasks) for chunk in chunks[1:]) == 100


def test_chunks_of_many_files_have_a_bound() -> None:
    chunks = cut_chunks(tasks_of([(10**6, 1)] * 50_000), 8)
    assert max(len(chunk.tasks) for chunk in chunks) == 256


def test_one_chunk_is_everything() -> None:
    assert len(ids(one_chunk(work_of([(1, 2), (1, 1)], absent=2)))) == 5


@settings(deadline=None)
@given(FILES, st.integers(0, 3), st.integers(1, 4), st.integers(0, 2**32))
def test_nothing_is_forgotten_whatever_dies(
    sizes: list[tuple[int, int]], absent: int, processes: int, seed: int
) -> None:
    """Processes that seal, die and are replaced at random moments: in the end every clip is stored, once."""
    dice, names = random.Random(seed), count()
    board: ChunkBoard[int] = ChunkBoard(work_of(sizes, absent), processes)
    stored: list[str] = []
    held: dict[int, list[str]] = {next(names): [] for _ in range(processes)}
    deaths = 20
    while not board.over:
        process = dice.choice(list(held))
        if deaths and dice.random() < 0.2:
            deaths -= 1
            clips = held.pop(process)
            sealed = clips[: dice.randint(0, len(clips))]  # a shard was full before the end
            stored += sealed
            for clip in clips[: dice.randint(0, len(clips))]:
                board.through(clip)
            assert board.held_by(process) == clips
            assert board.lost(process, stored, suspect=dice.random() < 0.5) == len(clips) - len(sealed)
            held[next(names)] = []
        elif (chunk := board.take(process)) is not None:
            held[process] += ids(chunk)
        else:
            stored += held[process]
            held[process] = []
            board.sealed(process)
    assert sorted(stored) == sorted(ids(one_chunk(work_of(sizes, absent))))


def lose(board: ChunkBoard[str], process: str, *, suspect: bool) -> None:
    board.lost(process, [], suspect=suspect)


def take_all(board: ChunkBoard[str], process: str) -> list[Chunk]:
    taken = []
    while (chunk := board.take(process)) is not None:
        taken.append(chunk)
    return taken


def test_a_clip_that_kills_is_tried_late_then_alone_then_given_up() -> None:
    board: ChunkBoard[str] = ChunkBoard(work_of([(100, 1)] * 4), 1)
    assert [ids(chunk) for chunk in take_all(board, "a")] == [["0-0"], ["1-0"], ["2-0"], ["3-0"]]
    for clip in ("0-0", "2-0"):
        assert board.through(clip)
    lose(board, "a", suspect=True)
    second = take_all(board, "b")
    assert [(ids(chunk), chunk.tries) for chunk in second] == [(["0-0"], 0), (["2-0"], 0), (["1-0"], 1), (["3-0"], 1)]
    board.through("3-0")
    lose(board, "b", suspect=True)
    assert [ids(chunk) for chunk in take_all(board, "c")] == [["0-0"], ["2-0"], ["3-0"]]
    board.sealed("c")
    alone = take_all(board, "c")
    assert [(ids(chunk), chunk.tries) for chunk in alone] == [(["1-0"], 2)]
    lose(board, "c", suspect=True)
    (settled,) = take_all(board, "d")[0].settled
    assert (settled.clip.clip_id, settled.outcome.status) == ("1-0", "crashed")
    assert settled.outcome.message == "3 extraction processes died while they held this clip"
    assert settled.source is not None
    board.sealed("d")
    assert board.over


def test_a_lost_machine_is_no_clip_s_fault() -> None:
    board: ChunkBoard[str] = ChunkBoard(work_of([(100, 1)] * 3), 1)
    for _ in range(10):
        assert [chunk.tries for chunk in take_all(board, "a")] == [0, 0, 0]
        lose(board, "a", suspect=False)


def test_clips_count_once() -> None:
    board: ChunkBoard[str] = ChunkBoard(work_of([(100, 1)]), 1)
    assert board.through("0-0")
    assert not board.through("0-0")


def test_missing_clips_go_to_the_first_process_alone() -> None:
    board: ChunkBoard[str] = ChunkBoard(work_of([(100, 1)] * 2, absent=2), 2)
    first = board.take("a")
    assert first is not None
    assert ids(first) == ["gone0", "gone1"]
    assert board.take("a") is None, "nothing else until they are sealed"
    assert [ids(chunk) for chunk in take_all(board, "b")] == [["0-0"], ["1-0"]]
