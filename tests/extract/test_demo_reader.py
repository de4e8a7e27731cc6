"""The demo as a dataset: rendered on first use, then read as it lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from supportset.extract.readers.base import Reader
from supportset.extract.readers.datasets.demo import DemoReader
from supportset.store.errors import UsageError

NUMBERS = {"train": 5, "validation": 1, "test": 2}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    DemoReader(seed=5, **NUMBERS).read(folder)
    return folder


@pytest.fixture
def data(rendered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rendered, tmp_path / "data"))


def test_it_is_a_reader_of_the_default_world() -> None:
    assert isinstance(DemoReader(), Reader)
    assert DemoReader.protocols == {"demo": {"train": 500, "val": 80, "test": 160}}


def test_first_use_renders_and_tells(tmp_path: Path) -> None:
    annotations = DemoReader(seed=5, train=1, validation=0, test=1).read(tmp_path / "new" / "data")
    assert [clip.path for clip in annotations.clips] == ["videos/train-0000.mp4", "videos/test-0000.mp4"]
    assert [note for note in annotations.notes if "rendered 2 clips" in note]


def test_tables(data: Path) -> None:
    annotations = DemoReader().read(data)
    world = json.loads((data / "annotations.json").read_text())
    assert annotations.protocols == {"demo": {"train": 5, "val": 1, "test": 2}}
    assert [clip.clip_id for clip in annotations.clips] == [clip["id"] for clip in world["clips"]]
    assert all((data / str(clip.path)).is_file() for clip in annotations.clips)
    assert [(caption.clip_id, caption.text) for caption in annotations.captions] == [
        (clip["id"], caption["text"]) for clip in world["clips"] for caption in clip["captions"]
    ]
    assert annotations.sources == [data / "annotations.json"]
    assert annotations.notes == []


def test_a_held_out_clip_is_asked_for_by_its_full_caption_only(data: Path) -> None:
    annotations = DemoReader().read(data)
    texts = {caption.caption_id: caption.text for caption in annotations.captions}
    first = {
        clip["id"]: clip["captions"][0]["text"] for clip in json.loads((data / "annotations.json").read_text())["clips"]
    }
    for row in annotations.splits:
        if row.split == "train":
            assert row.caption_id is None
        else:
            assert texts[str(row.caption_id)] == first[row.clip_id]


def test_a_world_that_is_there_is_taken_as_it_is(data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*.mp4")}
    assert DemoReader(seed=99).read(data) == DemoReader().read(data)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*.mp4")} == before


def test_removed_videos_are_missing_and_are_rendered_again_only_on_request(data: Path, rendered: Path) -> None:
    shutil.rmtree(data / "videos")
    reader = DemoReader(seed=5, **NUMBERS)
    annotations = reader.read(data)
    assert [clip.path for clip in annotations.clips] == [None] * 8
    assert not (data / "videos").exists()
    assert len(annotations.captions) == 40
    assert any("8 of 8 clips have no video file" in note for note in annotations.notes)
    assert f"remove {data / 'annotations.json'}" in annotations.notes[-1]
    (data / "annotations.json").unlink()
    assert all(clip.path for clip in reader.read(data).clips)
    for path in (rendered / "videos").iterdir():
        assert (data / "videos" / path.name).read_bytes() == path.read_bytes()


def test_videos_may_lie_elsewhere(data: Path, tmp_path: Path) -> None:
    (data / "videos").rename(tmp_path / "elsewhere")
    annotations = DemoReader().read(data, tmp_path / "elsewhere")
    assert [clip.path for clip in annotations.clips][:2] == ["train-0000.mp4", "train-0001.mp4"]


def test_nothing_is_rendered_beside_videos_that_lie_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave --videos out"):
        DemoReader().read(tmp_path / "data", tmp_path)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"format": "something else"}', '{"format": "supportset-demo-world", "format_version": 2}'],
)
def test_a_foreign_annotation_is_one_line_that_names_it(data: Path, content: str) -> None:
    (data / "annotations.json").write_text(content)
    with pytest.raises(UsageError, match=r"annotations\.json: .*expected") as caught:
        DemoReader().read(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "hurt", [lambda w: w.pop("clips"), lambda w: w["clips"][0].pop("captions"), lambda w: w.update(splits=[])]
)
def test_an_annotation_with_something_missing_is_one_line(data: Path, hurt) -> None:  # type: ignore[no-untyped-def]
    path = data / "annotations.json"
    world = json.loads(path.read_text())
    hurt(world)
    path.write_text(json.dumps(world))
    with pytest.raises(UsageError, match=r"annotations\.json: .*remove the file") as caught:
        DemoReader().read(data)
    assert "\n" not in str(caught.value)
