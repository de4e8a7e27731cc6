"""MSR-VTT: the real annotation's counts, the official form in small, and what is told of faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supportset.extract.readers import get_reader
from supportset.store.errors import UsageError
from tests.extract.readers.forms import assert_consistent, members, paths, sizes, stored, texts, touch, write

READER = get_reader("msrvtt")


def video(number: int, split: str | None = None, **more: object) -> dict[str, object]:
    entry: dict[str, object] = {
        "id": number,
        "video_id": f"video{number}",
        "category": 3,
        "start time": 1.0,
        "end time": 9.0,
    }
    return entry | ({"split": split} if split else {}) | {"url": f"https://tube.example/{number // 2}"} | more


def sentence(number: int, video_number: int, text: str) -> dict[str, object]:
    return {"sen_id": number, "video_id": f"video{video_number}", "caption": text}


@pytest.fixture
def official(tmp_path: Path) -> Path:
    train_val = {
        "info": {},
        "videos": [video(0, "train"), video(1, "train"), video(2, "validate")],
        "sentences": [
            sentence(2, 1, "a kite rises"),
            sentence(0, 0, " a tin robot waves \n"),
            sentence(1, 2, "soup boils"),
        ],
    }
    test = {
        "videos": [video(7010, "test")],
        "sentences": [sentence(3, 7010, "snow falls"), sentence(4, 7010, "it snows")],
    }
    write(tmp_path / "train_val_videodatainfo.json", train_val)
    write(tmp_path / "deep/er/test_videodatainfo.json", test)
    write(
        tmp_path / "lists/MSRVTT_JSFUSION_test.csv",
        'key,vid_key,video_id,sentence\r\nret0,msr7010,video7010,"snow, at last"\r\n',
    )
    write(tmp_path / "lists/MSRVTT_train.9k.csv", "video_id\nvideo0\nvideo1\nvideo2\n")
    write(tmp_path / "lists/MSRVTT_train.7k.csv", "video_id\nvideo1\n")
    return tmp_path


def test_official_form(official: Path) -> None:
    touch(official, "videos/a/video1.MP4", "videos/b/video7010.webm")
    data = READER.read(official)
    assert_consistent(data)
    assert [row.clip_id for row in data.clips] == ["video0", "video1", "video2", "video7010"]
    assert paths(data) == {
        "video0": None,
        "video1": "videos/a/video1.MP4",
        "video2": None,
        "video7010": "videos/b/video7010.webm",
    }
    assert all((row.start_s, row.end_s) == (None, None) for row in data.clips), "the files are already cut"
    assert [row.source for row in data.clips[:3]] == ["https://tube.example/0"] * 2 + ["https://tube.example/1"]
    assert texts(data, "video0") == [" a tin robot waves \n"], "as annotated"
    assert texts(data, "video7010") == ["snow falls", "it snows", "snow, at last"]
    assert [(row.caption_id, row.protocol) for row in data.captions] == [
        ("sen2", None),
        ("sen0", None),
        ("sen1", None),
        ("sen3", None),
        ("sen4", None),
        ("ret0", "msrvtt-1ka"),
    ]
    assert members(data, "msrvtt-full", "train") == [("video0", None), ("video1", None)]
    assert members(data, "msrvtt-full", "val") == [("video2", None)]
    assert members(data, "msrvtt-full", "test") == [("video7010", None)]
    assert members(data, "msrvtt-1ka-9k", "test") == members(data, "msrvtt-1ka-7k", "test") == [("video7010", "ret0")]
    assert members(data, "msrvtt-1ka-9k", "train") == [("video0", None), ("video1", None), ("video2", None)]
    assert members(data, "msrvtt-1ka-7k", "train") == [("video1", None)]
    assert [path.name for path in data.sources] == [
        "train_val_videodatainfo.json",
        "test_videodatainfo.json",
        "MSRVTT_JSFUSION_test.csv",
        "MSRVTT_train.9k.csv",
        "MSRVTT_train.7k.csv",
    ]
    assert "2 of 4 clips have no video file below " in data.notes[-1]
    assert "test of msrvtt-1ka-9k has 1 clips, it should have 1000" in data.notes


def test_clean_training_split_shares_no_source_and_no_query_with_the_test_split(official: Path) -> None:
    sentences = [sentence(0, 0, "soup boils"), sentence(1, 0, "a tin robot waves"), sentence(2, 1, "a kite rises"),
                 sentence(3, 2, "snow, at last"), sentence(4, 3, "snow, at last"), sentence(5, 3, "fog")]  # fmt: skip
    videos = [video(0), video(1), video(2), video(3, url=" one "), video(4, url="one")]
    write(official / "train_val_videodatainfo.json", {"videos": videos[:4], "sentences": sentences})
    write(official / "deep/er/test_videodatainfo.json", {"videos": [videos[4] | {"split": "test"}], "sentences": []})
    queries = "key,vid_key,video_id,sentence\nret0,msr4,video4,soup boils\n"
    write(official / "lists/MSRVTT_JSFUSION_test.csv", queries)
    write(official / "lists/MSRVTT_train.9k.csv", "video_id\nvideo0\nvideo1\nvideo2\nvideo3\n")
    data = READER.read(official)
    assert_consistent(data)
    # video0 loses a caption, video3 is of the test clip's source
    expected = [("video0", "sen1"), ("video1", None), ("video2", None)]
    assert members(data, "msrvtt-1ka-9k-clean", "train") == expected
    assert (
        members(data, "msrvtt-1ka-9k-clean", "test") == members(data, "msrvtt-1ka-9k", "test") == [("video4", "ret0")]
    )
    write(official / "lists/MSRVTT_JSFUSION_test.csv", queries + "ret1,msr4,video4,a kite rises\n")
    assert members(READER.read(official), "msrvtt-1ka-9k-clean", "train") == [("video0", "sen1"), ("video2", None)]


def test_goes_into_the_store(official: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """There, official captions and 1k-A's own queries stay apart."""
    dataset = stored(READER.read(official), tmp_path_factory.mktemp("store"))
    assert [c.text for c in dataset.split_captions("msrvtt-full", "test")] == ["snow falls", "it snows"]
    assert [c.text for c in dataset.split_captions("msrvtt-1ka-9k", "test")] == ["snow, at last"]
    assert len(dataset.split_captions("msrvtt-1ka-9k", "train")) == 3
    assert dataset.expected("msrvtt-1ka-9k", "test") == 1000


