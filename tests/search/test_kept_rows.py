"""Rows of clips that are kept: what is found is what was computed, whatever happened in between."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from supportset.search.kept import rows as kept_rows
from supportset.search.kept.rows import KeptRows, Rows, keep_rows, with_repair
from supportset.store.errors import SupportsetError

Numbers = NDArray[np.int64]


class Library:
    """Clips whose content is a number: rows (n, 3) that follow from it, one to three a clip."""

    def __init__(self, folder: Path, key: str = "key") -> None:
        self.folder, self.key = folder, key
        self.computed: list[int] = []

    def keep(self, contents: Iterable[int], in_memory: bool = False) -> KeptRows:
        """Keep the rows of these clips."""
        content = np.asarray(list(contents), np.uint64)[:, None]

        def compute(numbers: Numbers) -> Iterator[Rows]:
            for block in np.array_split(numbers, max(1, len(numbers) // 3)):
                chosen = content[block, 0].tolist()
                self.computed += chosen
                if chosen:
                    counts, rows = zip(*map(rows_of, chosen), strict=True)
                    yield np.asarray(counts), {"rows": np.concatenate(rows)}

        return keep_rows(self.folder, self.key, content, compute, in_memory)


def rows_of(content: int) -> tuple[int, NDArray[np.float32]]:
    count = 1 + content % 3
    return count, np.full((count, 3), content, np.float32) + np.arange(count, dtype=np.float32)[:, None] / 8


def found(kept: KeptRows) -> list[NDArray[np.float32]]:
    """The rows of each clip, as an index finds them."""
    out = []
    for place in kept.clips:
        number = int(np.searchsorted(kept.first, place, side="right") - 1)
        segment, local = kept.segments[number], int(place - kept.first[number])
        out.append(np.asarray(segment["rows"][segment["offsets"][local] : segment["offsets"][local + 1]]))
    return out


def check(kept: KeptRows, contents: Iterable[int]) -> None:
    for rows, content in zip(found(kept), contents, strict=True):
        np.testing.assert_array_equal(rows, rows_of(content)[1])


def folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def _old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_rows, "_YOUNG_S", 0.0)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=40), min_size=1, max_size=12),
    full=st.sampled_from([100, 1000, 1 << 26]),
)
def test_after_any_history_the_rows_are_those_of_the_clips_and_none_is_computed_twice(
    history: list[list[int]], full: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips are added, changed, removed, put in another order, and named twice."""
    monkeypatch.setattr(kept_rows, "FULL_BYTES", full)
    library = Library(tmp_path_factory.mktemp("kept") / "rows")
    before: set[int] = set()
    for contents in history:
        library.computed.clear()
        gc.collect()
        check(library.keep(contents), contents)
        assert len(library.computed) == len(set(library.computed))
        assert not before.intersection(library.computed)
        before = set(contents)


def test_a_growing_library_has_few_segments_and_rewrites_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, written = Library(tmp_path / "rows"), []
    original = kept_rows.write_segment

    def write(folder: Path, key: str, arrays: dict[str, np.ndarray], **options: bool) -> object:
        written.append(len(arrays["rows"]))
        return original(folder, key, arrays, **options)

    monkeypatch.setattr(kept_rows, "write_segment", write)
    monkeypatch.setattr(kept_rows, "_SMALL_BYTES", 600)
    for count in range(1, 301):
        kept = library.keep(range(count))
    check(kept, range(300))
    assert sorted(library.computed) == list(range(300))
    assert len(folders(tmp_path / "rows")) == len(kept.segments) <= 25
    assert sum(written) <= 10 * 600  # of 600 rows; rewriting all each time is 90,000


def test_segments_of_clips_that_are_gone_are_removed_but_not_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(tmp_path / "rows")
    library.keep(range(9))
    monkeypatch.setattr(kept_rows, "_YOUNG_S", 600.0)
    check(library.keep([20, 21]), [20, 21])
    assert len(folders(tmp_path / "rows")) == 2  # another process may be about to use it
    monkeypatch.setattr(kept_rows, "_YOUNG_S", 0.0)
    check(library.keep([21]), [21])
    assert len(folders(tmp_path / "rows")) == 1
    Library(tmp_path / "rows", "another key").keep([21])
    assert len(folders(tmp_path / "rows")) == 1
    assert sorted(library.computed) == [*range(9), 20, 21]


def test_a_segment_mostly_of_clips_that_are_gone_is_written_anew(tmp_path: Path) -> None:
    library = Library(tmp_path / "rows")
    (before,) = library.keep(range(10)).segments
    (kept,) = library.keep(range(5)).segments
    assert kept.name == before.name  # half is still used
    (kept,) = library.keep(range(4)).segments
    assert (len(kept), kept.name == before.name) == (4, False)
    assert folders(tmp_path / "rows") == [kept.name]
    assert sorted(library.computed) == list(range(10))


