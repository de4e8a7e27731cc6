"""Flickr8k: both forms of the captions, lists that are absent, and the real counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from supportset.extract.readers import get_reader
from supportset.store.errors import UsageError
from tests.extract.readers.forms import assert_consistent, members, paths, sizes, stored, texts, touch, write

READER = get_reader("flickr8k")
CAPTIONS = {
    "11_aa": ["A kite , high up .", 'A sign says "wind" .'],
    "22_bb": ['"Wind" says the sign , twice .'],
    "33_cc": ["Soup ."],
    "44_dd": ["Snow ."],
}


def csv_line(image: str, text: str) -> str:
    quoted = '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text
    return f"{image}.jpg,{quoted}"


@pytest.fixture(params=["csv", "tokens"])
def official(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same invented dataset in either form: 11, 22 are there and listed; 33 is only listed, 44 only there."""
    if request.param == "csv":
        lines = [csv_line(image, text) for image, of_image in CAPTIONS.items() for text in of_image]
        write(tmp_path / "captions.txt", "image,caption\n" + "\n".join(lines) + "\n")
    else:
        lines = [f"{image}.jpg#{i}\t{text}" for image, of_image in CAPTIONS.items() for i, text in enumerate(of_image)]
        write(tmp_path / "Flickr8k_text/Flickr8k.token.txt", "\n".join(lines) + "\n")
    touch(tmp_path, "Images/11_aa.jpg", "Images/22_bb.JPG", "Images/44_dd.jpg", "Images/55_ee.jpg")
    write(tmp_path / "text/Flickr_8k.trainImages.txt", "11_aa.jpg\n33_cc.jpg\n")
    write(tmp_path / "text/Flickr_8k.devImages.txt", "22_bb.jpg\r\n")
    return tmp_path


def test_official_forms(official: Path) -> None:
    data = READER.read(official)
    assert_consistent(data)
    assert paths(data) == {
        "11_aa": "Images/11_aa.jpg",
        "22_bb": "Images/22_bb.JPG",
        "33_cc": None,
        "44_dd": "Images/44_dd.jpg",
    }
    assert {image: texts(data, image) for image in CAPTIONS} == CAPTIONS
    assert members(data, "flickr8k", "train") == [("11_aa", None), ("33_cc", None)]
    assert members(data, "flickr8k", "dev") == [("22_bb", None)]
    assert sizes(data) == {("flickr8k", "train"): 2, ("flickr8k", "dev"): 1}
    assert f"no Flickr_8k.testImages.txt below {official}: test of flickr8k left empty" in data.notes
    assert f"1 of 4 clips have no video file below {official} (first: '33_cc')" in data.notes


def test_neither_there_nor_listed(official: Path) -> None:
    (official / "Images/44_dd.jpg").unlink()
    data = READER.read(official)
    assert "44_dd" not in paths(data)
    told = "left out, there is no such file and no list names them (first: '44_dd')"
    assert any(note.startswith("1 images of ") and note.endswith(told) for note in data.notes)


def test_goes_into_the_store(official: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    dataset = stored(READER.read(official), tmp_path_factory.mktemp("store"))
    assert [caption.text for caption in dataset.split_captions("flickr8k", "dev")] == CAPTIONS["22_bb"]
    assert dataset.split_clips("flickr8k", "test") == []
    assert dataset.expected("flickr8k", "test") == 1000


def test_unquoted_commas(tmp_path: Path) -> None:
    """Some copies of captions.txt do not quote; a caption's own quotation marks stay."""
    touch(tmp_path, "1_a.jpg")
    write(tmp_path / "captions.txt", 'image,caption\n1_a.jpg,A kite , high up .\n1_a.jpg,"Up , up" says he\n')
    assert texts(READER.read(tmp_path), "1_a") == ["A kite , high up .", '"Up , up" says he']


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.txt", "a kite\n", "{path}: line 1: 'a kite'; expected a header line 'image,caption'"),
        ("captions.txt", "image,caption\n\n1_a.jpg no comma\n", "{path}: line 3: no comma between image and caption"),
        ("captions.txt", "image,caption\n", "{path}: holds no caption; expected"),
        ("captions.txt", "", "{path}: line 1: ''; expected a header line 'image,caption'"),
        ("Flickr8k.token.txt", "1_a.jpg#0 A kite\n", "{path}: line 1: '1_a.jpg#0 A kite'; expected lines 'NAME."),
        ("Flickr8k.token.txt", "1_a.jpg\tA kite\n", "{path}: line 1: '1_a.jpg\\tA kite'; expected lines"),
    ],
)  # fmt: skip
def test_malformed(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UsageError) as error:
        READER.read(tmp_path)
    assert str(error.value).startswith(message.replace("{path}", str(path)))


def test_no_annotation(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        READER.read(tmp_path)
    start = f"flickr8k: no captions.txt or Flickr8k.token.txt in {tmp_path} or its sub-folders; expected a header line"
    assert str(error.value).startswith(start)


def test_real_counts(shared_data: Path) -> None:
    data = READER.read(shared_data / "flickr8k")
    assert_consistent(data)
    assert sizes(data) == {("flickr8k", "train"): 6_000, ("flickr8k", "dev"): 1_000}
    assert (len(data.clips), len(data.captions)) == (7_091, 35_455)
    assert all(row.path == f"images/{row.clip_id}.jpg" for row in data.clips)
    assert len(data.notes) == 1
    assert data.notes[0].startswith("no Flickr_8k.testImages.txt below ")
