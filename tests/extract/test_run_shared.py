"""Runs over lists in which many clips share one source video."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from supportset.extract.decode.sampling import Sampling
from supportset.extract.work.selection import Clip, plan_work
from supportset.extract.workers.retries import Job, Pass
from supportset.store.errors import SupportsetError
from supportset.store.format.index import SCHEMA
from supportset.store.read.feature_set import FeatureSet
from tests.extract.fakes import expected_features
from tests.extract.runs import Films, row, run, statuses

SOURCES = ("film2.mp4", "film3.mp4", "film4.mp4")  # of 2.2, 3 and 3.8 s
FPS = Sampling(fps=5.0)


@pytest.fixture
def clips() -> tuple[Films, dict[str, tuple[float, float]]]:
    """Twelve clips, the files in turn, the starts in no order."""
    films: Films = {f"c{i:02}": SOURCES[i % 3] for i in range(12)}
    starts = np.random.default_rng(1).permutation(12) * 0.15
    return films, {clip: (round(float(at), 2), round(float(at) + 1, 2)) for clip, at in zip(films, starts, strict=True)}


def test_features_are_those_of_each_clip_alone(
    tmp_path: Path, videos: Path, clips: tuple[Films, dict[str, tuple[float, float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    films, spans = clips
    sizes: list[int] = []
    grouped = Pass.of

    def note(jobs: Iterable[Job]) -> Pass:
        made = grouped(jobs)
        sizes.append(len(made.jobs))
        return made

    monkeypatch.setattr(Pass, "of", note)
    summary = run(tmp_path, films, spans=spans, sampling=FPS)
    assert summary.status == {"ok": 12}
    assert sizes == [4, 4, 4], "each file is one pass"
    stored = FeatureSet.open(summary.path)
    for clip, path in films.items():
        values, times = expected_features(videos / str(path), FPS, spans[clip])
        np.testing.assert_allclose(stored.read([clip])[0], values, rtol=1e-6)
        np.testing.assert_allclose(stored.read_timestamps([clip]), times)
        assert row(summary, clip)["seconds"] > 0
    assert run(tmp_path, films, spans=spans, sampling=FPS).status == {"ok": 12}
    assert sizes == [4, 4, 4], "the second run does nothing"


def test_each_clip_has_its_own_outcome(
    tmp_path: Path, videos: Path, clips: tuple[Films, dict[str, tuple[float, float]]]
) -> None:
    films, spans = clips
    films |= {"late": SOURCES[0], "back": SOURCES[0], "gone": "gone.mp4", "text": "text.mp4", "text again": "text.mp4"}
    (videos / "text.mp4").write_text("words")
    spans |= {"late": (60.0, 61.0), "back": (2.0, 1.0), "text again": (0.0, 1.0)}
    summary = run(tmp_path, films, spans=spans, sampling=FPS)
    assert summary.status == {"ok": 12, "missing": 1, "too_short": 2, "unreadable": 2}
    assert "starts at 60 s" in row(summary, "late")["message"]
    assert "ends at 1 s" in row(summary, "back")["message"]


def test_a_run_that_stops_at_an_error_goes_on(
    tmp_path: Path, videos: Path, clips: tuple[Films, dict[str, tuple[float, float]]]
) -> None:
    films, spans = clips
    wrong = spans | {"c10": (60.0, 61.0)}
    with pytest.raises(SupportsetError, match=r"'c10' \(film3.mp4\) is too_short"):
        run(tmp_path, films, spans=wrong, sampling=FPS, on_error="stop", batch_size=1)
    kept = FeatureSet.open(next((tmp_path / "features" / "films" / "features").iterdir()))
    assert 0 < len(kept) < 12
    summary = run(tmp_path, films, spans=wrong, sampling=FPS)
    assert summary.status == {"ok": 11, "too_short": 1}
    assert statuses(summary)["c10"] == "too_short"


def test_clips_of_a_file_are_side_by_side_in_the_order_of_their_starts(videos: Path) -> None:
    clips = [Clip(f"c{i}", SOURCES[i % 3], float(9 - i), 20.0) for i in range(9)]
    work = plan_work(clips, videos, SCHEMA.empty_table())
    assert [task.clip.clip_id for task in work.tasks] == ["c6", "c3", "c0", "c7", "c4", "c1", "c8", "c5", "c2"]
