"""One run over a folder of odd, damaged and hostile files: the right fate for each, and nothing lost.

Pictures are compared with ``ffmpeg -i FILE -vf setpts=PTS-STARTPTS,fps=fps=2:round=near -pix_fmt rgb24`` (through
filter graphs of PyAV), with ``transpose`` or ``hflip,vflip`` before it where the program itself would turn the picture.
Neither side deinterlaces, or makes pixels square.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supportset.extract.decode.sampling import Sampling
from supportset.extract.progress.summary import Summary
from supportset.store.format.status import DAMAGED, MISSING, OK
from supportset.store.read.feature_set import FeatureSet
from tests.extract import torture
from tests.extract.fakes import MeanColour, dataset_of
from tests.extract.films import filtered
from tests.extract.fragile import Poisons, Shrink
from tests.extract.runs import extract_with
from tests.extract.torture import CASES, FPS, READABLE, Case

pytestmark = pytest.mark.slow

REAL = 4  # clips, where there are any
PARTS = {f"part {k} of constant": (0.3 * k, 0.3 * k + 0.8) for k in range(4)}  # clips that share a source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    videos = tmp_path_factory.mktemp("torture") / "videos"
    videos.mkdir()
    for name, case in CASES.items():
        case.make(videos / name)
    clips = Path(__file__).resolve().parents[3] / "shared" / "data" / "clips"
    for clip in sorted(clips.rglob("*.mp4"))[:REAL] if clips.is_dir() else ():
        (videos / f"real-{clip.name}").symlink_to(clip)
    return videos.parent


def run(folder: Path, **options: Any) -> Summary:
    paths: dict[str, str | None] = {path.name: path.name for path in sorted((folder / "videos").iterdir())}
    paths |= dict.fromkeys(PARTS, "constant.mp4") | {"gone": "gone.mp4", "never found": None}
    return extract_with(
        dataset_of(folder / "features", paths, **PARTS),
        folder / "features",
        folder / "videos",
        MeanColour(transform=Poisons()),
        Sampling(fps=float(FPS)),
        workers=2,
        batch_size=16,
        device="cpu",
        dtype="float32",
        timeout=5.0,
        progress=False,
        **options,
    )


@pytest.fixture(scope="module")
def first(folder: Path) -> Summary:
    return run(folder)


@pytest.fixture(scope="module")
def rows(first: Summary) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in FeatureSet.open(first.path).rows().to_pylist()}


def test_nothing_is_lost(folder: Path, first: Summary, rows: dict[str, dict[str, Any]]) -> None:
    names = {path.name for path in (folder / "videos").iterdir()}
    assert set(rows) == names | set(PARTS) | {"gone", "never found"}
    assert first.clips == len(rows) == sum(first.status.values())
    assert first.exit_code == 1


@pytest.mark.parametrize("name", CASES)
def test_fate(name: str, rows: dict[str, dict[str, Any]]) -> None:
    row, case = rows[name], CASES[name]
    assert row["status"] == case.status, row["message"]
    assert case.says in row["message"]
    assert "\n" not in row["message"]


@pytest.mark.parametrize("name", [name for name in READABLE | torture.DAMAGED if CASES[name].images])
def test_pictures_are_those_of_ffmpeg(folder: Path, first: Summary, name: str) -> None:
    check_pictures(folder, first, name, CASES[name])


def test_real_clips(shared_data: Path, folder: Path, first: Summary) -> None:
    names = [path.name for path in (folder / "videos").iterdir() if path.name.startswith("real-")]
    assert len(names) == REAL
    for name in names:
        check_pictures(folder, first, name, Case(Path.touch))


def check_pictures(folder: Path, first: Summary, name: str, case: Case) -> None:
    assert case.images is not None
    images = case.images(folder / "videos" / name)
    values = FeatureSet.open(first.path).read([name])[0]
    assert len(images) in (len(values), len(values) + 1)  # the filter may guess another length of the last frame
    shrunk = [Shrink()(image).reshape(-1, 3).astype(np.float64).mean(0) for image in images[: len(values)]]
    np.testing.assert_allclose(values, shrunk, rtol=1e-6)


def test_clips_of_one_file(folder: Path, first: Summary, rows: dict[str, dict[str, Any]]) -> None:
    images = filtered(folder / "videos" / "constant.mp4")
    for name, (start, end) in PARTS.items():
        assert rows[name]["status"] == OK
        count = max(1, int((end - start) * FPS + 0.5))
        values = FeatureSet.open(first.path).read([name])[0]
        assert len(values) == count
        shown = [images[int(np.ceil((start + (k + 0.5) / FPS) * 25 - 1e-9)) - 1] for k in range(count)]
        np.testing.assert_allclose(values, [Shrink()(image).reshape(-1, 3).mean(0) for image in shown], rtol=1e-6)


def test_damaged_clips_keep_what_could_be_had(first: Summary, rows: dict[str, dict[str, Any]]) -> None:
    stored = FeatureSet.open(first.path)
    kept = [name for name, row in rows.items() if row["status"] == DAMAGED and row["length"]]
    assert len(kept) >= 20
    for name in kept:
        assert np.isfinite(stored.read([name])[0]).all()
        assert len(stored.read([name])[0]) <= 2 * 3 + 1, "no damage makes a clip longer"


def test_second_run_does_nothing_and_a_third_retries_failures_only(
    folder: Path, first: Summary, rows: dict[str, dict[str, Any]]
) -> None:
    shards = sorted(Path(first.path).glob("shards/*"))
    second = run(folder)
    assert second.status == first.status
    assert sorted(Path(first.path).glob("shards/*")) == shards
    third = run(folder, retry_failed=True)
    assert third.status == first.status
    for row in FeatureSet.open(third.path).rows().to_pylist():
        tried_again = row["status"] != MISSING and not row["length"]
        assert row["generation"] == rows[row["clip_id"]]["generation"] + tried_again, row["clip_id"]
        assert row["message"].partition(" (")[0] == rows[row["clip_id"]]["message"].partition(" (")[0]
