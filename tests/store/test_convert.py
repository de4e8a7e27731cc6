"""Convert: the other format in place, with the same rows and bits, and never a moment at which a reader sees less."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import supportset.store.transfer.convert as converting
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import LocalFolder, hash_file
from supportset.store.format.index import SCHEMA, ShardIndex, StoredFile, index_name, read_all, read_index, write_index
from supportset.store.format.shard import ARRAYS
from supportset.store.maintain.compact import compact
from supportset.store.maintain.verify import verify
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.convert import convert_feature_set
from supportset.store.write.replacement import replaced_shards
from supportset.store.write.writer import FeatureWriter, Source
from tests.store.samples import DIM, FORMATS, assert_holds, card, clip, clips, recipe, write

pytestmark = pytest.mark.slow

OTHER = {"zarr": "hdf5", "hdf5": "zarr"}


def state(path: Path) -> list[dict[str, Any]]:
    """Every effective row but the shard's id, which is new after a conversion."""
    rows = FeatureSet.open(path).rows().drop_columns("shard").to_pylist()
    return sorted(rows, key=lambda row: row["clip_id"])


def suffixes(path: Path) -> set[str]:
    return {file.suffix for file in (path / "shards").iterdir()} - {".parquet", ".json"}


def mixed(path: Path, shard_format: str) -> dict[str, Any]:
    """A set with shards of one format, failures among the clips, a shard of failures, and a retried clip."""
    content = clips(9)
    with FeatureWriter(path, card(), shard_format=shard_format, clips_per_shard=4) as writer:
        writer.fail("broken", "unreadable", "no codec", source=Source("b.mp4", 3, 4))
        writer.fail("retried", "missing", "not there yet")
        for clip_id, (values, times) in content.items():
            writer.add(clip_id, values, times, source=Source(f"{clip_id}.mp4", 1, 2, "xxh3-128:0"), seconds=0.25)
    content["retried"] = clip(77)
    write(path, {"retried": content["retried"]}, shard_format=shard_format)
    with FeatureWriter(path, card(), shard_format=shard_format) as writer:
        writer.fail("gone", "missing", "no file")
    return content


@pytest.mark.parametrize("shard_format", FORMATS)
def test_there_and_back(tmp_path: Path, shard_format: str) -> None:
    content = mixed(tmp_path, shard_format)
    before = state(tmp_path)
    told: list[tuple[int, int]] = []
    for to in (OTHER[shard_format], shard_format, OTHER[shard_format]):
        told.clear()
        summary = convert_feature_set(tmp_path, to, progress=lambda done, total: told.append((done, total)))
        assert (summary.converted, summary.clips, summary.already, summary.removed) == (4, 10, 1, 4)
        assert suffixes(tmp_path) == {".zarr" if to == "zarr" else ".h5"}
        assert state(tmp_path) == before
        assert_holds(tmp_path, content)
        assert told[-1] == (5, 5)
        assert len(list((tmp_path / "shards").glob("*.parquet"))) == 5
        indexes, _ = read_all(LocalFolder(tmp_path / "shards"))
        for index in indexes:
            assert len(index.replaces) <= 1  # lists do not grow with each conversion
            for file in index.files:
                path = tmp_path / "shards" / file.name
                assert (path.stat().st_size, hash_file(path)) == (file.size, file.xxh3)
            assert index.provenance == {"device": "cpu"}


def test_what_has_the_format_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, clips(3), shard_format="zarr")
    write(tmp_path, {"x": clip(5)}, shard_format="hdf5")
    before = {path.name for path in (tmp_path / "shards").glob("*.zarr")}
    summary = convert_feature_set(tmp_path, "zarr")
    assert (summary.converted, summary.already, summary.removed) == (1, 1, 1)
    assert before <= {path.name for path in (tmp_path / "shards").glob("*.zarr")}
    assert_holds(tmp_path, {**clips(3), "x": clip(5)})
    assert convert_feature_set(tmp_path, "zarr").converted == 0


def test_ties_between_writers_are_decided_as_before(tmp_path: Path) -> None:
    for trial in range(4):
        path = tmp_path / str(trial)
        writers = [FeatureWriter(path, card(), shard_format="zarr") for _ in range(2)]
        for seed, writer in enumerate(writers):
            writer.add("a", *clip(seed))
        for writer in writers:  # both began before either had committed: equal generations
            writer.seal()
        winner = FeatureSet.open(path).read(["a"])[0].tobytes()
        convert_feature_set(path, "hdf5")
        assert FeatureSet.open(path).read(["a"])[0].tobytes() == winner


