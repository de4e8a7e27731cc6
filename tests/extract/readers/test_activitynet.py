"""ActivityNet Captions: paragraphs in time order, and two galleries that never mix."""

from __future__ import annotations

from pathlib import Path

import pytest

from supportset.extract.readers import get_reader
from supportset.store.errors import UsageError
from tests.extract.readers.forms import assert_consistent, members, paths, sizes, stored, texts, touch, write

READER = get_reader("activitynet")


def record(*parts: tuple[float, float, str]) -> dict[str, object]:
    return {
        "duration": 60.5,
        "timestamps": [[start, end] for start, end, _ in parts],
        "sentences": [text for _, _, text in parts],
    }


TRAIN = {
    "v_train000001": record((30, 50, " Then it lands."), (0.5, 20.5, "A kite rises. "), (0.5, 4, "A boy runs.")),
    "v_train000002": record((1, 2, "One."), (1, 2, "Two."), (0, 9, "  ")),
}
VAL_1 = {"v_val00000001": record((0, 9, "Soup boils.")), "v_val00000002": record((0, 9, "It snows."))}
VAL_2 = {"v_val00000001": record((3, 9, "then eaten."), (0, 3, "A soup,"))}


@pytest.fixture
def official(tmp_path: Path) -> Path:
    write(tmp_path / "captions/train.json", TRAIN)
    write(tmp_path / "captions/val_1.json", VAL_1)
    write(tmp_path / "captions/val_2.json", VAL_2)
    return tmp_path


def test_official_form(official: Path) -> None:
    touch(official, "videos/v_train000001.mkv", "videos/val00000001.mp4", "v_train000002.jpg", "v_train000002.json")
    data = READER.read(official)
    assert_consistent(data)
    assert paths(data) == {
        "v_train000001": "videos/v_train000001.mkv",
        "v_train000002": None,
        "v_val00000001": "videos/val00000001.mp4",
        "v_val00000002": None,
    }
    assert all((row.start_s, row.end_s) == (None, None) for row in data.clips), "a clip is a whole video"
    assert texts(data, "v_train000001") == ["A boy runs. A kite rises. Then it lands."], "by start, then by end"
    assert texts(data, "v_train000002") == ["One. Two."], "equal times as they stand; no empty sentence"
    assert texts(data, "v_val00000001") == ["Soup boils.", "A soup, then eaten."]
    assert members(data, "activitynet-val1", "train") == [("v_train000001", None), ("v_train000002", None)]
    assert members(data, "activitynet-val2", "train") == members(data, "activitynet-val1", "train")
    assert members(data, "activitynet-val1", "test") == [
        ("v_val00000001", "v_val00000001#val1"),
        ("v_val00000002", "v_val00000002#val1"),
    ]
    assert members(data, "activitynet-val2", "test") == [("v_val00000001", "v_val00000001#val2")]


def test_galleries_never_mix(official: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    dataset = stored(READER.read(official), tmp_path_factory.mktemp("store"))
    first = [caption.text for caption in dataset.split_captions("activitynet-val1", "test")]
    second = [caption.text for caption in dataset.split_captions("activitynet-val2", "test")]
    assert (first, second) == (["Soup boils.", "It snows."], ["A soup, then eaten."])
    assert len(dataset.split_captions("activitynet-val2", "train")) == 2


def test_part_of_the_files(official: Path) -> None:
    (official / "captions/val_2.json").unlink()
    (official / "captions/train.json").unlink()
    data = READER.read(official)
    assert sizes(data) == {("activitynet-val1", "test"): 2}
    told = f"no train.json below {official}: train of activitynet-val1 and train of activitynet-val2 left empty"
    assert told in data.notes
    assert f"no val_2.json below {official}: test of activitynet-val2 left empty" in data.notes


def test_train_json_of_another_dataset(official: Path) -> None:
    """The one beside val_1.json is this dataset's."""
    write(official / "another/train.json", [1, 2])
    write(official / "train.json", [1, 2])
    assert sizes(READER.read(official))["activitynet-val1", "train"] == 2


def test_video_without_words(official: Path) -> None:
    write(official / "captions/val_1.json", VAL_1 | {"v_silent00001": record((0, 1, " "))})
    data = READER.read(official)
    assert_consistent(data)
    assert "v_silent00001" in paths(data)
    assert sizes(data)["activitynet-val1", "test"] == 2
    told = "1 captions of captions/val_1.json left out, they are empty (first: 'v_silent00001#val1')"
    assert told in data.notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "{path}: holds a JSON list; expected {"),
        ('{"v_a": {"timestamps": []}}', "{path}: 'v_a' has no key 'sentences' (found: timestamps)"),
        ('{"v_a": {"timestamps": [[0, 1]], "sentences": []}}', "{path}: 'v_a' has 0 sentences and 1 timestamps"),
        ('{"v_a": {"timestamps": [[0]], "sentences": ["x"]}}', "{path}: 'v_a': timestamp [0] is not [start, end]"),
        ('{"v_a": {"timestamps": [[0, NaN]], "sentences": ["x"]}}', "{path}: 'v_a': timestamp [0, nan] is not"),
        ('{"v_a": {"timestamps": [[0, 1]], "sentences": [["x"]]}}', "{path}: 'v_a'.sentences[0] is a JSON list,"),
        ('{"v_a": 3}', "{path}: 'v_a' is a JSON number, expected an object"),
        ('{"v_a": {', "{path}: line 1, column 10: not valid JSON"),
    ],
)  # fmt: skip
def test_malformed(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path / "train.json", content)
    with pytest.raises(UsageError) as error:
        READER.read(tmp_path)
    assert str(error.value).startswith(message.replace("{path}", str(path)))


def test_no_annotation(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        READER.read(tmp_path)
    start = f"activitynet: no train.json, val_1.json, val_2.json in {tmp_path} or its sub-folders; expected "
    assert str(error.value).startswith(start)


def test_real_counts(shared_data: Path) -> None:
    data = READER.read(shared_data / "activitynet", shared_data / "clips")
    assert_consistent(data)
    assert sizes(data) == {
        ("activitynet-val1", "train"): 10_009,
        ("activitynet-val2", "train"): 10_009,
        ("activitynet-val1", "test"): 4_917,
    }
    assert len(data.clips) == len(data.captions) == 10_009 + 4_917
    assert [(clip, path) for clip, path in paths(data).items() if path] == [
        ("v_GGSY1Qvo990", "activitynet/v_GGSY1Qvo990.mp4")
    ]