def test_combined_form_is_the_same_dataset(official: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """MSRVTT_data.json: both files in one; without `split`, the dataset's own ranges of ids decide."""
    separate = READER.read(official)
    combined = tmp_path_factory.mktemp("combined")
    parts = [
        json.loads(next(official.rglob(f"{name}_videodatainfo.json")).read_text()) for name in ("train_val", "test")
    ]
    videos = [{k: v for k, v in one.items() if k != "split"} for part in parts for one in part["videos"]]
    videos[2]["video_id"] = "video6513"  # its range says val; the other ids are train and test
    sentences = [one for part in parts for one in part["sentences"]]
    sentences[2]["video_id"] = "video6513"
    write(combined / "MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    data = READER.read(combined)
    assert_consistent(data)
    official_captions = [row.text for row in separate.captions if row.protocol is None]
    assert [row.text for row in data.captions] == official_captions
    assert members(data, "msrvtt-full", "train") == [("video0", None), ("video1", None)]
    assert members(data, "msrvtt-full", "val") == [("video6513", None)]
    assert members(data, "msrvtt-full", "test") == [("video7010", None)]
    assert any("no MSRVTT_JSFUSION_test.csv" in note and "test of msrvtt-1ka-9k" in note for note in data.notes)


@pytest.mark.parametrize(
    ("number", "split"), [(0, "train"), (6512, "train"), (6513, "val"), (7009, "val"), (7010, "test"), (9999, "test")]
)
def test_official_ranges(tmp_path: Path, number: int, split: str) -> None:
    write(tmp_path / "MSRVTT_data.json", {"videos": [video(number)], "sentences": [sentence(0, number, "x")]})
    assert sizes(READER.read(tmp_path)) == {("msrvtt-full", split): 1}


def test_absent_lists_leave_their_splits_empty(official: Path) -> None:
    for file in (official / "lists").iterdir():
        file.unlink()
    next(official.rglob("test_videodatainfo.json")).unlink()
    data = READER.read(official)
    assert sizes(data) == {("msrvtt-full", "train"): 2, ("msrvtt-full", "val"): 1}
    told = "\n".join(data.notes)
    assert f"no test_videodatainfo.json below {official}: test of msrvtt-full left empty" in told
    assert "no MSRVTT_train.7k.csv" in told
    assert "no MSRVTT_train.9k.csv" in told
    assert "test of msrvtt-1ka-9k and test of msrvtt-1ka-7k and train and test of msrvtt-1ka-9k-clean left" in told
    assert data.protocols["msrvtt-1ka-9k"] == {"train": 9000, "test": 1000}, "what it should have stays known"


def test_what_does_not_fit_is_counted(official: Path) -> None:
    path = official / "train_val_videodatainfo.json"
    tree = json.loads(path.read_text())
    tree["videos"] += [video(1, "train"), video(5, "holdout")]
    tree["sentences"] += [sentence(9, 77, "of nothing"), sentence(9, 0, "  "), sentence(0, 0, "again")]
    write(path, tree)
    write(official / "lists/MSRVTT_train.7k.csv", "video_id\nvideo1\nvideo1\nvideo88\nvideo99\n")
    data = READER.read(official)
    assert_consistent(data)
    told = "\n".join(data.notes)
    assert "1 clips of train_val_videodatainfo.json are described before, the first description is kept" in told
    assert (
        "1 clips of train_val_videodatainfo.json are in no split of msrvtt-full, they name none (first: 'video5')"
        in told
    )
    assert (
        "1 captions of train_val_videodatainfo.json left out, their clip is in no annotation (first: 'video77')" in told
    )
    assert "1 captions of train_val_videodatainfo.json left out, they are empty (first: 'sen9')" in told
    assert "1 captions of train_val_videodatainfo.json left out, their id is taken (first: 'sen0')" in told
    assert "2 entries of lists/MSRVTT_train.7k.csv left out of train of msrvtt-1ka-7k, no annotation has them" in told
    assert "1 entries of lists/MSRVTT_train.7k.csv left out of train of msrvtt-1ka-7k, they are there already" in told
    assert members(data, "msrvtt-1ka-7k", "train") == [("video1", None)]


FORM = '{"videos": [{"video_id", "url", "split"}], "sentences": [{"sen_id", "video_id", "caption"}]}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"videos": [\n  1 2]}', f"{{path}}: line 2, column 5: not valid JSON (Expecting ',' delimiter); "
         f"expected the official form {FORM}"),
        ("[]", f"{{path}}: holds a JSON list; expected the official form {FORM}"),
        ('{"videos": []}', "{path}: the file has no key 'sentences' (found: videos)"),
        ('{"videos": {}, "sentences": []}', "{path}: the file: 'videos' is a JSON object, expected a list"),
        ('{"videos": [{"id": 1}], "sentences": []}', "{path}: videos[0] has no key 'video_id' (found: id)"),
        ('{"videos": [7], "sentences": []}', "{path}: videos[0] is a JSON number, expected an object"),
        ('{"videos": [{"video_id": "video1"}], "sentences": [{"sen_id": 1, "video_id": "video1", "caption": null}]}',
         "{path}: sentences[0]: 'caption' is a JSON null, expected a string"),
        (b"\xff\xfe{}", "{path}: not UTF-8 text (byte 0); save it as UTF-8"),
    ],
)  # fmt: skip
def test_malformed_json(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path / "MSRVTT_data.json", content)
    with pytest.raises(UsageError) as error:
        READER.read(tmp_path)
    assert str(error.value) == message.replace("{path}", str(path))


