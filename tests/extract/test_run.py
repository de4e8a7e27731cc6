"""The extraction run: right features, an outcome for every clip, nothing done twice, nothing lost."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from extract import pipeline
from extract.run import extract
from extract.sampling import Sampling
from extract.selection import Clip, Work, plan_work
from extract.summary import Summary, exit_code
from store.errors import SupportsetError, UsageError
from store.feature_set import FeatureSet
from tests.extract.fakes import MeanColour, dataset_of, expected_features
from tests.extract.films import write_audio, write_video
from tests.extract.fragile import Fragile

Films = dict[str, str | None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos and an image of different lengths and sizes."""
    folder = tmp_path_factory.mktemp("made")
    for i in range(5):
        write_video(folder / f"film{i}.mp4", 15 + 20 * i, size=(64 + 16 * i, 48))
    Image.new("RGB", (40, 30), (10, 200, 30)).save(folder / "still.png")
    return folder


@pytest.fixture
def videos(tmp_path: Path, made: Path) -> Path:
    """A copy of the films for one test to spoil."""
    return Path(shutil.copytree(made, tmp_path / "videos"))


@pytest.fixture
def films() -> Films:
    return {f"c{i}": f"film{i}.mp4" for i in range(5)} | {"still": "still.png"}


def run(tmp_path: Path, films: Films, backbone: Any = None, spans: Any = None, **options: Any) -> Summary:
    dataset = dataset_of(tmp_path / "features", films, **(spans or {}))
    options = {"workers": 1, "batch_size": 4, "device": "cpu", "progress": False, "dtype": "float32"} | options
    return extract(dataset, tmp_path / "features", tmp_path / "videos", backbone or MeanColour(), **options)


def statuses(summary: Summary) -> dict[str, str]:
    rows = FeatureSet.open(summary.path).rows()
    return dict(zip(rows["clip_id"].to_pylist(), rows["status"].to_pylist(), strict=True))


def row(summary: Summary, clip_id: str) -> dict[str, Any]:
    return next(row for row in FeatureSet.open(summary.path).rows().to_pylist() if row["clip_id"] == clip_id)


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
    assert list(told) == ["dataset", "feature_set", "path", "clips", "status", "seconds"]
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


def test_failures_are_rows_and_only_retried_when_asked(tmp_path: Path, videos: Path, films: Films) -> None:
    (videos / "text.mp4").write_text("words")
    (videos / "empty.mp4").touch()
    write_audio(videos / "sound.mp4")
    films |= {"text": "text.mp4", "empty": "empty.mp4", "sound": "sound.mp4", "late": "film4.mp4"}
    late = {"late": (60.0, 70.0)}
    summary = run(tmp_path, films, spans=late)
    assert summary.status == {"ok": 6, "no_video": 1, "too_short": 1, "unreadable": 2}
    assert row(summary, "empty")["message"] == "the file is empty (0 bytes)"
    assert row(summary, "text")["source_size"] == 5
    again = run(tmp_path, films, spans=late)
    assert row(again, "text")["generation"] == 0
    again = run(tmp_path, films, spans=late, retry_failed=True)
    assert again.status == summary.status
    assert row(again, "text")["generation"] == 1
    assert row(again, "c0")["generation"] == 0


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


def test_missing_clips_are_looked_for_again(tmp_path: Path, videos: Path, films: Films) -> None:
    films |= {"later": "later.mp4", "never": None}
    first = run(tmp_path, films)
    assert first.status == {"ok": 6, "missing": 2}
    shards = len(list(Path(first.path).glob("shards/*.parquet")))
    run(tmp_path, films)
    assert len(list(Path(first.path).glob("shards/*.parquet"))) == shards, "still missing: nothing new to say"
    write_video(videos / "later.mp4", 30)
    assert run(tmp_path, films).status == {"ok": 7, "missing": 1}


