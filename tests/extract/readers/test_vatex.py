"""VATEX: official and re-packed form, and the three ways to give the halves of the validation set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from supportset.extract.readers import Annotations, get_reader
from supportset.store.errors import UsageError
from tests.extract.readers.forms import assert_consistent, members, paths, sizes, stored, texts, touch, write

READER = get_reader("vatex")
TRAIN = ["tr_ain-0001_000000_000010", "tr_ain-0002_000003_000013"]
VALIDATION = [f"val{i}_00000{i}_00001{i}" for i in range(4)]
PUBLIC = ["pub_000005_000015"]


def entries(clips: list[str]) -> list[dict[str, object]]:
    return [{"videoID": clip, "enCap": [f"{clip} one", f"{clip} two"], "chCap": ["风筝"]} for clip in clips]


@pytest.fixture
def official(tmp_path: Path) -> Path:
    write(tmp_path / "vatex_training_v1.0.json", entries(TRAIN))
    write(tmp_path / "vatex_validation_v1.0.json", entries(VALIDATION))
    write(tmp_path / "vatex_public_test_english_v1.1.json", entries(PUBLIC))
    return tmp_path


def clips_of(data: Annotations, split: str) -> list[str]:
    return [clip for clip, _ in members(data, "vatex-1500", split)]


def test_official_form_without_a_list(official: Path) -> None:
    touch(official, f"v/{TRAIN[0]}.mp4")
    data = READER.read(official)
    assert_consistent(data)
    assert list(paths(data)) == TRAIN + VALIDATION + PUBLIC
    assert paths(data)[TRAIN[0]] == f"v/{TRAIN[0]}.mp4"
    assert data.clips[0].source == "tr_ain-0001"
    assert texts(data, TRAIN[0]) == [f"{TRAIN[0]} one", f"{TRAIN[0]} two"], "English only"
    assert sizes(data) == {
        ("vatex-1500", "train"): 2,
        ("vatex-public", "train"): 2,
        ("vatex-public", "val"): 4,
        ("vatex-public", "test"): 1,
    }
    told = "no descs_ret_test.json or vatex_test_list.txt or test_list.txt or tst_names.npy"
    assert f"{told} below {official}: test of vatex-1500 and val of vatex-1500 left empty" in data.notes
    assert data.protocols["vatex-1500"] == {"train": 25991, "val": 1500, "test": 1500}


@pytest.mark.parametrize("name", ["vatex_test_list.txt", "test_list.txt", "tst_names.npy"])
def test_list_of_test_clips(official: Path, name: str) -> None:
    test = [VALIDATION[2], VALIDATION[0]]
    if name.endswith(".npy"):
        (official / "public_split").mkdir()
        np.save(official / "public_split" / name, np.array(test))
    else:
        write(official / "public_split" / name, "\n".join(test))
    data = READER.read(official)
    assert_consistent(data)
    assert clips_of(data, "test") == test
    assert clips_of(data, "val") == [VALIDATION[1], VALIDATION[3]], "the other half"


def test_list_of_validation_clips(official: Path) -> None:
    write(official / "val_list.txt", f"{VALIDATION[1]}\n")
    data = READER.read(official)
    assert clips_of(data, "val") == [VALIDATION[1]]
    assert clips_of(data, "test") == [VALIDATION[0], *VALIDATION[2:]]
    write(official / "vatex_test_list.txt", f"{VALIDATION[0]}\n")
    data = READER.read(official)
    assert (clips_of(data, "val"), clips_of(data, "test")) == ([VALIDATION[1]], [VALIDATION[0]]), "each as listed"


def test_repacked_form(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    repacked = [{"video_id": clip, "desc": [f"{clip} one", f"{clip} two"], "subtitle": ""} for clip in VALIDATION[:2]]
    write(tmp_path / "descs_ret_test.json", repacked)
    data = READER.read(tmp_path)
    assert_consistent(data)
    assert sizes(data) == {("vatex-1500", "test"): 2}
    dataset = stored(data, tmp_path_factory.mktemp("store"))
    assert [c.text for c in dataset.split_captions("vatex-1500", "test")][:2] == repacked[0]["desc"]
    assert any("vatex_training_v1.0.json" in note and "train of vatex-1500" in note for note in data.notes)


def test_repacked_beside_official(official: Path) -> None:
    """It defines the gallery; its clips are those of the validation set, and are not added twice."""
    repacked = [{"video_id": VALIDATION[3], "desc": [f"{VALIDATION[3]} one", "another"]}]
    write(official / "descs_ret_test.json", repacked)
    data = READER.read(official)
    assert_consistent(data)
    assert clips_of(data, "test") == [VALIDATION[3]]
    assert clips_of(data, "val") == VALIDATION[:3]
    assert texts(data, VALIDATION[3]) == [f"{VALIDATION[3]} one", f"{VALIDATION[3]} two"]
    kept = "1 clips of descs_ret_test.json have other captions officially, which are kept"
    assert any(note.startswith(kept) for note in data.notes)


def test_lists_of_another_dataset_are_not_taken(official: Path) -> None:
    write(official / "msvd/val_list.txt", "x_1_2\n")
    data = READER.read(official)
    assert ("vatex-1500", "test") not in sizes(data), "the rest of a foreign list would be the whole validation set"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "{path}: holds a JSON object; expected [{"),
        ('[{"videoID": "a_1_2"}]', "{path}: [0] has no key 'enCap' (found: videoID)"),
        ('[{"videoID": "a_1_2", "enCap": ["x"]}, {"videoID": "a_1_2", "enCap": []}]', "{path}: [1] describes 'a_1_2'"),
        ('[{"videoID": "a_1_2", "enCap": ["x", null]}]', "{path}: [0].enCap[1] is a JSON null, expected a string"),
        ("[", "{path}: line 1, column 2: not valid JSON"),
    ],
)  # fmt: skip
def test_malformed(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path / "vatex_training_v1.0.json", content)
    with pytest.raises(UsageError) as error:
        READER.read(tmp_path)
    assert str(error.value).startswith(message.replace("{path}", str(path)))


def test_pickled_list_is_refused(official: Path) -> None:
    np.save(official / "tst_names.npy", np.array([VALIDATION[0]], dtype=object), allow_pickle=True)
    with pytest.raises(
        UsageError, match=r"tst_names.npy: not a NumPy array of strings .*; write the ids to a text file"
    ):
        READER.read(official)
    np.save(official / "tst_names.npy", np.arange(3))
    with pytest.raises(UsageError, match=r"an array of int64, expected one of strings"):
        READER.read(official)


def test_no_annotation(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        READER.read(tmp_path)
    start = "vatex: no vatex_training_v1.0.json, vatex_validation_v1.0.json, vatex_public_test_english_v1.1.json or"
    assert str(error.value).startswith(f"{start} descs_ret_test.json in {tmp_path} or its sub-folders; expected ")


def test_real_counts(shared_data: Path) -> None:
    data = READER.read(shared_data / "vatex")
    assert_consistent(data)
    assert (len(data.clips), len(data.captions)) == (1_500, 15_000)
    assert sizes(data) == {("vatex-1500", "test"): 1_500}
    assert all(len(row.source or "") == 11 for row in data.clips), "YouTube ids"