def test_old_shards_may_be_kept_and_go_later(tmp_path: Path) -> None:
    content = mixed(tmp_path, "zarr")
    before = state(tmp_path)
    reader = FeatureSet.open(tmp_path)  # has mapped nothing yet
    summary = convert_feature_set(tmp_path, "hdf5", keep_old=True)
    assert (summary.kept, summary.removed) == (4, 0)
    assert suffixes(tmp_path) == {".zarr", ".h5"}
    assert state(tmp_path) == before
    assert len(reader.read(list(content))[0])
    # back again, with the first generation of shards still there: they must not come to life again
    convert_feature_set(tmp_path, "zarr", keep_old=True)
    write(tmp_path, {"clip3": clip(1000)}, shard_format="zarr")
    content["clip3"] = clip(1000)
    summary = convert_feature_set(tmp_path, "zarr")
    assert (summary.converted, summary.removed) == (0, 8)
    assert suffixes(tmp_path) == {".zarr"}
    assert_holds(tmp_path, content)


def test_a_stop_at_any_step_loses_nothing_and_a_second_run_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that changes the folder is in turn the one before which the process is killed."""

    class Killed(Exception):  # noqa: N818
        pass

    calls = {"left": 0}

    def counting(name: str) -> Any:
        real = getattr(LocalFolder, name)

        def call(self: LocalFolder, *args: Any, **options: Any) -> Any:
            if calls["left"] == 0:
                raise Killed
            calls["left"] -= 1
            return real(self, *args, **options)

        return call

    content = mixed(tmp_path / "before", "zarr")
    before = state(tmp_path / "before")
    stops = 0
    while True:
        path = tmp_path / str(stops)
        shutil.copytree(tmp_path / "before", path)
        calls["left"] = stops
        with monkeypatch.context() as patched:
            for name in ("put", "remove"):
                patched.setattr(LocalFolder, name, counting(name))
            try:
                convert_feature_set(path, "hdf5")
                break
            except Killed:
                stops += 1
        assert state(path) == before
        assert_holds(path, content)
        convert_feature_set(path, "hdf5")
        assert state(path) == before
        assert_holds(path, content)
        indexes, _ = read_all(LocalFolder(path / "shards"))
        assert {index.shard_format for index in indexes if index.files} == {"hdf5"}
        assert len(indexes) == len(list((path / "shards").glob("*.parquet")))
    assert stops == 4 * 4 + 4 * 4  # files, index and manifest entry (twice) of each new and each old shard


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("part", ["values", "timestamps"])
def test_a_damaged_shard_stays_and_is_named(tmp_path: Path, shard_format: str, part: str) -> None:
    write(tmp_path, clips(3), shard_format=shard_format)
    write(tmp_path, clips(3, "other"), shard_format=shard_format)
    index = next(i for i in read_all(LocalFolder(tmp_path / "shards"))[0])
    path = tmp_path / "shards" / index.arrays[part].file
    content = bytearray(path.read_bytes())
    content[index.arrays[part].offset] ^= 1
    path.write_bytes(content)
    summary = convert_feature_set(tmp_path, OTHER[shard_format])
    assert (summary.converted, summary.removed) == (1, 1)
    (told,) = summary.damaged
    assert index.shard in told
    assert "do not match their checksum" in told
    assert path.read_bytes() == content
    assert FeatureSet.open(tmp_path).statuses() == {"ok": 6}


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_cut_or_absent_shard_file_is_named(tmp_path: Path, shard_format: str, harm: str) -> None:
    write(tmp_path, clips(3), shard_format=shard_format)
    ((index,), _) = read_all(LocalFolder(tmp_path / "shards"))
    path = tmp_path / "shards" / index.arrays["values"].file
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        path.unlink()
    summary = convert_feature_set(tmp_path, OTHER[shard_format])
    assert (summary.converted, summary.removed) == (0, 0)
    assert path.name in summary.damaged[0]
    assert ("is missing" if harm == "gone" else "its index says") in summary.damaged[0]


def test_what_the_disk_does_not_hold_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, clips(3), shard_format="zarr")
    real = LocalFolder.put

    def lossy(self: LocalFolder, files: Any, **options: Any) -> bool:
        done = real(self, files, **options)
        for name in files:
            if name.endswith(".h5"):
                content = bytearray((self.path / name).read_bytes())
                content[-1] ^= 1
                (self.path / name).write_bytes(content)
        return done

    monkeypatch.setattr(LocalFolder, "put", lossy)
    with pytest.raises(SupportsetError, match="does not read back as written"):
        convert_feature_set(tmp_path, "hdf5")
    assert suffixes(tmp_path) == {".zarr"}
    assert_holds(tmp_path, clips(3))


def test_compressed_archives_are_unpacked(tmp_path: Path) -> None:
    content = clips(3)
    write(tmp_path, content, shard_format="zarr")
    folder = LocalFolder(tmp_path / "shards")
    ((index,), (rows,)) = read_all(folder)
    root = tmp_path / "shards" / f"{index.shard}.zarr"
    group = zarr.open_group(root, mode="r+")
    for name in ("values", "timestamps", "offsets"):
        data = group[name][...]
        del group[name]
        group.create_array(name, data=data, chunks=data.shape, compressors=[zarr.codecs.ZstdCodec(level=3)])
    files = [path for path in root.rglob("*") if path.is_file()]
    stored = tuple(
        StoredFile(str(path.relative_to(folder.path)), path.stat().st_size, hash_file(path)) for path in files
    )
    write_index(folder, replace(index, files=stored, arrays={}), rows)
    before = state(tmp_path)
    assert convert_feature_set(tmp_path, "hdf5").converted == 1
    assert state(tmp_path) == before
    assert_holds(tmp_path, content)


PACKINGS = [("zarr", "zstd"), ("zarr", "zstd:9"), ("hdf5", "gzip"), ("hdf5", "gzip:1")]


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize(("to", "compress"), PACKINGS)
def test_archives_and_back(tmp_path: Path, shard_format: str, to: str, compress: str) -> None:
    path = tmp_path / recipe().folder
    content = mixed(path, shard_format)
    content["black"] = np.zeros((7000, DIM), np.float16), np.zeros((7000, 2))
    write(path, {"black": content["black"]}, shard_format=shard_format)
    before = state(path)
    reader = FeatureSet.open(path)  # has mapped nothing yet
    summary = convert_feature_set(path, to, compress=compress)
    assert (summary.converted, summary.clips, summary.already, summary.removed) == (5, 11, 1, 5)
    assert summary.compression == (compress if ":" in compress else f"{compress}:3")
    folder = LocalFolder(path / "shards")
    for index in read_all(folder)[0]:
        assert index.arrays == {}
        assert index.shard_format == (to if index.files else shard_format)
        if "black" in read_index(folder, index.shard)[1]["clip_id"].to_pylist():
            assert sum(file.size for file in index.files) < 20_000
    assert state(path) == before
    assert_holds(path, content)
    assert reader.read(["retried"])[0].tobytes() == content["retried"][0].tobytes()
    assert verify(path).problems == []
    assert convert_feature_set(path, to, compress=compress).converted == 0
    other = "1" if compress.endswith("9") else "9"
    assert convert_feature_set(path, to, compress=f"{compress[:4]}:{other}").converted == 5  # another level
    assert compact(path).written == 0
    for target in (to, OTHER[to]):
        convert_feature_set(path, target)
        assert all(index.arrays for index in read_all(folder)[0] if index.files)
        assert state(path) == before
        assert_holds(path, content)
    assert verify(path).problems == []


def test_archives_open_with_plain_libraries(tmp_path: Path) -> None:
    content = {**clips(4), "long": clip(9, 600)}
    write(tmp_path, content)
    wanted = np.concatenate([values for values, _ in content.values()])
    times = np.concatenate([times for _, times in content.values()])
    for to, compress in (("zarr", "zstd"), ("hdf5", "gzip")):
        convert_feature_set(tmp_path, to, compress=compress)
        (root,) = [each for each in (tmp_path / "shards").iterdir() if each.suffix in (".zarr", ".h5")]
        # In a process of its own: nothing that we import may be what makes it readable.
        code = (
            f"import zarr; shard = zarr.open_group({str(root)!r}, mode='r')"
            if to == "zarr"
            else f"import h5py; shard = h5py.File({str(root)!r})"
        )
        code += f"; import numpy as np; np.savez({str(tmp_path / 'out.npz')!r}, *(shard[n][:] for n in {ARRAYS}))"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
        with np.load(tmp_path / "out.npz") as read:
            assert read["arr_0"].tobytes() == wanted.tobytes()
            assert read["arr_1"].tobytes() == times.tobytes()
            assert read["arr_2"].tolist() == [0, *np.cumsum([len(values) for values, _ in content.values()])]


@pytest.mark.parametrize(("to", "compress"), [("zarr", "zstd"), ("hdf5", "gzip")])
def test_a_damaged_archive_is_found_and_named(tmp_path: Path, to: str, compress: str) -> None:
    """Whatever byte it is: told in one line by verify and convert, never a traceback, never other numbers."""
    path = tmp_path / recipe().folder
    write(path, clips(3))
    convert_feature_set(path, to, compress=compress)
    wanted = b"".join(values.tobytes() for values, _ in clips(3).values())
    ((index,), _) = read_all(LocalFolder(path / "shards"))
    for file in index.files:
        whole = (path / "shards" / file.name).read_bytes()
        for at in range(0, len(whole), max(len(whole) // 12, 1)):
            (path / "shards" / file.name).write_bytes(whole[:at] + bytes([whole[at] ^ 32]) + whole[at + 1 :])
            (problem,) = verify(path).problems
            assert (problem.kind, problem.path) == ("content", str(path / "shards" / file.name))
            read, told = wanted, ""
            try:
                read = FeatureSet.open(path, check=True).read(["clip0", "clip1", "clip2"])[0].tobytes()
            except SupportsetError as error:
                told = str(error)
            assert read == wanted
            assert "\n" not in told
        (path / "shards" / file.name).write_bytes(whole)
    damaged = path / "shards" / max(index.files, key=lambda file: file.size).name
    damaged.write_bytes(damaged.read_bytes()[:-10])
    assert len(convert_feature_set(path, OTHER[to]).damaged) == 1


def test_compressions_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path, clips(1))
    for to, compress, says in (
        ("zarr", "gzip", "of zarr: use zstd"),
        ("hdf5", "zstd:3", "of hdf5: use gzip"),
        ("zarr", "zstd:0", "from 1"),
        ("zarr", "zstd:22", "from 1"),
        ("zarr", "zstd:", "from 1"),
    ):
        with pytest.raises(UsageError, match=says):
            convert_feature_set(tmp_path, to, compress=compress)
    assert convert_feature_set(tmp_path, "zarr", compress="none").already == 1


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "fail", "zarr", "hdf5", "keep zarr", "keep hdf5"]),
        st.integers(0, 4),
        st.integers(0, 99),
    ),
    max_size=8,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_history_reads_as_a_model_in_memory(tmp_path_factory: pytest.TempPathFactory, steps: Any) -> None:
    path = tmp_path_factory.mktemp("set")
    model: dict[str, Any] = {}
    failed: set[str] = set()
    FeatureWriter(path, card())
    for action, number, seed in steps:
        clip_id = f"clip{number}"
        if action == "add":
            model[clip_id] = clip(seed)
            write(path, {clip_id: model[clip_id]}, shard_format=FORMATS[seed % 2])
        elif action == "fail":
            failed.add(clip_id)
            with FeatureWriter(path, card()) as writer:
                writer.fail(clip_id, "unreadable", str(seed))
        else:
            convert_feature_set(path, action.split()[-1], keep_old="keep" in action)
        assert_holds(path, model)
        told = {row["clip_id"] for row in FeatureSet.open(path).rows().to_pylist() if row["status"] != "ok"}
        assert told == failed - set(model)


def test_new_ids_sort_where_the_old_ones_do() -> None:
    rng = random.Random(0)
    ids = sorted(f"{rng.getrandbits(64):016x}" for _ in range(200))
    found = [converting._successor(shard, [f"{shard}.zarr", index_name(shard)]) for shard in ids]
    assert found == sorted(found)
    assert not set(found) & set(ids)


def test_of_a_chain_the_eldest_goes_first(tmp_path: Path) -> None:
    """Else a stop in between would bring back what was replaced."""
    folder = LocalFolder(tmp_path)
    chain = ["c" * 16, "a" * 16, "b" * 16, "0" * 16]  # each stands for the one before
    for i, shard in enumerate(chain):
        write_index(
            folder, ShardIndex(shard, "zarr", "-", replaces=tuple(chain[max(i - 1, 0) : i])), SCHEMA.empty_table()
        )
    assert list(replaced_shards(folder)) == chain[:-1]


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a feature set"):
        convert_feature_set(tmp_path, "hdf5")
    write(tmp_path, clips(1))
    with pytest.raises(UsageError, match="'netcdf'"):
        convert_feature_set(tmp_path, "netcdf")
    assert convert_feature_set(tmp_path, "zarr").to_json()["path"] == str(tmp_path)