def test_no_video_at_all_stops_before_anything_is_written(tmp_path: Path, videos: Path) -> None:
    dataset = dataset_of(tmp_path / "features", {"a": "nope.mp4", "b": None})
    before = sorted((tmp_path / "features").rglob("*"))
    for folder, said in ((videos, "holds no video of the 2 clips"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(UsageError, match=said) as error:
            extract_plainly(dataset, tmp_path, folder)
        assert str(folder) in str(error.value)
    assert sorted((tmp_path / "features").rglob("*")) == before


def extract_plainly(dataset: Any, tmp_path: Path, folder: Path) -> Summary:
    return extract(dataset, tmp_path / "features", folder, MeanColour(), device="cpu", progress=False)


def test_file_that_disappears_during_the_run(
    tmp_path: Path, videos: Path, films: Films, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan_and_delete(clips: list[Clip], root: Path, *args: Any, **options: Any) -> Work:
        work = plan_work(clips, root, *args, **options)
        (root / "film3.mp4").unlink(missing_ok=True)
        return work

    monkeypatch.setattr(sys.modules[extract.__module__], "plan_work", plan_and_delete)
    summary = run(tmp_path, films)
    assert summary.status == {"ok": 5, "missing": 1}
    assert row(summary, "c3")["message"] == "the file is not there any more"


@pytest.mark.parametrize(
    ("on_damage", "expected"), [("keep", {"ok": 6, "damaged": 1}), ("drop", {"ok": 6, "damaged": 1})]
)
def test_damage_is_never_quietly_ok(
    tmp_path: Path, videos: Path, films: Films, on_damage: Any, expected: dict[str, int]
) -> None:
    cut = write_video(videos / "cut.mkv", 75, size=(160, 120))
    os.truncate(cut, cut.stat().st_size // 2)
    summary = run(tmp_path, films | {"cut": "cut.mkv"}, on_damage=on_damage)
    assert summary.status == expected
    stored = FeatureSet.open(summary.path)
    assert ("cut" in stored) == (on_damage == "keep")
    assert "frames lost" in row(summary, "cut")["message"]
    assert summary.exit_code == (0 if on_damage == "keep" else 1)


def test_value_that_does_not_fit_the_stored_type_fails_its_clip(tmp_path: Path, videos: Path, films: Films) -> None:
    backbone = MeanColour(scale=65504 / 195)  # only the still's green, 200, is beyond
    summary = run(tmp_path, {"c0": "film0.mp4", "still": "still.png"}, backbone, dtype="float16")
    assert summary.status["overflow"] == 1
    assert statuses(summary) == {"c0": "ok", "still": "overflow"}
    assert run(tmp_path, {"c0": "film0.mp4", "still": "still.png"}, backbone, dtype="float32").status == {"ok": 2}


@pytest.mark.parametrize("how", ["kill", "hang"])
def test_poisonous_files_cost_only_their_clips(tmp_path: Path, videos: Path, films: Films, how: str) -> None:
    Image.new("RGB", (32, 32), (255, 0, 0)).save(videos / "red.png")
    films = {"red1": "red.png"} | films | {"red2": "red.png"}
    summary = run(tmp_path, films, MeanColour(transform=Fragile(how=how)), timeout=0.5)
    status = {"kill": "crashed", "hang": "timeout"}[how]
    assert summary.status == {"ok": 6, status: 2}
    assert statuses(summary)["red1"] == status
    assert summary.exit_code == 1


def test_stop_on_the_first_error(tmp_path: Path, videos: Path, films: Films) -> None:
    (videos / "text.mp4").write_text("words")
    films = {"c3": "film3.mp4", "text": "text.mp4"} | films
    with pytest.raises(SupportsetError, match=r"'text' \(text.mp4\) is unreadable.*--on-error skip"):
        run(tmp_path, films, on_error="stop", workers=1, batch_size=1)
    kept = FeatureSet.open(next((tmp_path / "features" / "films" / "features").iterdir()))
    assert "c3" in kept, "what was complete is stored"
    assert kept.statuses()["unreadable"] == 1
    assert run(tmp_path, films).status == {"ok": 6, "unreadable": 1}


@pytest.mark.parametrize(
    ("statuses", "max_failures", "strict", "code"),
    [
        (["ok"] * 6 + ["unreadable"], 0.05, False, 1),
        (["ok"] * 6 + ["unreadable"], 0.2, False, 0),
        (["ok"] * 6 + ["unreadable"], 0.2, True, 1),
        (["ok"] * 3 + ["crashed"], 0.25, False, 0),
        (["ok"] * 3 + ["crashed"] + ["missing"] * 9, 0.24, False, 1),  # the missing are not present
        (["ok"] * 3 + ["missing"] * 9, 0.0, False, 0),
        (["ok"] * 3 + ["missing"], 1.0, True, 1),
        (["ok"] * 3 + ["damaged and kept"], 0.0, False, 0),
        (["ok"] * 3 + ["damaged and kept"], 0.0, True, 1),
        (["ok"], 0.0, True, 0),
        (["missing"] * 2, 0.0, False, 0),
    ],
)
def test_exit_codes(statuses: list[str], max_failures: float, strict: bool, code: int) -> None:
    kept = [status == "damaged and kept" for status in statuses]
    rows = pa.table(
        {
            "status": ["ok" if good else status for good, status in zip(kept, statuses, strict=True)],
            "message": ["damaged: 3 frames" if good else "" for good in kept],
        }
    )
    assert exit_code(rows, max_failures, strict) == code


def test_exit_code_of_a_run(tmp_path: Path, videos: Path, films: Films) -> None:
    (videos / "text.mp4").write_text("words")
    films = {"text": "text.mp4", "gone": "gone.mp4"} | films
    assert run(tmp_path, films).exit_code == 1
    assert run(tmp_path, films, max_failures=0.2).exit_code == 0
    assert run(tmp_path, films, max_failures=0.2, strict=True).exit_code == 1


def test_names_are_only_names(tmp_path: Path, videos: Path) -> None:
    names = ["with space.mp4", "ünï-コード.mp4", "new\nline.mp4", "%03d:x.mp4"]
    for name in names:
        write_video(videos / name, 10)
    assert run(tmp_path, {f"id {name}": name for name in names}).status == {"ok": 4}


def test_parts_of_the_work_are_disjoint_and_whole(tmp_path: Path, videos: Path, films: Films) -> None:
    clips: list[set[str]] = []
    dataset = dataset_of(tmp_path / "features", films)
    for part in (1, 2, 3):
        summary = extract_part(dataset, tmp_path, shard=(part, 3))
        assert summary.clips == 2
        clips.append(set(statuses(summary)))
    assert [len(found) for found in clips] == [2, 4, 6]
    assert clips[-1] == set(films)


def extract_part(dataset: Any, tmp_path: Path, **options: Any) -> Summary:
    return extract(
        dataset, tmp_path / "features", tmp_path / "videos", MeanColour(), device="cpu", progress=False, **options
    )


def test_selection_by_split_and_limit(tmp_path: Path, videos: Path, films: Films) -> None:
    dataset = dataset_of(tmp_path / "features", films)
    assert set(statuses(extract_part(dataset, tmp_path, split="test", limit=2))) == {"c1", "c3"}
    assert set(statuses(extract_part(dataset, tmp_path, protocol="p", split="train", limit=1))) == {"c0", "c1", "c3"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"protocol": "q"}, "no protocol 'q'"),
        ({"split": "dev"}, "no split 'dev'; it has test, train"),
        ({"protocol": "p", "split": "dev"}, "no split 'dev'"),
        ({"limit": 0}, "at least 1"),
        ({"shard": (3, 2)}, "3/2"),
        ({"shard": (1000, 1000)}, "fewer parts"),
        ({"shard_format": "lmdb"}, "lmdb"),
        ({"dtype": "int8"}, "int8"),
        ({"device": "tpu"}, "'tpu'"),
        ({"device": "cuda:99"}, "CUDA devices"),
        ({"on_error": "retry"}, "retry"),
        ({"on_damage": "mend"}, "mend"),
        ({"max_failures": 1.5}, "1.5"),
        ({"workers": 0}, "workers=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"timeout": 0.0}, "timeout=0.0"),
        ({"sampling": Sampling(window=3)}, "takes 1 frames a step, not 3"),
        ({"sampling": Sampling(stride=2)}, "a stride of 2 is for clip models only"),
    ],
)
def test_wrong_values_are_named_and_nothing_is_written(
    tmp_path: Path, videos: Path, films: Films, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        run(tmp_path, films, **wrong)
    assert not (tmp_path / "features" / "films" / "features").exists()


def test_batches_shrink_when_memory_runs_out(tmp_path: Path, videos: Path, films: Films) -> None:
    class Tight(MeanColour):
        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            if len(frames) > 3:
                raise torch.OutOfMemoryError("no room")
            return super().forward(frames)

    assert run(tmp_path, films, Tight(), sampling=Sampling(fps=4.0), batch_size=8).status == {"ok": 6}

    class Full(MeanColour):
        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("no room")

    with pytest.raises(SupportsetError, match="one step does not fit"):
        run(tmp_path, films, Full(), sampling=Sampling(frames=2))


def test_real_clips(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "clips"
    films: Films = {path.stem: str(path.relative_to(folder)) for path in sorted(folder.rglob("*.*"))}
    dataset = dataset_of(tmp_path / "features", films)
    sampling = Sampling(frames=1)
    summary = extract(
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
    assert "sets the pace" in shown.err
    assert "7 of 7 clips" in shown.err.splitlines()[-1]
