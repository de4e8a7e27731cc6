"""The cache of the index: right or not used, whatever happens to it or to the set."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from supportset.store.errors import SupportsetError
from supportset.store.files import Folder, LocalFolder, open_folder
from supportset.store.maintain.compact import compact
from supportset.store.read import index_cache
from supportset.store.read.clip_table import ClipTable
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter
from tests.store.samples import assert_holds, card, clips, write

pytestmark = pytest.mark.slow


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of four shards, three failures among its rows, whose cache was made."""
    monkeypatch.setattr(index_cache, "SHARDS_WORTH_IT", 2)
    write(tmp_path, clips(20), clips_per_shard=5)
    with FeatureWriter(tmp_path, card()) as writer:
        for i in range(3):
            writer.fail(f"broken{i}", "unreadable", "no such codec")
    FeatureSet.open(tmp_path)
    assert (tmp_path / index_cache.NAME).is_file()
    return tmp_path


_read = ClipTable.read


def reads_no_index(path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the set opens without a look into its index files."""
    read = []

    def noted(shards: Folder) -> ClipTable:
        read.append(shards)
        return _read(shards)

    with monkeypatch.context() as patch:
        patch.setattr(ClipTable, "read", noted)
        FeatureSet.open(path)
    return not read


def test_what_the_cache_gives_is_what_the_index_files_say(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reads_no_index(cached, monkeypatch)
    fast = FeatureSet.open(cached)
    (cached / index_cache.NAME).unlink()
    slow = FeatureSet.open(cached)
    assert fast.clip_ids == slow.clip_ids
    assert fast.statuses() == slow.statuses() == {"ok": 20, "unreadable": 3}
    assert fast.rows().equals(slow.rows())
    assert fast.read(fast.clip_ids)[0].tobytes() == slow.read(slow.clip_ids)[0].tobytes()
    with pytest.raises(SupportsetError, match=r"'broken1' \(unreadable\)"):
        fast.read(["broken1"])
    again = pickle.loads(pickle.dumps(fast))
    assert again.read(["clip7"])[0].tobytes() == fast.read(["clip7"])[0].tobytes()


def test_small_sets_have_none(tmp_path: Path) -> None:
    write(tmp_path, clips(3), clips_per_shard=1)
    FeatureSet.open(tmp_path)
    assert not (tmp_path / index_cache.NAME).exists()


def test_it_is_made_anew_after_each_change(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = clips(31)
    with FeatureWriter(cached, card()) as writer:
        for clip_id in list(more)[20:]:
            writer.add(clip_id, *more[clip_id])
    assert not reads_no_index(cached, monkeypatch)
    assert reads_no_index(cached, monkeypatch)
    assert_holds(cached, more)
    compact(cached)
    assert_holds(cached, more)
    assert not list((cached / "shards").glob(".*"))
    index = next((cached / "shards").glob("*.parquet"))
    index.unlink()
    with pytest.raises(SupportsetError, match="index file is missing"):
        FeatureSet.open(cached)
    index.with_suffix(".json").unlink()
    assert len(FeatureSet.open(cached)) < 31


def test_an_index_file_that_was_replaced_is_noticed(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = next((cached / "shards").glob("*.parquet"))
    index.write_bytes(index.read_bytes())  # the same again, at another time
    assert not reads_no_index(cached, monkeypatch)


def test_a_flipped_bit_anywhere_in_it_is_harmless(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cached / index_cache.NAME
    whole = cache.read_bytes()
    expected = FeatureSet.open(cached).rows()
    for at in np.random.default_rng(0).integers(0, 8 * len(whole), 60).tolist():
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        cache.write_bytes(damaged)
        assert not reads_no_index(cached, monkeypatch)
        assert FeatureSet.open(cached).rows().equals(expected)
    for length in (0, 1, 16, 17, len(whole) // 2, len(whole) - 1):
        cache.write_bytes(whole[:length])
        assert not reads_no_index(cached, monkeypatch)
    assert_holds(cached, clips(20))


def test_a_set_that_may_only_be_read_opens_without_one(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: LocalFolder, files: object, *, replace: bool = True) -> bool:
        raise SupportsetError("read-only")

    (cached / index_cache.NAME).unlink()
    monkeypatch.setattr(LocalFolder, "put", refuse)
    assert len(FeatureSet.open(cached)) == 20


def test_a_set_opened_from_it_reads_on_after_a_compaction(cached: Path) -> None:
    features = FeatureSet.open(cached)
    expected = features.read(features.clip_ids)[0].tobytes()
    opened = FeatureSet.open(cached)
    compact(cached)
    assert opened.read(opened.clip_ids)[0].tobytes() == expected
    assert opened.statuses() == {"ok": 20, "unreadable": 3}
    assert set(opened.rows()["clip_id"].to_pylist()) == {*opened.clip_ids, "broken0", "broken1", "broken2"}


def test_a_listing_that_changes_while_it_is_read_makes_no_cache(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cached / index_cache.NAME).unlink()

    def read_while_another_writes(shards: object) -> ClipTable:
        table = _read(open_folder(cached).child("shards"))
        with FeatureWriter(cached, card()) as writer:
            writer.fail("late", "missing", "")
        return table

    with monkeypatch.context() as patch:
        patch.setattr(ClipTable, "read", read_while_another_writes)
        FeatureSet.open(cached)
    assert not (cached / index_cache.NAME).exists()


def test_a_listing_that_missed_what_a_compaction_moved_is_not_taken_for_an_older_set(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps = LocalFolder.stamps
    listings = [stamps(LocalFolder(cached / "shards"))]  # then some shards come, and a compaction moves them ...
    more = clips(31)
    write(cached, {clip_id: more[clip_id] for clip_id in list(more)[20:]})

    def torn(self: LocalFolder) -> dict[str, str]:  # ... while they are listed: neither the old nor the new are seen
        return listings.pop() if listings else stamps(self)

    monkeypatch.setattr(LocalFolder, "stamps", torn)
    assert_holds(cached, more)
    assert not listings
