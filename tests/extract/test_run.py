"""The extraction run: right features, nothing done twice, nothing lost."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.sampling import Sampling
from supportset.extract.pipeline import pipeline
from supportset.store.read.feature_set import FeatureSet
from tests.extract.fakes import MeanColour, MeanOfRows, dataset_of, expected_features
from tests.extract.films import write_video
from tests.extract.fragile import Shrink
from tests.extract.runs import Films, extract_with, row, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("shard_format", ["zarr", "hdf5"])
def test_features_are_those_of_each_clip_alone(tmp_path: Path, videos: Path, films: Films, shard_format: str) -> None:
    backbone = MeanColour()
    spans = {"c4": (1.0, 2.5)}
    summary = run(tmp_path, films, backbone, spans, sampling=Sampling(fps=4.0), shard_format=shard_format, workers=2)
    assert summary.status == {"ok": 6}
    assert (summary.clips, summary.exit_code) == (6, 0)
    stored = FeatureSet.open(summary.path)
    for clip, path in films.items():
        values, times = expected_features(videos / str(path), Sampling(fps=4.0), spans.get(clip, (None, None)))
        np.testing.assert_allclose(stored.read([clip])[0], values, rtol=1e-6)
        np.testing.assert_allclose(stored.read_timestamps([clip]), times)
    assert set(backbone.batches[:-1]) == {4}, "batches are full across clips"
    found = row(summary, "c0")
    assert (found["source_path"], found["source_size"]) == ("film0.mp4", (videos / "film0.mp4").stat().st_size)
    assert found["source_hash"].startswith("xxh3-128:")


def test_vectors_of_one_step_lie_side_by_side(tmp_path: Path, videos: Path, films: Films) -> None:
    backbone = MeanOfRows()
    summary = run(tmp_path, films, backbone, sampling=Sampling(fps=4.0), workers=2)
    assert (summary.status, set(backbone.batches[:-1])) == ({"ok": 6}, {4})
    stored = FeatureSet.open(summary.path)
    for clip, path in films.items():
        steps = list(decode_clip(videos / str(path), sampling=Sampling(fps=4.0), transform=Shrink()))
        rows = np.concatenate([step.frames[0].astype(np.float64).mean(1) for step in steps])
        np.testing.assert_allclose(stored.read([clip])[0], rows, rtol=1e-6)
        times = np.repeat([(step.start_s, step.end_s) for step in steps], 8, axis=0)
        np.testing.assert_allclose(stored.read_timestamps([clip]), times)


def test_clip_models_get_windows(tmp_path: Path, videos: Path, films: Films) -> None:
    summary = run(tmp_path, films, MeanColour(window=6), sampling=Sampling(fps=2.0))
    stored = FeatureSet.open(summary.path)
    for clip, path in films.items():
        values, times = expected_features(videos / str(path), Sampling(fps=2.0, window=6))
        np.testing.assert_allclose(stored.read([clip])[0], values, rtol=1e-6)
        np.testing.assert_allclose(stored.read_timestamps([clip]), times)
    assert stored.card.recipe.sampling == {"fps": 2, "max_steps": 512, "window": 6, "stride": 1}


def test_stride_of_a_clip_model(tmp_path: Path, videos: Path) -> None:
    summary = run(tmp_path, {"c4": "film4.mp4"}, MeanColour(window=4), sampling=Sampling(frames=2, stride=3))
    values, _ = expected_features(videos / "film4.mp4", Sampling(frames=2, window=4, stride=3))
    np.testing.assert_allclose(FeatureSet.open(summary.path).read(["c4"])[0], values, rtol=1e-6)


def test_summary_is_that_of_the_contract(tmp_path: Path, videos: Path, films: Films) -> None:
    told = run(tmp_path, films | {"gone": "gone.mp4"}).to_json()
    assert list(told) == ["dataset", "feature_set", "path", "clips", "status", "seconds", "gone", "thumbnails"]
    assert told["dataset"] == "films"
    assert Path(told["path"]).name == told["feature_set"]
    assert told["status"] == {"ok": 6, "missing": 1}


def test_card_tells_what_the_features_are(tmp_path: Path, videos: Path, films: Films) -> None:
    card = FeatureSet.open(run(tmp_path, films).path).card
    assert card.recipe.backbone == "fake:mean"
    assert card.recipe.sampling == {"fps": 1, "max_steps": 512}
    assert card.provenance["device"] == "cpu"
    assert card.provenance["backbone"] == "fake:mean@/some/folder", "as given, to load it again"
    assert "av" in card.provenance["libraries"]


def test_nothing_is_done_twice(tmp_path: Path, videos: Path, films: Films, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path, films)
    before = sorted(Path(first.path).rglob("*"))
    for file in videos.iterdir():
        file.unlink()
    monkeypatch.setattr(pipeline, "DecodePool", None)
    second = run(tmp_path, films)
    assert second.status == first.status
    assert sorted(Path(first.path).rglob("*")) == before, "nothing is written"


def test_new_clips_are_added(tmp_path: Path, videos: Path, films: Films) -> None:
    some = dict(list(films.items())[:2])
    assert run(tmp_path, some).status == {"ok": 2}
    backbone = MeanColour()
    assert run(tmp_path, films, backbone, sampling=Sampling(frames=1)).status == {"ok": 6}  # another feature set
    assert run(tmp_path, films, backbone := MeanColour()).status == {"ok": 6}
    lengths = FeatureSet.open(run(tmp_path, films).path).lengths(films)
    assert sum(backbone.batches) == sum(lengths[2:])


def test_changed_files_are_done_again(tmp_path: Path, videos: Path, films: Films) -> None:
    (videos / "text.mp4").write_text("words")
    films |= {"text": "text.mp4"}
    run(tmp_path, films)
    write_video(videos / "film0.mp4", 60, size=(96, 80))
    write_video(videos / "text.mp4", 10)
    now = time.time_ns()
    os.utime(videos / "film1.mp4", ns=(now, now + 10**9))
    summary = run(tmp_path, films)
    assert summary.status == {"ok": 7}
    assert {clip: row(summary, clip)["generation"] for clip in films} == dict.fromkeys(films, 0) | {
        "c0": 1,
        "c1": 1,
        "text": 1,
    }
    values, _ = expected_features(videos / "film0.mp4", Sampling())
    np.testing.assert_allclose(FeatureSet.open(summary.path).read(["c0"])[0], values, rtol=1e-6)


def test_names_are_only_names(tmp_path: Path, videos: Path) -> None:
    names = ["with space.mp4", "ünï-コード.mp4", "new\nline.mp4", "%03d:x.mp4"]
    for name in names:
        write_video(videos / name, 10)
    assert run(tmp_path, {f"id {name}": name for name in names}).status == {"ok": 4}


def test_real_clips(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "clips"
    films: Films = {path.stem: str(path.relative_to(folder)) for path in sorted(folder.rglob("*.*"))}
    dataset = dataset_of(tmp_path / "features", films)
    sampling = Sampling(frames=1)
    summary = extract_with(
        dataset,
        tmp_path / "features",
        folder,
        MeanColour(),
        sampling,
        workers=2,
        device="cpu",
        progress=False,
        strict=True,
    )
    assert summary.status == {"ok": 27}
    assert summary.exit_code == 0
    stored = FeatureSet.open(summary.path)
    for clip in ("video236", "j2Dhf-xFUxU_13_20", "Je3V7U5Ctj4_569_576"):
        values, times = expected_features(folder / str(films[clip]), sampling)
        np.testing.assert_allclose(stored.read([clip])[0], values, rtol=2e-3)  # stored as float16
        np.testing.assert_allclose(stored.read_timestamps([clip]), times)


def test_progress_goes_to_standard_error_only(
    tmp_path: Path, videos: Path, films: Films, capsys: pytest.CaptureFixture[str]
) -> None:
    (videos / "text.mp4").write_text("words")
    run(tmp_path, films | {"text": "text.mp4"}, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "7 of 7 clips of films to do" in shown.err
    assert "text: unreadable" in shown.err
    assert "7 of 7 clips, " in shown.err.splitlines()[-1]
    assert "1 failed" in shown.err.splitlines()[-1]