def test_malformed_csv(official: Path) -> None:
    path = write(official / "lists/MSRVTT_JSFUSION_test.csv", "key,clip,sentence\nret0,video7010,x\n")
    with pytest.raises(UsageError) as error:
        READER.read(official)
    expected = "no column 'video_id'; expected key, video_id, sentence (found: key, clip, sentence)"
    assert str(error.value) == f"{path}: line 1: {expected}"
    write(path, "key,vid_key,video_id,sentence\nret0,msr1,video1\n")
    with pytest.raises(UsageError, match="line 2: 3 fields, the header has 4"):
        READER.read(official)
    write(path, 'key,vid_key,video_id,sentence\nret0,msr1,video1,x\nret1,msr0,video0,"open\n')
    with pytest.raises(UsageError, match=r"line 3: not valid CSV"):
        READER.read(official)


def test_no_annotation(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        READER.read(tmp_path)
    assert str(error.value) == (
        f"msrvtt: no train_val_videodatainfo.json, test_videodatainfo.json or MSRVTT_data.json in {tmp_path} or its "
        f"sub-folders; expected the official form {FORM}"
    )


def test_real_counts(shared_data: Path) -> None:
    data = READER.read(shared_data / "msrvtt", shared_data)
    assert_consistent(data)
    assert len(data.clips) == 10_000
    assert sum(row.protocol is None for row in data.captions) == 200_000
    queries = [row for row in data.captions if row.protocol == "msrvtt-1ka"]
    assert len(queries) == len(data.captions) - 200_000 == 1_000
    official: dict[str, set[str]] = {}
    for row in data.captions:
        if row.protocol is None:
            official.setdefault(row.clip_id, set()).add(row.text)
    assert sum(row.text not in official[row.clip_id] for row in queries) == 35
    assert sizes(data) == {
        ("msrvtt-full", "train"): 6513,
        ("msrvtt-full", "val"): 497,
        ("msrvtt-full", "test"): 2990,
        ("msrvtt-1ka-9k", "train"): 9000,
        ("msrvtt-1ka-9k", "test"): 1000,
        ("msrvtt-1ka-7k", "train"): 7010,
        ("msrvtt-1ka-7k", "test"): 1000,
        ("msrvtt-1ka-9k-clean", "train"): 35_123,  # rows: one a caption where a clip loses one
        ("msrvtt-1ka-9k-clean", "test"): 1000,
    }
    clean = {clip for clip, _ in members(data, "msrvtt-1ka-9k-clean", "train")}
    assert len(clean) == data.protocols["msrvtt-1ka-9k-clean"]["train"] == 8585
    # Facts of the data: source videos that the test part shares with the training part, and sentences.
    sources = {row.clip_id: row.source for row in data.clips}
    train = {clip for clip, _ in members(data, "msrvtt-1ka-9k", "train")}
    train_sources = {sources[clip] for clip in train}
    test = [clip for clip, _ in members(data, "msrvtt-1ka-9k", "test")]
    assert not train & set(test)
    assert sum(sources[clip] in train_sources for clip in test) == 372
    train_texts = {text for clip in train for text in official[clip]}
    assert sum(row.text in train_texts for row in queries) == 107
    # The real clips are found by name; features beside them (video10.npy) are no videos.
    found = {clip: path for clip, path in paths(data).items() if path}
    assert found == {path.stem: f"clips/msrvtt/{path.name}" for path in (shared_data / "clips" / "msrvtt").iterdir()}
    assert len(found) == 17
    assert len(data.notes) == 1
    assert data.notes[0].startswith("9983 of 10000 clips have no video file below ")
