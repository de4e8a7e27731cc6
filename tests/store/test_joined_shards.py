"""Many shards as one array: the same rows as from each alone, whatever the sizes, the formats and what befalls them."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import supportset.store.read.joined_shards as joining
import supportset.store.read.mapped_shards as mapping
from supportset.store.errors import SupportsetError
from supportset.store.files import LocalFolder
from supportset.store.files.address_range import AddressRange
from supportset.store.maintain.compact import compact
from supportset.store.read.feature_set import FeatureSet
from supportset.store.read.joined_shards import lay_out
from supportset.store.read.mapped_shards import MappedShards
from supportset.store.transfer.convert import convert_feature_set
from tests.store.samples import FORMATS, Clip, card, clips, write

Array = np.ndarray[Any, Any]

pytestmark = [
    pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="files are mapped one by one here"),
    pytest.mark.slow,
]


def made(count: int, columns: int, dtype: str, longest: int = 60) -> dict[str, Clip]:
    rng = np.random.default_rng(columns)
    content = {}
    for number in range(count):
        times = np.sort(rng.random((int(rng.integers(1, longest)), 2)), axis=1)
        content[f"clip{number}"] = (rng.standard_normal((len(times), columns)).astype(dtype), times)
    return content


def assert_reads(features: FeatureSet, content: dict[str, Clip], seed: int = 0) -> None:
    """Batches at random are what was written: values and timestamps."""
    rng = np.random.default_rng(seed)
    ids = list(content)
    for size in (1, 7, 2 * len(ids)):
        asked = [ids[i] for i in rng.integers(0, len(ids), size)]
        values, offsets = features.read(asked)
        assert values.tobytes() == b"".join(content[clip_id][0].tobytes() for clip_id in asked)
        assert np.diff(offsets).tolist() == [len(content[clip_id][0]) for clip_id in asked]
        assert features.read_timestamps(asked).tobytes() == b"".join(content[clip_id][1].tobytes() for clip_id in asked)


def joined(features: FeatureSet, name: str = "values") -> list[bool]:
    """Of each shard whether it is part of the one array."""
    return (features._mapped[name]._first >= 0).tolist()


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that maps files where it wants."""

    def refuse(size: int) -> AddressRange:
        raise OSError("no")

    monkeypatch.setattr(joining, "AddressRange", refuse)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each indexed copy has had."""
    rows: list[int] = []
    take = np.take

    def noted(*arguments: Any, **options: Any) -> Any:
        rows.append(len(arguments[1]))
        return take(*arguments, **options)

    monkeypatch.setattr(mapping.np, "take", noted)
    return rows


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize(("columns", "dtype"), [(1, "float16"), (3, "float32"), (500, "float16"), (1280, "float32")])
def test_rows_of_any_size_lie_one_after_the_other(
    tmp_path: Path, shard_format: str, columns: int, dtype: str, copies: list[int]
) -> None:
    content = made(40, columns, dtype)
    write(tmp_path, content, card=card(dim=columns, dtype=dtype), shard_format=shard_format, clips_per_shard=7)
    features = FeatureSet.open(tmp_path, check=True)
    assert_reads(features, content)
    assert joined(features) == joined(features, "timestamps") == [True] * 6
    assert len(copies) == 6  # values and timestamps, three times
    view = features._mapped["values"].views[2]
    assert view is not None
    assert not view.flags.writeable


@pytest.mark.parametrize("shard_format", FORMATS)
def test_where_files_cannot_be_joined_each_is_mapped_alone(
    tmp_path: Path, shard_format: str, apart: None, copies: list[int]
) -> None:
    content = clips(40)
    write(tmp_path, content, shard_format=shard_format, clips_per_shard=7)
    features = FeatureSet.open(tmp_path, check=True)
    assert_reads(features, content)
    assert joined(features) == [False] * 6
    assert copies == []


@pytest.mark.parametrize("columns", [6, 512])
def test_a_mixture_of_everything(tmp_path: Path, copies: list[int], columns: int) -> None:
    """Zarr, HDF5 and archives of both, as conversions that were stopped leave them."""
    content = {}
    shards = tmp_path / "set" / "shards"
    for number, (shard_format, compress) in enumerate(
        [("zarr", None), ("hdf5", None), ("zarr", "zstd:1"), ("hdf5", "gzip:1"), ("zarr", None)]
    ):
        part = {f"part{number}-{clip_id}": clip for clip_id, clip in made(6, columns, "float16").items()}
        content.update(part)
        path = tmp_path / str(number) if number else tmp_path / "set"
        write(path, part, card=card(dim=columns), shard_format=shard_format, clips_per_shard=3)
        if compress:
            convert_feature_set(path, shard_format, compress=compress)
        if number:
            shutil.copytree(path / "shards", shards, dirs_exist_ok=True)
    features = FeatureSet.open(tmp_path / "set", check=True)
    assert_reads(features, content)
    kinds = [(index.shard_format, bool(index.arrays)) for index in features._indexes]
    assert joined(features) == [plain for _, plain in kinds]
    assert joined(features, "timestamps") == [plain for _, plain in kinds]
    copies.clear()
    plain = [clip_id for clip_id in content if clip_id.startswith(("part0", "part4"))]
    features.read(plain)
    assert copies == [sum(len(content[clip_id][0]) for clip_id in plain)]
    scanned = {clip_id: (v.tobytes(), t.tobytes()) for clip_id, v, t in features.scan()}
    assert scanned == {clip_id: (v.tobytes(), t.tobytes()) for clip_id, (v, t) in content.items()}


def test_long_clips_are_copied_as_slices(tmp_path: Path, copies: list[int]) -> None:
    content = made(3, 2, "float16", 3000)
    write(tmp_path, content, card=card(dim=2))
    assert_reads(FeatureSet.open(tmp_path), content)
    assert copies == []


def test_another_dtype_and_room_that_is_not_in_one_piece(tmp_path: Path) -> None:
    content = clips(20)
    write(tmp_path, content, clips_per_shard=6)
    features = FeatureSet.open(tmp_path, check=True)
    rows = features.find(content)
    plain, offsets = features.read_rows(rows)
    wide = np.full((len(plain) + 3, features.dim), 7, np.float32)
    assert (features.read_rows(rows, wide)[0] == plain).all()
    assert (wide[len(plain) :] == 7).all()
    broad = np.full((len(plain), 2 * features.dim), 7, np.float16)
    found, _ = features.read_rows(rows, broad[:, ::2])
    assert np.shares_memory(found, broad)
    assert (broad[:, ::2] == plain).all()
    assert (broad[:, 1::2] == 7).all()
    values, offsets = features.read([])
    assert (values.shape, offsets.tolist()) == ((0, features.dim), [0])


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("harm", ["gone", "cut", "longer"])
def test_a_file_that_is_not_whole_is_told_before_it_is_mapped(tmp_path: Path, shard_format: str, harm: str) -> None:
    content = clips(20)
    write(tmp_path, content, shard_format=shard_format, clips_per_shard=5)
    features = FeatureSet.open(tmp_path)
    features.read(features.clip_ids[:5])  # the range is there, with the first shard
    location = features._indexes[1].arrays["values"]
    file = tmp_path / "shards" / location.file
    if harm == "gone":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size + (1 if harm == "longer" else -1))
    with pytest.raises(
        SupportsetError, match="the shard file is missing" if harm == "gone" else "its index says"
    ) as told:
        features.read(features.clip_ids)
    assert "\n" not in str(told.value)
    kept = {clip_id: content[clip_id] for clip_id in (*features.clip_ids[:5], *features.clip_ids[10:])}
    assert_reads(features, kept)


@pytest.mark.parametrize("joins", [True, False])
def test_a_file_that_is_cut_between_the_look_and_the_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, joins: bool
) -> None:
    if not joins:
        request.getfixturevalue("apart")
    write(tmp_path, clips(5))
    features = FeatureSet.open(tmp_path)
    size = LocalFolder.size

    def then_cut(self: LocalFolder, name: str) -> int | None:
        found = size(self, name)
        if "values" in name:
            os.truncate(self.path / name, 10)
        return found

    monkeypatch.setattr(LocalFolder, "size", then_cut)
    with pytest.raises(SupportsetError, match="the shard file has 10 bytes, its index says"):
        features.read(features.clip_ids)


def test_the_rows_that_an_index_promises_are_there(tmp_path: Path) -> None:
    """An index of other columns, or of more rows than bytes, is told as ever."""
    for number, change in enumerate(
        [{"shape": (10, 7)}, {"dtype": "float32"}, {"shape": (10**12, 6)}, {"shape": (1, 6)}]
    ):
        write(tmp_path / str(number), clips(5))
        features = FeatureSet.open(tmp_path / str(number))
        (index,) = features._indexes
        for key, value in change.items():
            object.__setattr__(index.arrays["values"], key, value)
        with pytest.raises(SupportsetError, match=r"needed are|shorter than its index says"):
            features.read(features.clip_ids)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_addresses_and_files_go_with_the_last_view(tmp_path: Path) -> None:
    def count() -> tuple[int, int]:
        gc.collect()
        with open("/proc/self/maps") as maps:
            return sum(str(tmp_path) in line for line in maps), len(os.listdir("/proc/self/fd"))

    content = clips(60)
    write(tmp_path, content, clips_per_shard=10)
    _, files = count()
    features = FeatureSet.open(tmp_path)
    features.read(content)
    features.read_timestamps(content)
    assert count() == (12, files)  # a map a file, and none of them open
    scanned = [(clip_id, values) for clip_id, values, _ in features.scan()]
    view = features._mapped["values"].views[1]
    assert view is not None
    kept = view.tobytes()
    del features
    assert count()[0] == 12  # of the scan, and of the one view
    for clip_id, values in scanned:
        assert values.tobytes() == content[clip_id][0].tobytes()
    assert view.tobytes() == kept
    del scanned, values
    assert count()[0] == 6
    del view
    assert count() == (0, files)


def test_a_set_travels_without_its_maps(tmp_path: Path) -> None:
    content = clips(20)
    write(tmp_path, content, clips_per_shard=6)
    features = FeatureSet.open(tmp_path)
    assert_reads(features, content)
    there = pickle.loads(pickle.dumps(features))
    assert joined(there) == [False] * 4
    assert_reads(there, content)
    assert joined(there) == [True] * 4


@pytest.mark.skipif(sys.platform != "linux", reason="a fork with threads is no good elsewhere")
def test_a_fork_reads_on(tmp_path: Path) -> None:
    content = clips(24)
    write(tmp_path, content, clips_per_shard=6)
    features = FeatureSet.open(tmp_path)
    features.read(features.clip_ids[:6])
    child = multiprocessing.get_context("fork").Process(target=assert_reads, args=(features, content))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert joined(features) == [True, False, False, False]
    assert_reads(features, content)


def test_threads_map_and_read_at_the_same_time(tmp_path: Path) -> None:
    content = clips(240)
    write(tmp_path, content, clips_per_shard=4)
    for _ in range(5):
        features = FeatureSet.open(tmp_path)
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(assert_reads, features, content, seed) for seed in range(16)]:
                done.result()
        assert joined(features) == [True] * 60


@pytest.mark.parametrize("how", ["compact", "convert", "archive"])
@pytest.mark.parametrize("seen", [0, 9, 40])
def test_shards_that_move_are_joined_with_the_others(tmp_path: Path, how: str, seen: int) -> None:
    content = clips(40)
    write(tmp_path, content, clips_per_shard=4)
    features = FeatureSet.open(tmp_path)
    features.read(features.clip_ids[:seen])
    if how == "compact":
        compact(tmp_path)
    else:
        convert_feature_set(tmp_path, "hdf5", compress="gzip:1" if how == "archive" else "none")
    assert_reads(features, content)
    extra = {f"more{i}": content[f"clip{i}"] for i in range(3)}
    write(tmp_path, extra)
    assert_reads(features, content)


def test_what_was_mapped_stays_where_its_file_has_gone(tmp_path: Path) -> None:
    content = clips(40)
    write(tmp_path, content, clips_per_shard=10)
    features = FeatureSet.open(tmp_path)
    features.read(content)
    longer = features._mapped["values"].extend([])
    names = [index.arrays["values"].file for index in features._indexes]
    (tmp_path / "shards" / names[2]).unlink()
    before = features._mapped["values"]
    del features._mapped["values"]
    features._mapped["values"] = longer
    assert_reads(features, content)
    assert joined(features) == [True, True, False, True]
    assert (before._first >= 0).all()


def test_a_shard_that_cannot_be_placed_is_mapped_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of maps is reached in the middle, and there is room again for others."""
    content = clips(40)
    write(tmp_path, content, clips_per_shard=4)
    map_file, calls = AddressRange.map_file, []

    def refuse(self: AddressRange, *place: int) -> None:
        calls.append(place)
        if len(calls) > 5:
            raise OSError(12, "Cannot allocate memory")
        map_file(self, *place)

    monkeypatch.setattr(AddressRange, "map_file", refuse)
    features = FeatureSet.open(tmp_path)
    assert_reads(features, content)
    assert 0 < sum(joined(features)) < 10
    assert len(calls) in (6, 7)  # each of the two arrays tries no more once one was refused


