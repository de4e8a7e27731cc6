"""MSVD: both forms of the captions, the lists, and the real counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from supportset.extract.readers import get_reader
from supportset.store.errors import UsageError
from tests.extract.readers.forms import assert_consistent, members, paths, sizes, stored, texts, touch, write

READER = get_reader("msvd")
ONE, TWO, THREE = "a_b_C-1_3_10", "xy_0_5", "zz_12_20"
CAPTIONS = {ONE: ["a kite rises", "a boy flies a kite"], TWO: ["soup boils"], THREE: ["it snows"]}


def lists(folder: Path) -> None:
    for name, clip in (("train", ONE), ("val", TWO), ("test", THREE)):
        write(folder / f"{name}_list.txt", f"{clip}\n")


@pytest.fixture(params=["json", "text"])
def official(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same invented dataset in either form."""
    if request.param == "json":
        write(tmp_path / "annotation/captions_msvd.json", CAPTIONS)
    else:
        lines = [f"{clip} {text}" for clip, of_clip in CAPTIONS.items() for text in of_clip]
        header = "# VideoID_Start_End Description\r\n#\r\n\r\n"
        write(tmp_path / "annotation/AllVideoDescriptions.txt", header + "\r\n".join(lines) + "\r\n")
    lists(tmp_path / "annotation")
    return tmp_path


def test_official_forms(official: Path) -> None:
    touch(official, f"YouTubeClips/{TWO}.avi", f"{THREE}.gif", f"{ONE}.wav", "a_b_C-1.avi")
    data = READER.read(official)
    assert_consistent(data)
    assert paths(data) == {ONE: None, TWO: f"YouTubeClips/{TWO}.avi", THREE: f"{THREE}.gif"}
    assert {clip: texts(data, clip) for clip in CAPTIONS} == CAPTIONS
    assert [row.source for row in data.clips] == ["a_b_C-1", "xy", "zz"], "ids may hold underscores"
    assert all((row.start_s, row.end_s) == (None, None) for row in data.clips), "the files are already cut"
    assert members(data, "msvd", "train") == [(ONE, None)]
    assert members(data, "msvd", "val") == [(TWO, None)]
    assert members(data, "msvd", "test") == [(THREE, None)]
    assert len(data.sources) == 4
    assert f"1 of 3 clips have no video file below {official} (first: '{ONE}')" in data.notes


def test_goes_into_the_store(official: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    dataset = stored(READER.read(official), tmp_path_factory.mktemp("store"))
    assert [caption.text for caption in dataset.split_captions("msvd", "train")] == CAPTIONS[ONE]


def test_json_before_text(tmp_path: Path) -> None:
    write(tmp_path / "AllVideoDescriptions.txt", "other_1_2 from the text file\n")
    write(tmp_path / "captions_msvd.json", CAPTIONS)
    assert list(paths(READER.read(tmp_path))) == list(CAPTIONS)


def test_lists_of_another_dataset_are_not_taken(tmp_path: Path) -> None:
    write(tmp_path / "a/test_list.txt", "not_of_this\n")
    write(tmp_path / "b/captions_msvd.json", CAPTIONS)
    write(tmp_path / "c/test_list.txt", f"{TWO}\n")
    data = READER.read(tmp_path)
    assert sizes(data) == {("msvd", "test"): 1}
    assert members(data, "msvd", "test") == [(TWO, None)]
    (tmp_path / "c/test_list.txt").unlink()
    data = READER.read(tmp_path)
    assert sizes(data) == {}
    assert any("test_list.txt is not read as a list of this dataset" in note for note in data.notes)
    assert f"no test_list.txt below {tmp_path}: test of msvd left empty" in data.notes


def test_clips_of_no_list_are_kept(official: Path) -> None:
    write(official / "annotation/train_list.txt", f"gone_1_2\n{THREE}\n")
    data = READER.read(official)
    assert_consistent(data)
    assert ONE in paths(data)
    assert "1 clips are in none of the three lists: kept, in no split (first: 'a_b_C-1_3_10')" in data.notes
    listed = (
        "1 entries of annotation/train_list.txt left out of train of msvd, no annotation has them (first: 'gone_1_2')"
    )
    assert listed in data.notes


def test_text_lines_that_say_nothing(tmp_path: Path) -> None:
    write(tmp_path / "AllVideoDescriptions.txt", f"# head\n{ONE} a kite\n{TWO}\n{ONE}  \n")
    data = READER.read(tmp_path)
    assert texts(data, ONE) == ["a kite"]
    assert "2 lines of AllVideoDescriptions.txt left out, they have no caption (first: 'line 3')" in data.notes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("AllVideoDescriptions.txt", "# head\nno id here\n", "{path}: line 2: 'no' is no clip id; expected lines"),
        ("AllVideoDescriptions.txt", "# head\n", "{path}: holds no caption; expected "),
        ("captions_msvd.json", "{}", "{path}: holds no caption; expected "),
        ("captions_msvd.json", '{"x_1_2": "a"}', "{path}: the value of 'x_1_2' is no list of captions; expected "),
        ("captions_msvd.json", '{"x_1_2": ["a", 3]}', "{path}: 'x_1_2'[1] is a JSON number, expected a string"),
        ("captions_msvd.json", '{"x_1_2": ["a"], "x_1_2": ["b"]}', "{path}: not valid JSON (key 'x_1_2' occurs twice"),
        ("captions_msvd.json", "[" * 100_000, "{path}: nested too deeply for an annotation; expected "),
        ("captions_msvd.json", '{"x_1_2": ' + "9" * 5000 + "}", "{path}: not valid JSON (Exceeds the limit"),
        ("captions_msvd.json", '{"x_1_2": ["a"', "{path}: line 1, column 15: not valid JSON ("),
    ],
)  # fmt: skip
def test_malformed(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UsageError) as error:
        READER.read(tmp_path)
    assert str(error.value).startswith(message.replace("{path}", str(path)))
    assert "\n" not in str(error.value)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    write(tmp_path / "sub/raw-captions.pkl", b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(UsageError) as error:
        READER.read(tmp_path)
    told = str(error.value)
    assert told.startswith(f"msvd: no captions_msvd.json or AllVideoDescriptions.txt in {tmp_path} or its sub-folders;")
    assert told.endswith("sub/raw-captions.pkl is a pickle, which can run code when it is opened: not read")


def test_real_counts(shared_data: Path) -> None:
    """Read below the folder of all datasets: what belongs to others changes nothing."""
    data = READER.read(shared_data)
    assert_consistent(data)
    assert (len(data.clips), len(data.captions)) == (1_970, 80_827)
    assert sizes(data) == {("msvd", "train"): 1200, ("msvd", "val"): 100, ("msvd", "test"): 670}
    splits = {split: {clip for clip, _ in members(data, "msvd", split)} for split in ("train", "val", "test")}
    assert len(set.union(*splits.values())) == 1_970
    found = {clip: path for clip, path in paths(data).items() if path}
    assert found == {path.stem: f"clips/msvd/{path.name}" for path in (shared_data / "clips" / "msvd").iterdir()}
    assert len(found) == 9
    assert len({row.source for row in data.clips}) == 1_491
    assert [path.parent.name for path in data.sources] == ["msvd"] * 4