@pytest.mark.parametrize("name", ["rows.npy", "content.npy", "offsets.npy", "segment.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone", "empty"])
def test_what_is_damaged_is_computed_again(tmp_path: Path, name: str, how: str) -> None:
    library = Library(tmp_path / "rows")
    contents = range(20)
    library.keep(contents)
    for seed in range(6 if how == "flip" else 1):
        gc.collect()  # as in another process: nothing is known to be in order
        (file,) = (tmp_path / "rows").rglob(name)
        content = bytearray(file.read_bytes())
        content[seed * (len(content) - 1) // 5] ^= 4
        damaged = {"flip": bytes(content), "cut": bytes(content[:-7]), "gone": None, "empty": b""}[how]
        if damaged is None:
            file.unlink()
        else:
            file.write_bytes(damaged)
        with_repair(lambda in_memory: check(library.keep(contents), contents))  # it may be found when rows are used
        for segment in folders(tmp_path / "rows"):
            if not (tmp_path / "rows" / segment / name).exists():
                shutil.rmtree(tmp_path / "rows" / segment)


def test_a_folder_that_cannot_be_written_leaves_rows_in_memory_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    library = Library(tmp_path / "file" / "rows")
    kept = library.keep(range(9))
    check(kept, range(9))
    assert "in memory" in kept.notes[0]
    assert str(tmp_path) in kept.notes[0]
    library.computed.clear()
    more = library.keep(range(11))  # while the first index is used, as by a server
    check(more, range(11))
    assert library.computed == [9, 10]
    (tmp_path / "file").unlink()
    del more
    check(library.keep(range(11)), range(11))


def test_a_full_disk_leaves_what_was_written_and_the_rest_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, original, calls = Library(tmp_path / "rows"), kept_rows.write_segment, []

    def write(folder: Path, key: str, arrays: dict[str, np.ndarray], *, in_memory: bool = False) -> object:
        calls.append(in_memory)
        if len(calls) > 2 and not in_memory:
            raise SupportsetError("cannot write: No space left on device")
        return original(folder, key, arrays, in_memory=in_memory)

    monkeypatch.setattr(kept_rows, "write_segment", write)
    monkeypatch.setattr(kept_rows, "FULL_BYTES", 100)
    kept = library.keep(range(40))
    check(kept, range(40))
    assert len(folders(tmp_path / "rows")) == 2
    assert kept.notes == ("the index is in memory, and made again next time: cannot write: No space left on device",)
    assert calls.count(False) == 3  # it is tried once, not for each segment
    del kept
    gc.collect()
    calls.clear()
    monkeypatch.setattr(kept_rows, "write_segment", original)
    library.computed.clear()
    check(library.keep(range(40)), range(40))
    assert 0 < len(library.computed) < 40


def test_what_a_killed_process_left_is_removed_and_what_another_writes_now_is_not(tmp_path: Path) -> None:
    for name in (".tmp-0-a", ".tmp-1-a"):
        (tmp_path / "rows" / name).mkdir(parents=True)
    os.utime(tmp_path / "rows" / ".tmp-0-a", (0, 0))
    kept = Library(tmp_path / "rows").keep([1])
    assert folders(tmp_path / "rows") == [".tmp-1-a", kept.segments[0].name]


_WORKER = """
import sys
from pathlib import Path
import numpy as np
from supportset.search.kept import rows as kept_rows
from tests.search.test_kept_rows import Library, check
kept_rows._YOUNG_S, kept_rows.FULL_BYTES = 0.0, 400
library, rng = Library(Path(sys.argv[1])), np.random.default_rng(int(sys.argv[2]))
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    contents = rng.permutation(80)[: rng.integers(1, 80)].tolist()
    kept_rows.with_repair(lambda in_memory: check(library.keep(contents, in_memory), contents))
print("done", flush=True)
"""


def start(folder: Path, seed: int, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WORKER, str(folder), str(seed), str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_that_add_and_remove_at_once_find_the_right_rows(tmp_path: Path) -> None:
    workers = [start(tmp_path / "rows", seed, 60) for seed in range(3)]
    for worker in workers:
        out, _ = worker.communicate(timeout=120)
        assert worker.returncode == 0
        assert out.split() == ["ready", "done"]
    check(Library(tmp_path / "rows").keep(range(80)), range(80))


def test_after_kill_9_at_any_time_the_rows_are_right(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for seed in range(6):
        worker = start(tmp_path / "rows", seed, 100_000)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        time.sleep(float(rng.uniform(0.02, 0.4)))
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        gc.collect()
        check(Library(tmp_path / "rows").keep(range(80)), range(80))
