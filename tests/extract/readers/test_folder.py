"""A user's own folder: ids, captions in three forms, segments, splits, and rows that cannot be used."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import av
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from supportset.extract.readers import captions_file, get_reader
from supportset.extract.readers.annotate import read_dataset
from supportset.store.errors import UsageError
from supportset.store.format.dataset import open_dataset
from tests.extract.readers.forms import assert_consistent, members, paths, sizes, stored, texts, touch, write

READER = get_reader("folder")
ROWS: list[dict[str, Any]] = [
    {"path": "kites/a b.mp4", "caption": 'A kite, "red",\nrises.', "split": "train"},
    {"path": "kites/a b.mp4", "caption": "It flies.", "split": "train"},
    {"path": "talk.mkv", "caption": "Hello.", "start": 0, "end": 2.5, "split": "val"},
    {"path": "talk.mkv", "caption": "Good bye.", "start": 60.25, "end": 62, "split": "test"},
    {"path": "картинка.PNG", "caption": "A drawing.", "split": "test"},
]
COLUMNS = ["path", "caption", "start", "end", "split"]


def left_out(folder: Path, counts: str = ".md (1)") -> str:
    total = sum(map(int, re.findall(r"\((\d+)\)", counts)))
    return f"{total} files below {folder} are neither video nor image, left out: {counts}"


def write_rows(folder: Path, form: str, rows: list[dict[str, Any]]) -> Path:
    """The same rows as CSV, JSON lines or Parquet."""
    path = folder / f"captions.{form}"
    if form == "csv":
        quoted = [['"' + str(row.get(name, "")).replace('"', '""') + '"' for name in COLUMNS] for row in rows]
        write(path, "\ufeff" + "\r\n".join([",".join(COLUMNS), *(",".join(fields) for fields in quoted)]) + "\r\n")
    elif form == "jsonl":
        write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS} for row in rows]), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    touch(
        tmp_path, "kites/a b.mp4", "talk.mkv", "картинка.PNG", "plain.webm", "notes.md", ".hidden/x.mp4", "._talk.mkv"
    )
    return tmp_path


def test_without_captions(folder: Path) -> None:
    data = READER.read(folder)
    assert_consistent(data)
    assert paths(data) == {
        "kites/a b": "kites/a b.mp4",
        "plain": "plain.webm",
        "talk": "talk.mkv",
        "картинка": "картинка.PNG",
    }
    assert sizes(data) == {("folder", "all"): 4}
    assert data.protocols == {"folder": {"all": None}}
    assert (data.captions, data.sources, data.notes) == ([], [], [left_out(folder)])


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_captions(folder: Path, form: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write_rows(folder, form, ROWS)
    data = READER.read(folder)
    assert_consistent(data)
    assert [(row.clip_id, row.path, row.start_s, row.end_s, row.source) for row in data.clips] == [
        ("kites/a b", "kites/a b.mp4", None, None, None),
        ("plain", "plain.webm", None, None, None),
        ("talk@0-2.5", "talk.mkv", 0.0, 2.5, "talk.mkv"),
        ("talk@60.25-62", "talk.mkv", 60.25, 62.0, "talk.mkv"),
        ("картинка", "картинка.PNG", None, None, None),
    ]
    assert texts(data, "kites/a b") == ['A kite, "red",\nrises.', "It flies."]
    assert texts(data, "talk@60.25-62") == ["Good bye."]
    assert members(data, "folder", "train") == [("kites/a b", None)]
    assert members(data, "folder", "val") == [("talk@0-2.5", None)]
    assert members(data, "folder", "test") == [("talk@60.25-62", None), ("картинка", None)]
    assert data.protocols == {"folder": {"all": None, "test": None, "train": None, "val": None}}
    assert data.sources == [path]
    assert data.notes == [left_out(folder)]
    dataset = stored(data, tmp_path_factory.mktemp("store"))
    assert len(dataset.split_captions("folder", "all")) == 5
    assert dataset.split_clips("folder", "all") == list(paths(data)), "a file without captions can be searched"


@pytest.mark.parametrize(
    "named",
    ["a/b/clip.one.mp4", "a/b/clip.one", "./a/b/clip.one.mp4", "a\\b\\clip.one.mp4", "clip.one", "clip.one.mp4"],
)
@pytest.mark.parametrize("column", ["path", "video", "file", "clip_id", " Video "])
def test_ways_to_name_a_file(tmp_path: Path, named: str, column: str) -> None:
    touch(tmp_path, "a/b/clip.one.mp4", "a/clip.mp4")
    write(tmp_path / "captions.csv", f"{column},TEXT\n{named},A kite.\n")
    data = READER.read(tmp_path)
    assert texts(data, "a/b/clip.one") == ["A kite."]
    assert data.notes == []


def test_absolute_path_and_unicode_forms(tmp_path: Path) -> None:
    decomposed, composed = "Cafe\u0301.mp4", "Caf\u00e9.mp4"
    touch(tmp_path, decomposed, "b.mp4")
    rows = [{"path": composed, "caption": "A café."}, {"path": str(tmp_path / "b.mp4"), "caption": "B."}]
    write_rows(tmp_path, "jsonl", rows)
    data = READER.read(tmp_path)
    assert paths(data) == {"Cafe\u0301": decomposed, "b": "b.mp4"}, "the name stays what the file system calls it"
    assert [row.text for row in data.captions] == ["A café.", "B."]


def test_names_survive(tmp_path: Path) -> None:
    names = [" leading", "line\nend", 'comma, quote"', "漢字 (1)", "-dash", "#hash", "many.dots.in"]
    files = [f"{name}.mp4" for name in names]
    touch(tmp_path, *files)
    write_rows(tmp_path, "csv", [{"path": f"{name}.mp4", "caption": f"of {name!r}"} for name in names])
    data = READER.read(tmp_path)
    assert_consistent(data)
    assert paths(data) == dict(zip(names, files, strict=True))
    assert all(texts(data, name) == [f"of {name!r}"] for name in names)
    assert data.notes == []


def test_equal_ids_keep_their_extension(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.avi", "a.mp4.mkv", "b/a.mp4")
    data = READER.read(tmp_path)
    assert_consistent(data)
    assert paths(data) == {"a.avi": "a.avi", "a.mp4": "a.mp4", "a.mp4.mkv": "a.mp4.mkv", "b/a": "b/a.mp4"}


def test_videos_elsewhere(tmp_path: Path) -> None:
    touch(tmp_path, "videos/x/a.mp4", "annotation/b.mp4")
    write_rows(tmp_path / "annotation", "jsonl", [{"path": "a", "caption": "A."}])
    data = READER.read(tmp_path / "annotation", tmp_path / "videos")
    assert paths(data) == {"x/a": "x/a.mp4"}
    assert texts(data, "x/a") == ["A."]


def test_rows_that_cannot_be_used(folder: Path) -> None:
    touch(folder, "one/twin.mp4", "two/twin.mp4")
    lines = [
        "path,caption,start,end,split",
        "plain.webm,good,,,train",
        ",nothing named,,,",
        "talk.mkv,never ends,3,,",
        "talk.mkv,backwards,5,4,",
        "talk.mkv,no number,a,b,",
        "talk.mkv,negative,-1,4,",
        "talk.mkv,not finite,0,inf,",
        "talk.mkv,unquoted, comma,0,1,",
        "картинка.PNG,an image,0,1,",
        "twin.mp4,which,,,",
        "gone.mp4,not there,,,test",
        "plain.webm,,,,train",
    ]
    write(folder / "captions.csv", "\n".join(lines) + "\n")
    data = READER.read(folder)
    assert_consistent(data)
    assert texts(data, "plain") == ["good"]
    assert [row.text for row in data.captions] == ["good", "not there"]
    assert data.notes == [
        left_out(folder),
        "7 rows of captions.csv left out: line 3: names no file; line 4: has a start and no end; "
        "line 5: ends at 4 s, not after its start at 5 s; line 6: start is 'a', not a number of seconds; "
        "line 7: start is '-1', not a number of seconds; and 2 more",
        "1 rows of captions.csv have no caption: line 13",
        "2 rows of the captions file left out: line 10: 'картинка.PNG' is an image, it has no start and end; "
        "line 11: 'twin.mp4' fits 'one/twin.mp4' and 'two/twin.mp4'; give the path",
        "1 rows of the captions file name an absent video or image: line 12: 'gone.mp4'",
        f"1 of 7 clips have no video file below {folder} (first: 'gone')",
    ]
    assert members(data, "folder", "test") == [("gone", None)], "missing is a row, not silence"


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("names", [("path", "caption", "path"), ("path", "caption", "caption"),
                                   ("path", " Caption", "caption"), ("PATH", "path", "text"),
                                   ("path", "caption", "split", "Split")])  # fmt: skip
def test_a_column_that_occurs_twice_is_refused(names: tuple[str, ...], form: str, folder: Path) -> None:
    values = ["plain", "one", "talk.mkv", "val"][: len(names)]
    path = folder / f"captions.{form}"
    if form == "csv":
        write(path, ",".join(names) + "\n" + ",".join(values) + "\n")
    elif form == "jsonl":
        pairs = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in zip(names, values, strict=True))
        write(path, '{"path": "talk", "caption": "first"}\n{' + pairs + "}\n")
    else:
        pq.write_table(pa.table([pa.array([value]) for value in values], names=list(names)), path)
    plain = [name.strip().lower() for name in names]
    twice = next(name for name in plain if plain.count(name) > 1)
    with pytest.raises(UsageError, match=rf"captions.{form}: .*column '{twice}' occurs twice"):
        READER.read(folder)


def test_columns_that_are_not_read_may_occur_twice(folder: Path) -> None:
    write(folder / "captions.csv", "path,caption,note,note,\nplain,one,a,b,c\n")
    data = READER.read(folder)
    assert texts(data, "plain") == ["one"]
    assert "columns , note of captions.csv are not used (path, caption are)" in data.notes


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_one_column_is_read_in_all_rows(form: str, folder: Path) -> None:
    """Of two names for one thing the first is read; another never fills its gaps, and is reported."""
    rows = [("plain", "talk", "A", "a"), ("", "plain", "B", "b"), ("talk", "", "", "c")]
    names = ("path", "video", "caption", "text")
    if form == "csv":
        write(folder / "captions.csv", "\n".join(",".join(each) for each in (names, *rows)) + "\n")
    else:
        records = [dict(zip(names, row, strict=True)) for row in rows]
        write(folder / "captions.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    data = READER.read(folder)
    assert [(row.clip_id, row.text) for row in data.captions] == [("plain", "A")]
    place = "line 3" if form == "csv" else "line 2"
    assert f"1 rows of captions.{form} left out: {place}: names no file" in data.notes
    assert f"columns text, video of captions.{form} are not used (path, caption are)" in data.notes


def test_an_id_beside_a_path_is_reported(folder: Path) -> None:
    write(folder / "captions.csv", "clip_id,path,caption\nx1,plain,A\n")
    data = READER.read(folder)
    assert texts(data, "plain") == ["A"]
    assert "columns clip_id of captions.csv are not used (path, caption are)" in data.notes


def test_contents_decide_for_unknown_extensions(tmp_path: Path) -> None:
    picture, film = Image.new("RGB", (8, 8)), io.BytesIO()
    picture.save(tmp_path / "photo.unknown", "PNG")
    picture.save(tmp_path / "bare", "BMP")
    with av.open(film, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 16
        container.mux([*stream.encode(av.VideoFrame(16, 16)), *stream.encode(None)])
    (tmp_path / "film.download").write_bytes(film.getvalue())
    (tmp_path / "sound.mka2").write_bytes(b"RIFF\0\0\0\0WAVE")
    touch(tmp_path, "new.heic", "disc.m2v", "tape.m2t", "a.xyz", "b.xyz", "c.npy", "nothing")
    write(tmp_path / "captions.csv", "file,caption\nphoto.unknown,A.\nphoto.unknown,B.\na.xyz,C.\nfilm,D.\n")
    data = READER.read(tmp_path)
    assert sorted(paths(data)) == ["bare", "disc", "film", "new", "photo", "tape"]
    assert [row.text for row in data.captions] == ["D.", "A.", "B."]
    assert left_out(tmp_path, ".mka2 (1), .npy (1), .xyz (2), without extension (1)") in data.notes
    assert "1 rows of the captions file left out: line 4: 'a.xyz' is neither video nor image" in data.notes


def test_notes_are_plain_lines(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    write(tmp_path / "captions.csv", 'path,caption\n"x\x1b[2J\ny\u202e\r",A.\n')
    notes = READER.read(tmp_path).notes
    assert r"line 2: 'x\x1b[2J\ny\u202e\r'" in "\n".join(notes)
    assert all(note.isprintable() for note in notes)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a":' * 100_000, '{"path": "a", "caption": "b", "start": ' + "9" * 5000 + "}"]
)
def test_nested_or_huge_json_is_one_line(content: str, folder: Path) -> None:
    write(folder / "captions.jsonl", content + "\n")
    with pytest.raises(UsageError, match=r"captions\.jsonl: line 1: ") as told:
        READER.read(folder)
    assert str(told.value).isprintable()


def test_a_parquet_bomb_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions_file, "MOST_ROWS", 5)
    pq.write_table(pa.table({"path": ["plain"] * 6, "caption": ["x"] * 6}), folder / "captions.parquet")
    with pytest.raises(UsageError, match="holds 6 rows, more than 5"):
        READER.read(folder)


@pytest.mark.parametrize("name", ["../up", "a b", "caf\u00e9", ".hidden", "x" * 101, "a\nb", "\x1b[1m", ""])
def test_dataset_names_have_a_plain_alphabet(name: str, tmp_path: Path) -> None:
    data = tmp_path / "my videos"
    touch(data, "a.mp4")
    with pytest.raises(UsageError, match=r"dataset name .*: use at most 100 letters.*: --name [A-Za-z0-9._-]+$"):
        read_dataset("folder", data, name=name or None)
    assert read_dataset("folder", data, name="my-videos_2.0").name == "my-videos_2.0"


def test_line_numbers_count_lines_not_rows(folder: Path) -> None:
    write(folder / "captions.csv", 'path,caption\nplain.webm,"two\nlines"\n\n,x\n')
    assert "1 rows of captions.csv left out: line 5: names no file" in READER.read(folder).notes


def test_a_clip_in_several_splits_is_split_by_caption(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [{"path": "plain", "caption": text, "split": split} for text, split in (("one", "train"), ("two", "test"))]
    write_rows(folder, "jsonl", rows)
    data = READER.read(folder)
    assert members(data, "folder", "train") == [("plain", "plain#0")]
    assert members(data, "folder", "test") == [("plain", "plain#1")]
    assert "1 clips are in several splits, as test and train: by caption (first: 'plain')" in data.notes
    dataset = stored(data, tmp_path_factory.mktemp("store"))
    assert [caption.text for caption in dataset.split_captions("folder", "test")] == ["two"]


def test_whole_file_beside_its_segments(folder: Path) -> None:
    rows = [{"path": "talk", "caption": "all"}, {"path": "talk", "caption": "the end", "end": 9}]
    write_rows(folder, "jsonl", rows)
    data = READER.read(folder)
    assert [row.clip_id for row in data.clips if row.path == "talk.mkv"] == ["talk", "talk@0-9"]
    assert {row.source for row in data.clips if row.path == "talk.mkv"} == {"talk.mkv"}, "one group"


def test_further_columns_are_kept_for_filters(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"path": "talk", "caption": "one", "genre": "news ", "year": 2001, "tags": ["a", "b"], "live": True},
        {"path": "talk", "caption": "two", "genre": "news", "year": None, "tags": float("nan")},
        {"path": "plain", "genre": "sport"},  # without a caption
        {"path": "absent", "caption": "three", "genre": "film"},
    ]
    write_rows(folder, "jsonl", rows)
    data = READER.read(folder)
    found = {(row.clip_id, row.name, row.value) for row in data.attributes}
    assert found == {
        ("talk", "genre", "news"), ("talk", "year", "2001"), ("talk", "tags", '["a", "b"]'), ("talk", "live", "true"),
        ("plain", "genre", "sport"), ("absent", "genre", "film"),
    }  # fmt: skip
    assert len(data.attributes) == len(found), "a value that several rows have is kept once"
    dataset = stored(data, tmp_path)
    assert dataset.attributes["value"].to_pylist() == [row.value for row in data.attributes]
    assert open_dataset(tmp_path, dataset.name).attributes == dataset.attributes
    write_rows(folder, "jsonl", [{"path": "talk", "caption": "one"}])
    assert not len(stored(READER.read(folder), tmp_path).attributes)
    assert not list(tmp_path.glob("*/attributes.parquet")), "a table that is named no more is removed"


def test_several_rows_of_one_absent_file_are_one_clip(folder: Path) -> None:
    rows = [{"path": name, "caption": name} for name in ("gone.mp4", "gone", "plain.mov")]
    write_rows(folder, "jsonl", rows)
    data = READER.read(folder)
    assert texts(data, "gone") == ["gone.mp4", "gone"]
    assert texts(data, "plain.mov") == ["plain.mov"], "plain.webm is there, plain.mov is another"


def test_unused_columns_and_files_are_told(folder: Path) -> None:
    write(folder / "captions.jsonl", '{"path": "plain", "captoin": "x", "text": "y"}\n')
    notes = READER.read(folder).notes
    assert notes == [left_out(folder), "columns captoin of captions.jsonl are kept for filters of a search"]
    (folder / "captions.jsonl").rename(folder / "captions.tsv")
    assert READER.read(folder).notes == [
        "captions.tsv is not read; captions are read from captions.csv, captions.jsonl, captions.parquet",
        left_out(folder),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.csv", "", "{path}: is empty; expected columns path (or"),
        ("captions.csv", "name,caption\nplain,x\n", "{path}: no column path, video, file, clip_id; expected"),
        ("captions.csv", "path,words\nplain,x\n", "{path}: no column caption, text; expected columns path"),
        ("captions.csv", 'path,caption\nplain,"x\n', "{path}: line 2: not valid CSV (unexpected end of data)"),
        ("captions.csv", "path,caption\nplain\n", "{path}: no row can be used; line 2: 1 fields, the header has 2;"),
        ("captions.csv", b"path,caption\nplain,caf\xe9\n", "{path}: not UTF-8 text (byte 22); save it as UTF-8"),
        ("captions.jsonl", '{"path": "a", "caption": "b"}\n{"path": \n', "{path}: line 2: not valid JSON (Expecting"),
        ("captions.jsonl", '["a"]\n', "{path}: no row can be used; line 1: is no JSON object; expected columns"),
        ("captions.jsonl", '{"path": "a", "caption": 3}\n', "{path}: no row can be used; line 1: text is 3, not text;"),
        ("captions.parquet", "PAR1 of a kind", "{path}: not readable as Parquet ("),
    ],
)  # fmt: skip
def test_malformed(folder: Path, name: str, content: str | bytes, message: str) -> None:
    path = write(folder / name, content)
    with pytest.raises(UsageError) as error:
        READER.read(folder)
    assert str(error.value).startswith(message.replace("{path}", str(path)))
    assert "\n" not in str(error.value)


def test_two_captions_files(folder: Path) -> None:
    write_rows(folder, "csv", ROWS)
    write_rows(folder, "jsonl", ROWS)
    with pytest.raises(UsageError, match=r"holds captions.csv and captions.jsonl; keep one captions file"):
        READER.read(folder)


def test_no_video(tmp_path: Path) -> None:
    write(tmp_path / "captions.csv", "path,caption\na.mp4,x\n")
    with pytest.raises(UsageError) as error:
        READER.read(tmp_path)
    start = f"folder: no video or image below {tmp_path}; put .mp4, .webm or .jpg files there"
    assert str(error.value) == start


def test_real_clips(shared_data: Path) -> None:
    data = READER.read(shared_data / "clips")
    assert_consistent(data)
    assert len(data.clips) == 27
    assert paths(data)["msrvtt/video0"] == "msrvtt/video0.mp4"
