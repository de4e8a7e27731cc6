"""What every reader must say of itself, and the answer to a name that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from supportset.extract.readers import Reader, get_reader, reader_names
from supportset.store.errors import UsageError
from tests.extract.readers.forms import touch

OFFICIAL = ("msrvtt", "msvd", "vatex", "activitynet", "flickr8k")


@pytest.mark.parametrize("name", reader_names())
def test_readers_describe_themselves(name: str) -> None:
    reader = get_reader(name)
    assert isinstance(reader, Reader)
    assert reader.name == name
    for words in (reader.summary, reader.expects):
        assert words
        assert "\n" not in words
    assert all(protocol.startswith(name) and splits for protocol, splits in reader.protocols.items())


def test_the_datasets_of_the_readme() -> None:
    assert set(reader_names()) == {*OFFICIAL, "folder", "demo"}


def test_unknown_name() -> None:
    with pytest.raises(
        UsageError, match=r"dataset 'msrvt' is unknown \(did you mean msrvtt.*\?\): known are activitynet, demo"
    ):
        get_reader("msrvt")


@pytest.mark.parametrize("name", [*OFFICIAL, "folder"])
def test_absent_folders(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--data .*nowhere: no such folder"):
        get_reader(name).read(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"--videos .*nowhere: no such folder"):
        get_reader(name).read(tmp_path, tmp_path / "nowhere")


@pytest.mark.parametrize("name", OFFICIAL)
def test_empty_folder_names_the_file_the_place_and_the_form(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "video0.mp4")
    with pytest.raises(UsageError) as error:
        get_reader(name).read(tmp_path)
    told = str(error.value)
    assert told.startswith(f"{name}: no ")
    assert f"in {tmp_path} or its sub-folders; expected " in told
    assert "\n" not in told
