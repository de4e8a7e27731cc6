"""An extraction process, played in this one: rounds of chunks, and what it refuses to work with."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from supportset.extract.decode.sampling import Sampling
from supportset.extract.options import Execution
from supportset.extract.outcome import Outcome
from supportset.extract.pipeline.recipe import make_recipe
from supportset.extract.processes import worker_process as worker_process
from supportset.extract.processes.extraction import Settings, run_extraction
from supportset.extract.processes.worker_process import Advance, Answer, Ask, Finished, Message, Note, Order
from supportset.extract.progress.stage_timing import Spent
from supportset.extract.work.chunks import Chunk, Settled
from supportset.extract.work.selection import Clip, Task, plan_work
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.index import SCHEMA
from supportset.store.read.catalog import feature_set_path
from supportset.store.read.feature_set import FeatureSet
from tests.extract.fakes import MeanColour, dataset_of, expected_features
from tests.extract.films import write_video
from tests.extract.test_scheduler import Shown

SAMPLING = Sampling(fps=5.0)


def settings_of(root: Path, device: str = "cpu", **changes: Any) -> Settings:
    settings = Settings(
        root=root / "features",
        dataset="films",
        videos_root=root / "videos",
        sampling=SAMPLING,
        execution=Execution(device=device, decoder="pyav", dtype="float32", workers=1, batch_size=4, timeout=60.0),
        clips=6,
        cores=1,
    )
    return replace(settings, **changes)


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    (tmp_path / "videos").mkdir()
    for i in range(6):
        write_video(tmp_path / "videos" / f"{i}.mp4", 10 + i)
    clips = [Clip(f"c{i}", f"{i}.mp4", None, None) for i in range(6)]
    return list(plan_work(clips, tmp_path / "videos", SCHEMA.empty_table()).tasks)


class Rounds:
    """Hands out rounds of chunks, and looks what is sealed when a round begins."""

    def __init__(self, path: Path, *rounds: list[Chunk]) -> None:
        self.path, self.rounds = path, [list(chunks) for chunks in rounds]
        self.sealed: list[int] = []

    def wait(self) -> Chunk | None:
        self.sealed.append(len(FeatureSet.open(self.path).rows()) if self.path.exists() else 0)
        self.now = self.rounds.pop(0) if self.rounds else []
        return self.more()

    def more(self) -> Chunk | None:
        return self.now.pop(0) if self.now else None


def path_of(root: Path) -> Path:
    return Path(str(feature_set_path(root / "features", "films", make_recipe(MeanColour(), SAMPLING, "float32"))))


def test_chunks_of_a_round_run_together_and_rounds_are_sealed(tmp_path: Path, tasks: list[Task]) -> None:
    gone = Settled(Clip("gone", None, None, None), Outcome("missing", "no file"))
    deadly = Settled(Clip("red", "red.png", None, None), Outcome("crashed", "3 died"), tasks[0].source)
    source = Rounds(
        path_of(tmp_path),
        [Chunk((), (gone, deadly))],
        [Chunk(tuple(tasks[:2])), Chunk(tuple(tasks[2:3])), Chunk(tuple(tasks[3:5]))],
        [Chunk(tuple(tasks[5:]), tries=2)],
    )
    backbone, shown = MeanColour(), Shown()
    run_extraction(source, settings_of(tmp_path), backbone, shown)
    assert source.sealed == [0, 2, 7, 8]
    stored = FeatureSet.open(path_of(tmp_path))
    for task in tasks:
        values, _ = expected_features(tmp_path / "videos" / task.source.path, SAMPLING)
        np.testing.assert_allclose(stored.read([task.clip.clip_id])[0], values, rtol=1e-6)
    steps = stored.lengths([f"c{i}" for i in range(5)]).sum()
    assert len(backbone.batches) == -(-steps // 4) + 1, "no batch ends with a chunk, but one with the round"
    assert sorted(shown.clips) == sorted(["red", *(task.clip.clip_id for task in tasks)]), "the missing are not counted"
    (row,) = (row for row in stored.rows().to_pylist() if row["status"] == "crashed")
    assert (row["clip_id"], row["message"], row["source_path"]) == ("red", "3 died", "0.mp4")


def order_of(root: Path, backbone: MeanColour, **changes: Any) -> Order:
    recipe = make_recipe(backbone, SAMPLING, "float32").hash
    return replace(Order(settings_of(root), "fake:mean", recipe, os.getcwd()), **changes)


@pytest.mark.parametrize("wrong", ["videos", "store", "tables", "weights"])
def test_a_process_that_sees_something_else_refuses(
    tmp_path: Path, tasks: list[Task], wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = dataset_of(tmp_path / "features", {"c0": "0.mp4"}).info
    order = order_of(tmp_path, MeanColour(), tables=tables)
    said = {
        "videos": r"elsewhere: no such folder on .*all machines of a run need the videos",
        "store": r"nowhere: on .* this is not the store",
        "tables": r"features: on .* this is not the store of the machine that started the run",
        "weights": r"fake:mean: has other weights or another transform on ",
    }[wrong]
    if wrong == "videos":
        order = order.with_settings(videos_root=tmp_path / "elsewhere")
    elif wrong == "store":
        order = order.with_settings(root=tmp_path / "nowhere")
    elif wrong == "tables":
        dataset_of(tmp_path / "features", {"c0": "0.mp4", "c1": "1.mp4"})
    else:
        order = replace(order, recipe="xxh3-128:other")
    monkeypatch.setattr(worker_process, "load_backbone", lambda name: MeanColour())
    with pytest.raises(SupportsetError, match=said):
        worker_process.run_ordered(order, Rounds(tmp_path), Shown())
    assert not path_of(tmp_path).exists()
    assert not (tmp_path / "nowhere").exists()


def test_one_chunk_is_asked_for_ahead_unless_one_is_alone() -> None:
    sent: list[Message] = []
    inbox: SimpleQueue[Answer] = SimpleQueue()
    chunks = worker_process._PipedChunks(sent.append, inbox, worker_process._Teller(sent.append))
    first, second, alone = Chunk((), tries=0), Chunk((), tries=1), Chunk((), tries=2)
    for answer in (first, second, None, alone, None):
        inbox.put(answer)
    assert [chunks.wait(), chunks.more(), chunks.more()] == [first, second, None]
    assert [message.sealed for message in sent if isinstance(message, Ask)] == [True, False, False]
    assert [chunks.wait(), chunks.more(), chunks.wait()] == [alone, None, None]
    assert [message.sealed for message in sent if isinstance(message, Ask)] == [True, False, False, True, True]


def test_what_a_process_tells_adds_up() -> None:
    sent: list[Message] = []
    teller = worker_process._Teller(sent.append)
    for i in range(50):
        teller.frames(2)
        teller.spent(Spent(computing=0.5))
        teller.clip("ok", f"c{i}", "")
    teller.note("told at once")
    teller.send_all()
    told = [message for message in sent if isinstance(message, Advance)]
    assert len(told) < 10, "a few messages, not one a clip"
    assert sum(message.frames for message in told) == 100
    assert sum(message.spent.computing for message in told) == 25
    assert [clip for message in told for _, clip, _ in message.clips] == [f"c{i}" for i in range(50)]
    assert Note("told at once") in sent


def test_messages_survive_the_pipe() -> None:
    error = pickle.loads(pickle.dumps(Finished(UsageError("no such thing")))).error
    assert (type(error), str(error), error.exit_code) == (UsageError, "no such thing", 2)
