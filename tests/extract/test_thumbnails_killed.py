"""Kills between thumbnails and features: no clip has features without thumbnails, and the next run completes them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from supportset.extract.decode.sampling import Sampling
from supportset.extract.decode.thumbnails import encode
from supportset.extract.progress.interrupted import Interrupted
from supportset.extract.workers.pool import DecodePool
from supportset.store.errors import SupportsetError
from supportset.store.maintain.verify import verify
from supportset.store.read.feature_set import FeatureSet
from supportset.store.read.thumbnails import Thumbnails
from supportset.store.write.writer import FeatureWriter
from tests.extract.fakes import dataset_of
from tests.extract.films import steps_of, write_video
from tests.extract.runs import Films, run
from tests.extract.test_run_interrupted import CODE
from tests.extract.test_thumbnails import FPS, make, opened

pytestmark = pytest.mark.slow

COUNT = 12
WITH_THUMBNAILS = CODE.replace("clips_per_shard=per_shard,", "clips_per_shard=per_shard, thumbnails=60,")


@pytest.fixture
def films(tmp_path: Path) -> Films:
    (tmp_path / "videos").mkdir()
    for i in range(COUNT):
        write_video(tmp_path / "videos" / f"{i:02}.mp4", 20 + i)
    return {f"c{i:02}": f"{i:02}.mp4" for i in range(COUNT)}


def feature_sets(tmp_path: Path) -> list[Path]:
    return [card.parent for card in tmp_path.glob("features/films/features/*/card.json")]


def check(path: Path) -> tuple[set[str], set[str]]:
    """What is stored is whole; return the clips with features, and those with thumbnails."""
    assert not verify(path).harmful
    thumbnails = Thumbnails.open(path)
    taken = set() if thumbnails is None else set(thumbnails.clip_ids)
    return set(FeatureSet.open(path).clip_ids), taken


def check_all(tmp_path: Path, films: Films, path: str) -> None:
    found = Thumbnails.open(path)
    assert found is not None
    assert sorted(found.clip_ids) == sorted(films)
    for clip, file in films.items():
        for step in steps_of(tmp_path / "videos" / str(file), FPS):
            assert found.read(clip, step.start_s) == encode(step.frames[0])


def committed(root: Path) -> int:
    """How many shards of features and thumbnails have an index."""
    sets = ("features/films/features/*/shards", "features/films/features/*/thumbnails/shards")
    return sum(len(list(root.glob(f"{folder}/[!.]*.parquet"))) for folder in sets)


def test_killed_again_and_again(tmp_path: Path, films: Films) -> None:
    dataset_of(tmp_path / "features", films)
    kills, done = 0, 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", WITH_THUMBNAILS, str(tmp_path), "2"],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        # The moment of the next commit, of thumbnails or of features, where a kill could part them.
        while process.poll() is None:
            now = committed(tmp_path)
            if now > done and kills < 4:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        _, told = process.communicate()
        (path,) = feature_sets(tmp_path)
        features, taken = check(path)
        assert features <= taken
        done = committed(tmp_path)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, told
        kills += 1
    assert kills >= 3
    assert features == set(films)
    check_all(tmp_path, films, str(path))


def test_disk_that_fills_between_the_two_commits(tmp_path: Path, films: Films, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = FeatureWriter._commit

    def refuse(writer: FeatureWriter) -> None:
        if writer.card.recipe.kind == "video":
            raise SupportsetError("no space left")
        commit(writer)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "_commit", refuse)
        with pytest.raises(SupportsetError, match="no space left"):
            run(tmp_path, films, sampling=FPS, thumbnails=60, clips_per_shard=5)
    (path,) = feature_sets(tmp_path)
    features, taken = check(path)
    assert not features
    assert len(taken) >= 5
    summary = run(tmp_path, films, sampling=FPS, thumbnails=60)
    assert summary.status == {"ok": COUNT}
    check_all(tmp_path, films, summary.path)


def test_making_them_later_resumes(tmp_path: Path, films: Films, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = run(tmp_path, films, sampling=FPS)
    work = DecodePool.run

    def stopped(pool: DecodePool, jobs: Any) -> Any:
        for number, event in enumerate(work(pool, jobs)):
            if number == 20:
                raise KeyboardInterrupt
            yield event

    with monkeypatch.context() as patch:
        patch.setattr(DecodePool, "run", stopped)
        with pytest.raises(Interrupted, match="the same command resumes"):
            make(tmp_path, summary)
    first = len(opened(summary))
    assert 0 < first < COUNT
    made = make(tmp_path, summary)
    assert (made.done, made.made) == (first, COUNT - first)
    check_all(tmp_path, films, summary.path)


def test_lost_thumbnails_are_made_anew(tmp_path: Path, films: Films) -> None:
    summary = run(tmp_path, films, sampling=FPS, thumbnails=60)
    shutil.rmtree(Path(summary.path) / "thumbnails")
    again = run(tmp_path, films, sampling=Sampling(fps=5.0), thumbnails=60)
    assert again.thumbnails is not None
    assert again.thumbnails["made"] == COUNT
    check_all(tmp_path, films, summary.path)
