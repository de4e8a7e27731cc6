"""One walk, then look-ups: which file is taken, and what is told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from supportset.extract.readers.locate import FileTree
from supportset.extract.readers.videos import find_videos, match_files
from supportset.store.errors import UsageError
from tests.extract.readers.forms import touch


def test_files_are_found_anywhere_whatever_their_extension(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/c/one.MP4", "two.weird", "three", "x/four.gif", "five.mp4.part", "six.info.json")
    wanted = ["one", "two", "three", "four", "five", "six", "seven"]
    assert find_videos(tmp_path, iter(wanted)) == {
        "one": "a/b/c/one.MP4",
        "two": "two.weird",
        "three": "three",
        "four": "x/four.gif",
    }


@pytest.mark.parametrize("extension", ["npy", "NPZ", "json", "txt", "srt", "wav", "jpg", "pt", "part", "h5", "csv"])
def test_what_is_no_video_never_matches(tmp_path: Path, extension: str) -> None:
    touch(tmp_path, f"one.{extension}")
    assert find_videos(tmp_path, ["one"]) == {}
    touch(tmp_path, "deep/er/one.unknown")
    assert find_videos(tmp_path, ["one"]) == {"one": "deep/er/one.unknown"}


def test_names_are_exact(tmp_path: Path) -> None:
    """YouTube ids differ in the case of letters alone."""
    touch(tmp_path, "aBc.mp4", "abc1.mp4", "1abc.mp4", "abc .mp4")
    assert find_videos(tmp_path, ["abc", "aBc"]) == {"aBc": "aBc.mp4"}


def test_several_files_of_one_name(tmp_path: Path) -> None:
    """Video before animation before unknown; then the shallower; then by name. It is told once."""
    touch(tmp_path, "z/one.avi", "deep/er/one.mp4", "one.gif", "one.unknown", "a/two.mp4", "b/two.mp4", "c/three.mp4")
    found, notes = match_files(FileTree(tmp_path), ["one", "two", "three"])
    assert found == {"one": "z/one.avi", "two": "a/two.mp4", "three": "c/three.mp4"}
    assert len(notes) == 1
    assert notes[0].startswith("2 clips have several files of their name below ")
    reversed_order, _ = match_files(FileTree(tmp_path), ["three", "two", "one"])
    assert reversed_order == found


def test_images_only_where_asked(tmp_path: Path) -> None:
    touch(tmp_path, "one.jpg", "one.mp4", "two.JPEG")
    assert match_files(FileTree(tmp_path), ["one", "two"])[0] == {"one": "one.mp4"}
    assert match_files(FileTree(tmp_path), ["one", "two"], images=True)[0] == {"one": "one.jpg", "two": "two.JPEG"}


def test_links(tmp_path: Path) -> None:
    """A linked folder is followed, a circle is walked once, a link to nowhere is no video."""
    touch(tmp_path, "elsewhere/one.mp4")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "sub" / "circle").symlink_to(root, target_is_directory=True)
    (root / "two.mp4").symlink_to(tmp_path / "absent.mp4")
    touch(root, "sub/two.mkv")
    assert find_videos(root, ["one", "two"]) == {"one": "sub/linked/one.mp4", "two": "sub/two.mkv"}


def test_hidden_files_and_arrays_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, ".cache/one.mp4", "._one.mp4", "store.zarr/one", "x/.y/one.mp4")
    assert FileTree(tmp_path).files == []


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_names_that_are_no_text_are_told(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.mp4", "wb"):
        pass
    touch(tmp_path, "one.mp4")
    tree = FileTree(tmp_path)
    assert tree.files == ["one.mp4"]
    assert len(tree.notes) == 1
    assert tree.notes[0].endswith("left out, their names are not UTF-8 (first: 'caf\\udce9.mp4'); rename them")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list every folder")
def test_folders_that_cannot_be_listed_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "closed/one.mp4", "two.mp4")
    (tmp_path / "closed").chmod(0)
    try:
        tree = FileTree(tmp_path)
        with pytest.raises(UsageError, match="cannot be listed"):
            FileTree(tmp_path / "closed")
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert tree.files == ["two.mp4"]
    assert "cannot be listed: Permission denied" in tree.notes[0]


def test_annotation_is_found_once(tmp_path: Path) -> None:
    touch(tmp_path, "b/deep/List.TXT", "z/list.txt", "y/list.txt", "y/main.json")
    tree = FileTree(tmp_path)
    assert tree.find("absent", "list.txt") == tmp_path / "y/list.txt"
    assert tree.notes == ["y/list.txt is read, z/list.txt (and 1 more) of the same name is not"]
    assert tree.find("list.txt", beside=tmp_path / "b/deep/x.json") == tmp_path / "b/deep/List.TXT"
    assert len(tree.notes) == 1, "a choice that the neighbour settles is not told"
    assert tree.find("absent") is None


def test_no_folder(tmp_path: Path) -> None:
    touch(tmp_path, "file")
    with pytest.raises(UsageError) as error:
        FileTree(tmp_path / "absent", option="--videos")
    assert str(error.value) == f"--videos {tmp_path / 'absent'}: no such folder; name the folder that holds the files"
    with pytest.raises(UsageError, match=r"--data .*file: not a folder"):
        FileTree(tmp_path / "file")
