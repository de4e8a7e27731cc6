"""Thumbnails on the command line: on for a folder, made later, verified, removed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from supportset.commands.main import cli
from supportset.store.read.catalog import FeatureSetInfo, list_feature_sets
from supportset.store.read.thumbnails import Thumbnails
from tests.extract.fakes import MeanColour
from tests.extract.films import write_video

pytestmark = pytest.mark.slow


def ask(*words: object, code: int = 0, answer: str | None = None) -> Result:
    result = CliRunner().invoke(cli, [str(word) for word in words], input=answer)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("supportset.extract.backbones.load_backbone", lambda name: MeanColour())
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(3):
        write_video(folder / f"{number}.mp4", 50 + 50 * number, size=(320, 180))
    return folder


def extract(*more: object, code: int = 0) -> Result:
    return ask("extract", "folder", "--data", "mine", "--device", "cpu", "--workers", 1, *more, code=code)


def info() -> FeatureSetInfo:
    (found,) = list_feature_sets("features", "mine")
    return found


def pictures() -> dict[str, list[bytes | None]]:
    """Every thumbnail of every clip."""
    found = Thumbnails.open(info().path)
    if found is None:
        return {}
    return {clip: [found.read(clip, start) for start, _ in found.spans(clip)] for clip in sorted(found.clip_ids)}


def told(result: Result) -> Any:
    return json.loads(result.stdout)


def test_a_folder_has_them_unless_told_otherwise(videos: Path) -> None:
    assert told(extract("--json"))["thumbnails"] is None
    assert {clip: len(of_clip) for clip, of_clip in pictures().items()} == {"0": 2, "1": 4, "2": 6}
    shutil.rmtree("features")
    extract("--no-thumbnails")
    assert pictures() == {}
    made = told(extract("--json", "--max-thumbnails", 3))["thumbnails"]
    assert (made["made"], made["pictures"], made["done"]) == (3, 8, 0)
    assert [len(of_clip) for of_clip in pictures().values()] == [2, 3, 3]


def test_other_datasets_have_them_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supportset.extract.backbones.load_backbone", lambda name: MeanColour())
    monkeypatch.chdir(tmp_path)
    asked: list[int] = []
    monkeypatch.setattr("supportset.extract.run.extract", lambda *given: asked.append(given[-1].thumbnails))
    (tmp_path / "msvd").mkdir()
    write_video(tmp_path / "msvd" / "a_1_2.avi", 10, codec="mpeg4")
    (tmp_path / "msvd" / "AllVideoDescriptions.txt").write_text("a_1_2 a thing\n")
    for option, expected in (((), 0), (("--thumbnails",), 60), (("--thumbnails", "--max-thumbnails", "7"), 7)):
        CliRunner().invoke(cli, ["extract", "msvd", "--data", "msvd", "--device", "cpu", *option])
        assert asked.pop() == expected


def test_made_later(videos: Path) -> None:
    extract()
    taken = pictures()
    ask("store", "rm", "mine/fake", "--thumbnails", answer="n\n", code=1)
    result = ask("store", "rm", "mine/fake", "--thumbnails", answer="y\n")
    assert "thumbnails (thumbnails), " in result.stderr
    assert pictures() == {}
    result = ask("store", "thumbnails", "mine/fake", "--workers", 1, "--json")
    assert (told(result)["made"], told(result)["pictures"], told(result)["feature_set"]) == (3, 12, info().name)
    assert pictures() == taken
    result = ask("store", "thumbnails", "mine")
    assert "0 pictures of 0 clips" in result.stderr
    assert "3 clips had theirs" in result.stderr


def test_what_cannot_be_made_is_listed(videos: Path) -> None:
    extract("--no-thumbnails")
    (videos / "0.mp4").rename(videos / "zero.mp4")
    shutil.copyfile(videos / "2.mp4", videos / "1.mp4")
    result = ask("store", "thumbnails", "mine", "--workers", 1)
    assert "1 clips have no video there\n  0\n" in result.stderr
    assert "1 clips have another video: `extract` first\n  1\n" in result.stderr
    assert list(pictures()) == ["2"]
    shutil.rmtree(videos)
    assert "no such folder of videos" in ask("store", "thumbnails", "mine", code=2).stderr


def test_failures_are_listed_and_counted(videos: Path) -> None:
    extract("--no-thumbnails")
    file = videos / "1.mp4"
    stamp = file.stat()
    file.write_bytes(bytes(stamp.st_size))
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    result = ask("store", "thumbnails", "mine", "--workers", 1, code=1)
    assert "\n  1: unreadable, " in result.stderr
    assert "1 of 3 clips have no thumbnails, more than 5%" in result.stderr
    ask("store", "thumbnails", "mine", "--workers", 1)
    ask("store", "thumbnails", "mine", "--workers", 1, "--retry-failed", "--max-failures", "100%")


def test_renamed_file_keeps_them(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract()
    before = pictures()
    (videos / "2.mp4").rename(videos / "party.mp4")
    assert told(extract("--json"))["thumbnails"] is None, "nothing was decoded"
    assert pictures() == before | {"party": before["2"]}
    ask("store", "prune", "mine", "--yes")
    assert list(pictures()) == ["0", "1", "party"]
    assert told(ask("store", "verify", "--json"))["problems"] == 0


def test_flipped_byte(videos: Path) -> None:
    extract()
    before = pictures()
    (file,) = Path(str(info().path)).glob("thumbnails/shards/*.zarr/values/c.0.0")
    content = bytearray(file.read_bytes())
    content[content.index(before["1"][2] or b"-") + 99] ^= 1
    file.write_bytes(content)
    result = ask("store", "verify", code=1)
    assert f"content: {file}: its content differs from what was written" in result.stderr
    assert ", thumbnails: 3 clips in 1 shards" in result.stdout
    dropped = told(ask("store", "verify", "--drop-damaged", "--json"))["sets"][0]
    assert (dropped["thumbnails"]["dropped_clips"], "dropped_clips" in dropped) == (["1"], False)
    assert list(pictures()) == ["0", "2"]
    assert told(extract("--json"))["thumbnails"]["made"] == 1
    assert pictures() == before


def test_upkeep_tells_of_both(videos: Path) -> None:
    extract("--limit", 1)
    extract()
    before = pictures()
    lines = ask("store", "compact", "mine", "--now").stdout.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["2 shards are now 1"] * 2
    lines = ask("store", "convert", "mine", "--to", "hdf5", "--compress", "gzip").stdout.splitlines()
    assert ["(gzip:3)" in line for line in lines] == [True, False]
    assert pictures() == before
    assert "thumbnails    3 clips" in ask("store", "show", "mine").stdout
    ask("store", "rm", "mine", "--dataset", "--thumbnails", "--yes", code=2)
    ask("store", "rm", "mine/fake", "--yes")
    assert not list_feature_sets("features", "mine")


def test_text_has_none(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from supportset.store.read.catalog import feature_set_path
    from supportset.store.write.writer import FeatureWriter
    from tests.store.samples import card, clip

    extract("--annotations-only")
    of_text = card(kind="text")
    with FeatureWriter(feature_set_path("features", "mine", of_text.recipe), of_text) as writer:
        writer.add("caption", *clip(1))
    assert "only videos have thumbnails" in ask("store", "thumbnails", "mine", code=2).stderr