def test_a_scan_keeps_to_a_shard_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = clips(20)
    write(tmp_path, content, clips_per_shard=4)
    made: list[MappedShards] = []
    monkeypatch.setattr(MappedShards, "_join", lambda self, shard, mapped: made.append(self))
    scanned = {clip_id: values.tobytes() for clip_id, values, _ in FeatureSet.open(tmp_path).scan()}
    assert scanned == {clip_id: values.tobytes() for clip_id, (values, _) in content.items()}
    assert all(shards.separate for shards in made)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.none() | st.tuples(st.integers(0, 3000).map(lambda n: 2 * n), st.integers(1, 40)), max_size=12),
    st.integers(1, 700).map(lambda n: 2 * n),
    st.sampled_from([64, 256, 1024]),
)
def test_places_are_whole_rows_apart_and_nobody_elses(
    arrays: list[tuple[int, int] | None], row_bytes: int, page: int
) -> None:
    spans = [None if array is None else (array[0], array[1] * row_bytes) for array in arrays]
    origin, places = lay_out(spans, row_bytes, page)
    common = math.gcd(page, row_bytes)
    taken = 0
    for span, place in zip(spans, places, strict=True):
        if span is None:
            assert place is None
        elif place is None:
            assert span[0] % common != origin % common  # it could not be
        else:
            offset, size = span
            assert place.at % page == place.offset % page == 0
            assert place.offset <= offset < place.offset + page
            begin = place.at + offset - place.offset
            assert begin == origin + place.row * row_bytes
            assert place.row >= 0
            assert place.at >= taken
            assert begin + size <= place.at + place.size
            taken = place.at + place.size
    kept = [span[0] % common for span, place in zip(spans, places, strict=True) if span and place]
    there = [span[0] % common for span in spans if span]
    assert len(kept) == max((there.count(residue) for residue in there), default=0)  # as many as can be together
