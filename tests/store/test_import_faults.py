"""Import: what cannot be imported is told, by clip, with a status and a message; mistakes are told at once."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.dataset import write_dataset
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.arrays import Fault, parse_file
from supportset.store.transfer.import_card import ImportOptions
from supportset.store.transfer.importing import ImportSummary, import_features
from supportset.store.transfer.opening import open_source
from supportset.store.transfer.sources import Naming
from tests.store.foreign import arrays, hdf5, npy_folder
from tests.store.test_import import assert_holds, run

GOOD = np.arange(6, dtype=np.float16).reshape(2, 3) + 1


def fault(tmp_path: Path, array: Any, **said: Any) -> tuple[str, str]:
    """Import a clip of this array beside three good ones; the fault that is told, and stored."""
    source = npy_folder(tmp_path / "src", {"a": GOOD, "b": GOOD, "c": GOOD, "odd": array})
    summary = run(tmp_path / "store", source, **said)
    assert summary.imported == 3
    ((clip_id, status, message),) = summary.failures
    assert clip_id == "odd"
    (row,) = [row for row in FeatureSet.open(summary.path).rows().to_pylist() if row["clip_id"] == "odd"]
    assert (row["status"], row["message"], row["source_path"]) == (status, message, "odd.npy")
    return status, message


@pytest.mark.parametrize(
    ("array", "status", "says"),
    [
        (np.ones((2, 4), np.float16), "wrong_shape", "4 numbers a step, the others have 3"),
        (np.ones((2, 2, 2, 3), np.float16), "wrong_shape", r"\(2, 2, 2, 3\).*pool"),
        (np.float16(3), "wrong_shape", r"\(\)"),
        (np.ones((0, 3), np.float16), "empty", r"\(0, 3\)"),
        (np.ones((2, 0), np.float16), "empty", r"\(2, 0\)"),
        (np.ones((2, 3), np.float32), "wrong_dtype", "float32, the others are float16"),
        (np.ones((2, 3), np.uint8), "wrong_dtype", "uint8"),
        (np.ones((2, 3), complex), "wrong_dtype", "complex128"),
        (np.array([[1, 2, 3], [1, np.nan, 3]], np.float16), "not_finite", "nan at step 1, feature 1"),
        (np.array([[-np.inf, 2, 3]], np.float16), "not_finite", "-inf at step 0, feature 0"),
        (np.array([{}]), "unreadable", "pickles"),
    ],
)
def test_an_odd_clip_is_a_failure_with_its_reason(tmp_path: Path, array: Any, status: str, says: str) -> None:
    told, message = fault(tmp_path, array)
    assert told == status
    assert re.search(says, message)


def test_overflow_of_the_dtype_asked_for(tmp_path: Path) -> None:
    status, message = fault(tmp_path, np.array([[1, 70000, 1]], np.float32), dtype="float16")
    assert (status, message) == ("overflow", "70000.0 at step 0, feature 1 does not fit float16")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_any_damage_to_a_file_is_a_failure(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".pt":
        torch.save(torch.ones(3, 4), path)
    else:
        (np.save if suffix == ".npy" else np.savez)(path, np.ones((3, 4), np.float32))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    cuts = [whole[: int(cut)] for cut in rng.integers(0, len(whole), 25)]
    flips = []
    for at in rng.integers(0, min(len(whole), 400), 25):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(rng.integers(8))
        flips.append(bytes(flipped))
    told = 0
    for content in [b"", b"nonsense", *cuts, *flips]:
        try:
            parse_file(content, suffix)  # a flip in the numbers themselves cannot be seen
        except Fault as error:
            told += "\n" not in error.message
    assert told >= 20


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    (tmp_path / "src").mkdir()
    torch.save({"features": Trap()}, tmp_path / "src" / "a.pt")
    (tmp_path / "src" / "b.pt").write_bytes(pickle.dumps(Trap()))
    np.save(tmp_path / "src" / "c.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.save(tmp_path / "src" / "d.npy", GOOD)
    summary = run(tmp_path / "store", tmp_path / "src")
    assert [(clip_id, status) for clip_id, status, _ in summary.failures] == [(c, "unreadable") for c in "abc"]
    assert not (tmp_path / "sprung").exists()


def test_several_arrays_in_a_file_need_a_key(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    np.savez(tmp_path / "src" / "a.npz", rgb=GOOD, flow=GOOD + 1)
    np.savez(tmp_path / "src" / "b.npz", rgb=GOOD + 2)
    summary = run(tmp_path / "store", tmp_path / "src")
    assert [failure[0] for failure in summary.failures] == ["a"]
    assert "flow" in summary.failures[0][2]
    assert "--key" in summary.failures[0][2]
    summary = run(tmp_path / "store", tmp_path / "src", naming=Naming(key="flow"), name="flow")
    assert_holds(summary, {"a": GOOD + 1})
    assert summary.failures == [("b", "unreadable", "holds no 'flow', only rgb")]


def test_a_failure_is_tried_again_and_written_once(tmp_path: Path) -> None:
    source = npy_folder(tmp_path / "src", {"a": GOOD, "b": GOOD * np.nan})
    paths = {run(tmp_path / "store", source).path for _ in range(3)}
    (path,) = paths
    rows = {row["clip_id"]: row for row in FeatureSet.open(path).rows().to_pylist()}
    assert (rows["b"]["status"], rows["b"]["generation"]) == ("not_finite", 0)
    summary = run(tmp_path / "store", npy_folder(tmp_path / "src", {"b": GOOD}))
    assert (summary.imported, summary.failures) == (1, [])
    assert_holds(summary, {"a": GOOD, "b": GOOD})


def test_a_file_that_went_bad_leaves_the_store_as_it_is(tmp_path: Path) -> None:
    source = npy_folder(tmp_path / "src", {"a": GOOD, "b": GOOD})
    run(tmp_path / "store", source)
    (source / "b.npy").write_bytes(b"gone bad")
    summary = run(tmp_path / "store", source)
    assert [(clip_id, status) for clip_id, status, _ in summary.failures] == [("b", "unreadable")]
    assert_holds(summary, {"a": GOOD, "b": GOOD})


def test_listed_ids_without_a_file_are_missing(tmp_path: Path) -> None:
    source = npy_folder(tmp_path / "src", {"a": GOOD, "b": GOOD, "c": GOOD})
    (tmp_path / "list").write_text("c\ngone\na\n")
    summary = run(tmp_path / "store", source, naming=Naming(only=tmp_path / "list"))
    assert_holds(summary, {"a": GOOD, "c": GOOD})
    assert [(clip_id, status) for clip_id, status, _ in summary.failures] == [("gone", "missing")]
    assert FeatureSet.open(summary.path).statuses() == {"ok": 2, "missing": 1}
    assert any("and not imported: 1" in note for note in summary.notes)


def test_padding_is_told_and_cut_on_request(tmp_path: Path) -> None:
    inner = np.vstack([GOOD, np.zeros((1, 3)), GOOD]).astype(np.float16)  # zeros in the middle are no padding
    padded = np.vstack([inner, np.zeros((4, 3))]).astype(np.float16)
    zeros = np.zeros((9, 3), np.float16)
    source = npy_folder(tmp_path / "src", {"full": inner, "padded": padded, "black": zeros})
    kept = run(tmp_path / "store", source)
    assert (kept.imported, kept.zero_padded, kept.zero_rows) == (3, 2, 13)
    assert any("--trim-zeros" in note for note in kept.notes)
    assert_holds(kept, {"full": inner, "padded": padded, "black": zeros})
    cut = run(tmp_path / "store", source, trim_zeros=True, times=npy_folder(tmp_path / "t", _times(5, 9, 9)))
    assert [(clip_id, status) for clip_id, status, _ in cut.failures] == [("black", "empty")]
    assert_holds(cut, {"full": inner, "padded": inner})
    assert FeatureSet.open(cut.path).read_timestamps(["padded"]).tolist() == [[i, i + 1] for i in range(5)]


def _times(full: int, padded: int, black: int) -> dict[str, Any]:
    lengths = {"full": full, "padded": padded, "black": black}
    return {name: np.stack([np.arange(n), np.arange(n) + 1.0], axis=1) for name, n in lengths.items()}


@pytest.mark.parametrize(
    ("times", "says"),
    [
        (np.zeros((3, 2)), "2 steps and 3 times"),
        (np.zeros((2, 3)), r"\(2, 3\)"),
        (np.array([[0, 1], [5, 4]]), "ends before"),
        (np.array([0.0, np.nan]), "not finite"),
        (np.array([{}, {}]), "its times: holds pickles"),
        (None, "no times of the clip"),
    ],
)
def test_times_that_do_not_fit(tmp_path: Path, times: Any, says: str) -> None:
    good = np.array([[0.0, 1.0], [1.0, 2.0]])
    source = npy_folder(tmp_path / "src", {"a": GOOD, "b": GOOD})
    given = npy_folder(tmp_path / "times", {"a": good} if times is None else {"a": good, "b": times})
    summary = run(tmp_path / "store", source, times=given)
    ((clip_id, status, message),) = summary.failures
    assert (clip_id, status) == ("b", "wrong_times")
    assert re.search(says, message)


def dataset(store: Path, clip_ids: list[str]) -> None:
    """Tables of the dataset ``d``, with a caption a clip."""
    captions = [{"caption_id": f"{clip_id}#0", "clip_id": clip_id, "text": "a red kite"} for clip_id in clip_ids]
    clips = [{"clip_id": clip_id} for clip_id in clip_ids]
    write_dataset(store, "d", clips=clips, captions=captions, splits=[], protocols={}, sources=[])


def test_ids_are_compared_with_the_tables(tmp_path: Path) -> None:
    dataset(tmp_path, ["clip0", "clip1", "clip7", "clip8", "clip9"])
    summary = run(tmp_path, npy_folder(tmp_path / "src", arrays(3)))
    assert (summary.imported, summary.outside, summary.lacking) == (3, ["clip2"], 3)
    assert any("ids that are no clips of the dataset: 1 (clip2)" in note for note in summary.notes)
    texts = run(tmp_path, npy_folder(tmp_path / "texts", {"clip0#0": GOOD[0]}), kind="text")
    assert (texts.outside, texts.lacking) == ([], 4)
    assert not any("annotations-only" in note for note in [*summary.notes, *texts.notes])


def test_without_tables_the_way_to_them_is_told(tmp_path: Path) -> None:
    summary = run(tmp_path, npy_folder(tmp_path / "src", arrays(3)))
    assert summary.lacking is None
    assert any("`extract READER --name d --data DIR --annotations-only`" in note for note in summary.notes)


def test_ids_of_another_world_are_refused(tmp_path: Path) -> None:
    dataset(tmp_path / "store", ["v0", "v1"])
    source = npy_folder(tmp_path / "src", {"v0_net": GOOD, "v1_net": GOOD})
    with pytest.raises(UsageError, match=r"none of its 2 ids \(v0_net, v1_net\).*'d' \(v0, v1\).*--strip"):
        run(tmp_path / "store", source)
    assert not (tmp_path / "store" / "d" / "features").exists()
    assert_holds(run(tmp_path / "store", source, naming=Naming(strip="_net")), {"v0": GOOD, "v1": GOOD})


def test_names_in_subfolders(tmp_path: Path) -> None:
    source = npy_folder(tmp_path / "src", {"train/a": GOOD, "test/b.mp4": GOOD + 1})
    (source / "README.md").write_text("notes")
    (source / "._a.npy").write_text("left by another system")
    summary = run(tmp_path / "store", source, naming=Naming(strip=".mp4"))
    assert_holds(summary, {"a": GOOD, "b": GOOD + 1})
    assert any("other files, not imported: 2" in note for note in summary.notes)
    by_path = run(tmp_path / "store", source, naming=Naming(id_from="path"), name="paths")
    assert_holds(by_path, {"train/a": GOOD, "test/b.mp4": GOOD + 1})
    npy_folder(source, {"test/a": GOOD})
    with pytest.raises(UsageError, match=r"'test/a.npy' and 'train/a.npy' both have the clip id 'a'"):
        open_source(source)


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    npy_folder(tmp_path / "real", {"a": GOOD})
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "src")
    assert open_source(tmp_path / "src").ids == ["a"]


def test_groups_in_hdf5(tmp_path: Path) -> None:
    content = arrays(3)
    with h5py.File(hdf5(tmp_path, content, "rgb"), "r+") as file:
        for clip_id in content:
            file[clip_id]["flow"] = content[clip_id] + 1
    source = tmp_path / "all.h5"
    with pytest.raises(UsageError, match="both have the clip id 'flow'"):
        open_source(source)
    assert_holds(run(tmp_path / "store", source, naming=Naming(key="rgb")), content)
    with pytest.raises(UsageError, match=r"no array is named 'depth'.*flow, rgb"):
        open_source(source, Naming(key="depth"))
    one = hdf5(tmp_path / "one", {"a": GOOD}, "features")
    assert_holds(run(tmp_path / "store", one, name="one"), {"a": GOOD})
    nested = hdf5(tmp_path / "nested", {"train/a": GOOD, "train/b": GOOD})
    assert_holds(run(tmp_path / "store", nested, name="nested"), {"a": GOOD, "b": GOOD})


def test_what_cannot_be_a_source_is_told_at_once(tmp_path: Path) -> None:
    def says(pattern: str, path: Path, naming: Naming | None = None, kind: type[SupportsetError] = UsageError) -> None:
        with pytest.raises(kind, match=pattern) as told:
            open_source(path, naming)
        assert str(path.name) in str(told.value)
        assert type(told.value) is kind

    says("no such file", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    says("holds no clip", tmp_path / "empty")
    (tmp_path / "a.csv").write_text("1,2")
    says(r"\.csv.*\.npy.*\.safetensors", tmp_path / "a.csv")
    for suffix in (".npz", ".h5", ".safetensors", ".pt", ".npy"):
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(b"nonsense")
        (tmp_path / "ids.txt").write_text("a\n")
        says("readable|plain", path, kind=SupportsetError)
    np.save(tmp_path / "t.npy", np.ones((3, 2)))
    says("3 rows.*names 1 clips", tmp_path / "t.npy")
    (tmp_path / "ids.txt").unlink()
    says("--id-list", tmp_path / "t.npy")
    np.save(tmp_path / "u.npy", np.ones((1, 2, 2, 3)))
    (tmp_path / "ids.txt").write_text("a\n")
    says(r"\(N, D\) or \(N, T, D\)", tmp_path / "u.npy")
    np.save(tmp_path / "offsets.npy", np.array([0, 4]))
    says("offsets must rise from 0", tmp_path / "t.npy")
    for content, pattern in (("a\n\nb\n", "line 2 is empty"), ("a\nb\na\n", "line 3 names 'a' again")):
        (tmp_path / "list.txt").write_text(content)
        with pytest.raises(UsageError, match=rf"list\.txt: {pattern}"):
            open_source(tmp_path / "t.npy", Naming(only=tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        open_source(tmp_path / "t.npy", Naming(only=tmp_path / "list.txt"))


def test_float64_needs_a_dtype(tmp_path: Path) -> None:
    values = np.array([[1 / 3, 2.0]])
    source = npy_folder(tmp_path / "src", {"a": values})
    with pytest.raises(UsageError, match=r"float64.*--dtype"):
        run(tmp_path / "store", source)
    summary = run(tmp_path / "store", source, dtype="float32")
    assert_holds(summary, {"a": values.astype(np.float32)})


def test_nothing_readable_writes_nothing(tmp_path: Path) -> None:
    source = npy_folder(tmp_path / "src", {"a": np.array([{}]), "b": np.ones((1, 1, 1), np.float16)})
    with pytest.raises(SupportsetError, match="none of its 2 clips can be imported; the first: a: holds pickles"):
        run(tmp_path / "store", source)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "said", [{"name": ""}, {"name": "/"}, {"card_fields": {"fps": "2"}}, {"fps": 0.0}, {"fps": float("nan")}]
)
def test_options_that_mean_nothing(tmp_path: Path, said: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--"):
        run(tmp_path / "store", npy_folder(tmp_path / "src", arrays(1)), **said)


def test_dataset_name_is_a_folder_name(tmp_path: Path) -> None:
    source = open_source(npy_folder(tmp_path / "src", arrays(1)))
    for name in ("", "a/b", ".hidden"):
        with pytest.raises(UsageError, match="name of a folder"):
            import_features(tmp_path / "store", name, source, ImportOptions("net"))


def test_summary_as_json(tmp_path: Path) -> None:
    source = npy_folder(tmp_path / "src", {"a": GOOD, "b": GOOD * np.nan})
    summary: ImportSummary = run(tmp_path / "store", source)
    told = summary.to_json()
    assert told["status"] == {"ok": 1, "not_finite": 1}
    assert told["failures"] == [{"clip_id": "b", "status": "not_finite", "message": "nan at step 0, feature 0"}]
    assert told["path"] == str(summary.path)
