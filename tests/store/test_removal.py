"""Removal: what is half deleted is never taken for whole, and nothing that is not the store's goes along."""

from __future__ import annotations

from pathlib import Path

import pytest

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.dataset import list_datasets, open_dataset, write_dataset
from supportset.store.maintain.orphans import find_orphans
from supportset.store.maintain.removal import plan_dataset_removal, plan_removal, remove_dataset, remove_feature_set
from supportset.store.read.catalog import list_feature_sets, locate_feature_set
from tests.store.faults import FaultyDisk, Killed
from tests.store.samples import assert_holds, card, clips, recipe, write


def store(root: Path) -> tuple[Path, Path]:
    """A dataset with two feature sets: their folders."""
    write_dataset(root, "d", clips=[{"clip_id": "clip0"}], captions=[], splits=[], protocols={}, sources=[])
    paths = []
    for layer in ("one", "two"):
        paths.append(root / "d" / "features" / recipe(backbone=f"net:{layer}").folder)
        write(paths[-1], clips(3), card=card(backbone=f"net:{layer}"), clips_per_shard=2)
    return paths[0], paths[1]


def test_one_of_two_sets(tmp_path: Path) -> None:
    one, two = store(tmp_path)
    info = locate_feature_set(tmp_path, "d/net-one")
    plan = plan_removal(info)
    files = [file for file in one.rglob("*") if file.is_file()]
    assert (plan.files, plan.bytes) == (len(files), sum(file.stat().st_size for file in files))
    assert remove_feature_set(info) == plan
    assert sorted((tmp_path / "d" / "features").iterdir()) == [two]
    assert_holds(two, clips(3))
    open_dataset(tmp_path, "d")


def test_a_kill_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = 0
    while True:
        root = tmp_path / str(at)
        one, two = store(root)
        with monkeypatch.context() as patch:
            disk = FaultyDisk(patch, at, "kill")
            try:
                remove_feature_set(locate_feature_set(root, "d/net-one"))
            except Killed:
                before = disk.struck == "rename"  # then nothing has happened yet
                assert [info.path for info in list_feature_sets(root)] == ([one, two] if before else [two])
        if not disk.struck:
            break
        assert one.exists() == (disk.struck == "rename")
        if one.exists():
            remove_feature_set(locate_feature_set(root, "d/net-one"))
        remove_feature_set(locate_feature_set(root, "d/net-two"))
        assert list((root / "d" / "features").iterdir()) == []  # what the killed run left went along
        at += 1
    assert at == 3  # the change of the name, then the card, then the tree


def test_a_dataset_with_all_it_has(tmp_path: Path) -> None:
    store(tmp_path)
    (tmp_path / "d" / "video.mp4").write_text("mine")
    write_dataset(tmp_path, "e", clips=[], captions=[], splits=[], protocols={}, sources=[])
    assert len(plan_dataset_removal(tmp_path, "d").feature_sets) == 2
    remove_dataset(tmp_path, "d")
    assert list_datasets(tmp_path) == ["e"]
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["video.mp4"]
    remove_dataset(tmp_path, "e")
    assert not (tmp_path / "e").exists()
    with pytest.raises(UsageError, match="no dataset 'e'; there are none"):
        remove_dataset(tmp_path, "e")


def test_logs_of_runs_belong_to_the_set_and_other_files_beside_them_do_not(tmp_path: Path) -> None:
    one, _ = store(tmp_path)
    (one / "log").mkdir()
    (one / "log" / "20261123T205245Z-0123abcd.jsonl").write_text("{}\n")
    (one / "log" / "mine.jsonl").write_text("{}\n")
    assert [(found.kind, found.path.name) for found in find_orphans(one)] == [("foreign", "mine.jsonl")]
    with pytest.raises(UsageError, match=r"mine\.jsonl.*move it away first"):
        remove_feature_set(locate_feature_set(tmp_path, "d/net-one"))
    (one / "log" / "mine.jsonl").unlink()
    remove_feature_set(locate_feature_set(tmp_path, "d/net-one"))
    assert not one.exists()


def test_what_is_not_the_stores_is_not_lost(tmp_path: Path) -> None:
    one, _ = store(tmp_path)
    (one / "notes.txt").write_text("mine")
    for remove in (
        lambda: remove_feature_set(locate_feature_set(tmp_path, "d/net-one")),
        lambda: remove_dataset(tmp_path, "d"),
    ):
        with pytest.raises(UsageError, match=r"notes\.txt.*move it away first"):
            remove()
    (one / "notes.txt").unlink()
    link = one.with_name("link")
    link.symlink_to(one)
    with pytest.raises(UsageError, match="is a link"):
        remove_feature_set(locate_feature_set(tmp_path, "d/link"))
    assert_holds(one, clips(3))


def test_a_damaged_set_can_be_removed(tmp_path: Path) -> None:
    one, _ = store(tmp_path)
    next((one / "shards").glob("*.parquet")).write_text("broken")
    with pytest.raises(SupportsetError, match="damaged index"):
        locate_feature_set(tmp_path, "d/net-one").open()
    remove_feature_set(locate_feature_set(tmp_path, "d/net-one"))
    assert not one.exists()
