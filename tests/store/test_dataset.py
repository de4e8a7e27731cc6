"""Dataset tables."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import LocalFolder, hash_file
from supportset.store.format.dataset import Caption, list_datasets, open_dataset, write_dataset
from supportset.store.maintain.verify import verify_dataset


def content(tmp_path: Path) -> dict[str, Any]:
    """Two clips of train, one of test with a query sentence of its own."""
    source = tmp_path / "annotation.json"
    source.write_text('{"made": "up"}')
    return {
        "clips": [
            {"clip_id": "a", "path": "a.mp4", "start_s": None, "end_s": None, "source": "tape1"},
            {"clip_id": "b", "path": None, "start_s": 1.5, "end_s": 2.5, "source": "tape1"},
            {"clip_id": "c", "path": "sub/c.webm"},
        ],
        "captions": [
            {"caption_id": "b0", "clip_id": "b", "text": "ein Käfer läuft"},
            {"caption_id": "a0", "clip_id": "a", "text": "a kite climbs"},
            {"caption_id": "a1", "clip_id": "a", "text": ""},
            {"caption_id": "c0", "clip_id": "c", "text": "an official one"},
            {"caption_id": "q0", "clip_id": "c", "text": "a query", "protocol": "small"},
        ],
        "splits": [
            {"protocol": "small-2", "split": "train", "clip_id": "b"},
            {"protocol": "small-2", "split": "train", "clip_id": "a"},
            {"protocol": "small-2", "split": "test", "clip_id": "c", "caption_id": "q0"},
            {"protocol": "full", "split": "train", "clip_id": "a"},
            {"protocol": "full", "split": "train", "clip_id": "a"},
        ],
        "protocols": {"small-2": {"train": 2, "test": 1, "val": 5}, "full": {"train": None}},
        "sources": [source],
    }


def test_round_trip(tmp_path: Path) -> None:
    given = content(tmp_path)
    written = write_dataset(tmp_path, "world", **given)
    for dataset in (written, open_dataset(tmp_path, "world")):
        assert dataset.name == "world"
        assert dataset.protocols() == ["small-2", "full"]
        assert dataset.split_names("small-2") == ["train", "test", "val"]
        assert dataset.split_clips("small-2", "train") == ["b", "a"]
        assert dataset.split_captions("small-2", "train") == [
            Caption("b0", "b", "ein Käfer läuft"),
            Caption("a0", "a", "a kite climbs"),
            Caption("a1", "a", ""),
        ]
        assert dataset.split_captions("small-2", "test") == [Caption("q0", "c", "a query")]
        assert dataset.split_clips("full", "train") == ["a"]
        assert [caption.caption_id for caption in dataset.split_captions("full", "train")] == ["a0", "a1"]
        assert (dataset.expected("small-2", "train"), dataset.expected("full", "train")) == (2, None)
        assert dataset.split_clips("small-2", "val") == []
        assert dataset.clips.to_pylist()[1] == given["clips"][1]
        assert dataset.clips["source"].to_pylist() == ["tape1", "tape1", None]


def test_plain_files(tmp_path: Path) -> None:
    given = content(tmp_path)
    write_dataset(tmp_path, "world", **given)
    folder = tmp_path / "world"
    names = ["captions.parquet", "clips.parquet", "dataset.json", "splits.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert pq.read_table(folder / "clips.parquet")["clip_id"].to_pylist() == ["a", "b", "c"]
    info = json.loads((folder / "dataset.json").read_text())
    assert info["counts"] == {"clips": 3, "captions": 5, "splits": 5}
    assert info["sources"] == [{"name": "annotation.json", "xxh3": hash_file(given["sources"][0])}]
    assert str(tmp_path) not in (folder / "dataset.json").read_text()


def test_any_form_of_rows_gives_equal_content(tmp_path: Path) -> None:
    @dataclasses.dataclass(slots=True)
    class Row:
        clip_id: str
        path: str | None = None

    given = {**content(tmp_path), "captions": [], "splits": []}
    rows = [{"clip_id": "a", "path": "a.mp4"}, {"clip_id": "b"}]
    chunked = pa.chunked_array([["a"], ["b"]], pa.large_string())
    forms: list[Any] = [
        rows,
        iter(rows),
        [Row("a", "a.mp4"), Row("b")],
        pa.table({"path": pa.array(["a.mp4", None]), "clip_id": chunked}),
    ]
    written = set()
    for i, form in enumerate(forms):
        write_dataset(tmp_path / str(i), "world", **{**given, "clips": form})
        written.add((tmp_path / str(i) / "world" / "dataset.json").read_bytes())
    assert len(written) == 1


def test_every_cell_counts(tmp_path: Path) -> None:
    given = content(tmp_path)
    clips = given["clips"]
    variants = [clips, clips[::-1]]
    for i, column, value in [(0, "path", "b.mp4"), (0, "path", None), (1, "start_s", 1.0), (0, "start_s", 0.0)]:
        variants.append([{**row, column: value} if j == i else row for j, row in enumerate(clips)])
    variants.append([{**clips[0], "path": "a.mp", "source": "4tape1"}, *clips[1:]])
    written = set()
    for i, variant in enumerate(variants):
        write_dataset(tmp_path / str(i), "world", **{**given, "clips": variant})
        written.add((tmp_path / str(i) / "world" / "dataset.json").read_bytes())
    assert len(written) == len(variants)


def test_equal_content_is_not_written_again(tmp_path: Path) -> None:
    write_dataset(tmp_path, "world", **content(tmp_path))
    before = {path: path.stat().st_ino for path in (tmp_path / "world").iterdir()}
    write_dataset(tmp_path, "world", **content(tmp_path))
    assert {path: path.stat().st_ino for path in (tmp_path / "world").iterdir()} == before


def test_reader_in_the_middle_of_a_rewrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = content(tmp_path)
    write_dataset(tmp_path, "world", **given)
    new = {**given, "clips": [{**row, "source": "tape2"} for row in given["clips"]]}
    new["captions"] = [{**row, "text": "new"} for row in given["captions"]]
    seen = []
    put = LocalFolder.put

    def watched(folder: LocalFolder, files: Any) -> bool:
        """Open the dataset before and after each file that the writer puts."""
        seen.append(open_dataset(tmp_path, "world"))
        put(folder, files)
        seen.append(open_dataset(tmp_path, "world"))
        return True

    monkeypatch.setattr(LocalFolder, "put", watched)
    write_dataset(tmp_path, "world", **new)
    assert len(seen) == 14  # three staged tables, dataset.json, three tables under their names
    states = [(set(found.clips["source"].to_pylist()), "new" in found.captions["text"].to_pylist()) for found in seen]
    switch = [state == ({"tape2"}, True) for state in states]
    assert switch == sorted(switch)
    assert all(state in (({"tape1", None}, False), ({"tape2"}, True)) for state in states)


def test_unknown_names_are_answered_with_the_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dataset 'world'; the store is empty"):
        open_dataset(tmp_path, "world")
    dataset = write_dataset(tmp_path, "world", **content(tmp_path))
    with pytest.raises(UsageError, match="no dataset 'word'; there are world"):
        open_dataset(tmp_path, "word")
    with pytest.raises(UsageError, match="no protocol 'small'; it has small-2, full"):
        dataset.split_clips("small", "train")
    with pytest.raises(UsageError, match="no split 'dev'; it has train, test, val"):
        dataset.split_captions("small-2", "dev")
    with pytest.raises(UsageError, match="no split 'dev'"):
        dataset.expected("small-2", "dev")
    with pytest.raises(UsageError, match="no protocol 'x'"):
        dataset.split_names("x")
    assert list_datasets(tmp_path) == ["world"]
    assert list_datasets(tmp_path / "absent") == []


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_dataset_name_is_a_folder_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="dataset name"):
        write_dataset(tmp_path, name, **content(tmp_path))


@pytest.mark.parametrize(
    ("table", "row", "says"),
    [
        ("clips", {"clip_id": "a"}, "clip id is repeated: 'a'"),
        ("captions", {"caption_id": "a0", "clip_id": "a", "text": ""}, "caption id is repeated: 'a0'"),
        ("captions", {"caption_id": "n", "clip_id": "z", "text": ""}, "not in the table of clips: 'z'"),
        ("splits", {"protocol": "p", "split": "s", "clip_id": "z"}, "not in the table of clips: 'z'"),
        ("splits", {"protocol": "p", "split": "s", "clip_id": "a", "caption_id": "n"}, "not in the table of captions"),
        (
            "splits",
            {"protocol": "p", "split": "s", "clip_id": "a", "caption_id": "b0"},
            "caption of another clip: 'b0'",
        ),
        ("splits", {"protocol": "p", "split": "s", "clip_id": "c", "caption_id": "q0"}, "another protocol: 'q0'"),
        ("clips", {"path": "x"}, "clip_id is absent in 1 rows"),
        ("clips", {"clip_id": 5}, "rows do not fit"),
        ("clips", {"clip_id": "x", "file": "x"}, "unknown columns file"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, table: str, row: dict[str, Any], says: str) -> None:
    given = content(tmp_path)
    given[table] = [*given[table], row]
    with pytest.raises(SupportsetError, match=says) as caught:
        write_dataset(tmp_path, "world", **given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "world").exists()


def test_absent_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(SupportsetError, match=r"gone\.json: cannot read the file: No such file"):
        write_dataset(tmp_path, "world", **{**content(tmp_path), "sources": [tmp_path / "gone.json"]})


def test_flipped_bits_in_a_table_are_noticed_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = content(tmp_path)
    write_dataset(tmp_path, "world", **given)
    path = tmp_path / "world" / "captions.parquet"
    whole = path.read_bytes()
    noticed = 0
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            read = open_dataset(tmp_path, "world").captions.to_pylist()
        except SupportsetError:
            noticed += 1
            write_dataset(tmp_path, "world", **given)
            read = open_dataset(tmp_path, "world").captions.to_pylist()
        assert [row["text"] for row in read] == [row["text"] for row in given["captions"]]
    assert noticed > 0


@pytest.mark.parametrize("damage", ["remove", "truncate", "foreign"])
def test_damaged_table_is_named_and_mended_by_writing_again(tmp_path: Path, damage: str) -> None:
    write_dataset(tmp_path, "world", **content(tmp_path))
    path = tmp_path / "world" / "captions.parquet"
    if damage == "remove":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        pq.write_table(pa.table({"caption_id": ["x"]}), path)
    with pytest.raises(SupportsetError, match=r"captions\.parquet: missing, or not the table .*again") as caught:
        open_dataset(tmp_path, "world")
    assert "\n" not in str(caught.value)
    write_dataset(tmp_path, "world", **content(tmp_path))
    assert len(open_dataset(tmp_path, "world").captions) == 5


def test_newer_and_damaged_dataset_json(tmp_path: Path) -> None:
    write_dataset(tmp_path, "world", **content(tmp_path))
    path = tmp_path / "world" / "dataset.json"
    text = path.read_text()
    path.write_text(text.replace('"format_version": 1', '"format_version": 3'))
    with pytest.raises(SupportsetError, match=r"dataset\.json: format version 3 is newer"):
        open_dataset(tmp_path, "world")
    path.write_text(text.replace('"tables"', '"shelves"'))
    with pytest.raises(SupportsetError, match=r"dataset\.json: damaged, 'tables' is missing: run `extract`"):
        open_dataset(tmp_path, "world")
    path.write_text(text[:50])
    with pytest.raises(SupportsetError, match=r"dataset\.json: not readable as JSON"):
        open_dataset(tmp_path, "world")


@pytest.mark.parametrize("file", ["dataset.json", "clips.parquet", "captions.parquet", "splits.parquet"])
def test_verify_finds_every_change_of_a_file(tmp_path: Path, file: str) -> None:
    write_dataset(tmp_path, "world", **content(tmp_path))
    (name,) = list_datasets(tmp_path)
    assert verify_dataset(tmp_path, name).problems == []
    path = tmp_path / name / file
    whole = path.read_bytes()
    damages = [whole[:40], whole[:-1], whole + b" ", bytes(len(whole)), b""]
    damages += [
        whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), max(1, len(whole) // 30))
    ]
    for damage in damages:
        path.write_bytes(damage)
        assert verify_dataset(tmp_path, name).harmful, damage[:50]
    path.unlink()
    errors: list[SupportsetError] = []
    if file == "dataset.json":
        assert list_datasets(tmp_path, errors) == []
        assert "dataset.json: missing, beside tables" in str(errors[0])
    else:
        assert verify_dataset(tmp_path, name).harmful


def test_a_dataset_from_before_there_were_hashes(tmp_path: Path) -> None:
    write_dataset(tmp_path, "world", **content(tmp_path))
    (name,) = list_datasets(tmp_path)
    path = tmp_path / name / "dataset.json"
    info = json.loads(path.read_text())
    del info["hash"]
    for facts in info["tables"].values():
        del facts["size"], facts["xxh3"]
    path.write_text(json.dumps(info, indent=2) + "\n")
    report = verify_dataset(tmp_path, name)
    assert report.harmful == []
    assert "written before 0.2.0" in report.problems[0].says
    write_dataset(tmp_path, "world", **content(tmp_path))
    assert verify_dataset(tmp_path, name).problems == []


def test_clips_that_are_gone_stay_recorded_until_another_run_looks(tmp_path: Path) -> None:
    given = content(tmp_path)
    write_dataset(tmp_path, "world", **given)
    plain = (tmp_path / "world" / "dataset.json").read_bytes()
    assert open_dataset(tmp_path, "world").gone == frozenset()
    assert write_dataset(tmp_path, "world", **given, gone=["x", "b", "x"]).gone == {"b", "x"}
    assert open_dataset(tmp_path, "world").gone == {"b", "x"}
    assert json.loads((tmp_path / "world" / "dataset.json").read_bytes())["gone"] == ["b", "x"]
    assert not list(verify_dataset(tmp_path, "world").problems)
    given["clips"].append({"clip_id": "d"})
    assert write_dataset(tmp_path, "world", **given).gone == {"b", "x"}
    given["clips"].pop()
    assert write_dataset(tmp_path, "world", **given, gone=[]).gone == frozenset()
    assert (tmp_path / "world" / "dataset.json").read_bytes() == plain


@pytest.mark.parametrize("wrong", ["b", [1], {"b": 1}, None])
def test_impossible_marks_are_refused_and_written_anew(tmp_path: Path, wrong: Any) -> None:
    write_dataset(tmp_path, "world", **content(tmp_path))
    file = tmp_path / "world" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"gone": wrong}))
    with pytest.raises(SupportsetError, match=r"dataset.json: damaged, a list of clips in 'gone' is missing"):
        open_dataset(tmp_path, "world")
    assert write_dataset(tmp_path, "world", **content(tmp_path)).gone == frozenset()
