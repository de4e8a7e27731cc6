"""Lost and damaged files: one line that names the file and the fix, never zeros, never a traceback."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import pyarrow.parquet as pq
import pytest
import zarr

from supportset.store.errors import SupportsetError
from supportset.store.files import LocalFolder, hash_file
from supportset.store.format.index import METADATA, StoredFile, read_all, write_index
from supportset.store.format.manifest import Entry, put_entry
from supportset.store.format.shard import ShardArrays
from supportset.store.maintain.repair import drop_damaged
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter
from tests.store.samples import FORMATS, assert_holds, card, clip, clips, write

pytestmark = [pytest.mark.parametrize("shard_format", FORMATS), pytest.mark.slow]


def values_file(path: Path) -> Path:
    ((index,), _) = read_all(LocalFolder(path / "shards"))
    return path / "shards" / index.arrays["values"].file


def refused(action: Callable[[], object], *says: str) -> None:
    with pytest.raises(SupportsetError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for part in says:
        assert part in message


def test_absent_shard_file(tmp_path: Path, shard_format: str) -> None:
    write(tmp_path, clips(3), shard_format=shard_format)
    file = values_file(tmp_path)
    features = FeatureSet.open(tmp_path)
    file.unlink()
    (index,) = (tmp_path / "shards").glob("*.parquet")
    refused(lambda: features.read(["clip1"]), str(file), "is missing", "store verify --drop-damaged")
    assert drop_damaged(tmp_path, {index.stem}) == ["clip0", "clip1", "clip2"]
    write(tmp_path, clips(3), shard_format=shard_format)
    assert_holds(tmp_path, clips(3))


@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_size(tmp_path: Path, shard_format: str, change: int) -> None:
    write(tmp_path, clips(3), shard_format=shard_format)
    file = values_file(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:change] if change < 0 else content + b"\0")
    stated = f"has {len(content) + change} bytes, its index says {len(content)}"
    refused(lambda: FeatureSet.open(tmp_path).read(["clip1"]), str(file), stated, "restore the file")


def test_clips_of_whole_shards_are_still_read(tmp_path: Path, shard_format: str) -> None:
    write(tmp_path, {"lost": clip(1)}, shard_format=shard_format)
    values_file(tmp_path).unlink()
    write(tmp_path, {"kept": clip(2)}, shard_format=shard_format)
    features = FeatureSet.open(tmp_path)
    assert features.read(["kept"])[0].tobytes() == clip(2)[0].tobytes()
    refused(lambda: features.read(["kept", "lost"]), "is missing")


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated_index(tmp_path: Path, shard_format: str, keep: int) -> None:
    write(tmp_path, clips(3), shard_format=shard_format)
    (index,) = (tmp_path / "shards").glob("*.parquet")
    index.write_bytes(index.read_bytes()[:keep])
    refused(lambda: FeatureSet.open(tmp_path), str(index), "damaged index file", "--drop-damaged")


def test_flipped_bits_in_an_index_are_not_read_as_something_else(tmp_path: Path, shard_format: str) -> None:
    write(tmp_path, clips(3), shard_format=shard_format)
    (index,) = (tmp_path / "shards").glob("*.parquet")
    whole = index.read_bytes()
    rows = FeatureSet.open(tmp_path).rows().to_pylist()
    noticed = 0
    for at in range(0, len(whole), 29):
        index.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        try:
            assert FeatureSet.open(tmp_path).rows().to_pylist() == rows
        except SupportsetError as error:
            noticed += str(index) in str(error)
    assert noticed > 20


def test_foreign_parquet_and_index_of_another_version(tmp_path: Path, shard_format: str) -> None:
    write(tmp_path, clips(3), shard_format=shard_format)
    (index,) = (tmp_path / "shards").glob("*.parquet")
    table = pq.read_table(index)
    metadata = table.schema.metadata[METADATA]
    foreign = table.replace_schema_metadata(None)
    newer = table.replace_schema_metadata({METADATA: metadata.replace(b'"format_version": 1', b'"format_version": 2')})
    for content, says in ((foreign, "damaged index file"), (newer, "format version 2 is newer")):
        pq.write_table(content, index)
        refused(lambda: FeatureSet.open(tmp_path), str(index), says)


def rewritten(path: Path, **changes: object) -> None:
    """Write the only index again, as a faulty writer would."""
    folder = LocalFolder(path / "shards")
    ((index,), (rows,)) = read_all(folder)
    write_index(folder, replace(index, **changes), rows)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shape": (2, 6)}, "has a clip that ends at step 53 of 2"),
        ({"shape": (106, 3)}, "its values are float16 (106, 3)"),
        ({"dtype": "float32", "shape": (20, 6)}, "has a clip that ends at step 53 of 20"),
        ({"offset": 10**9}, "'values' ends beyond its file"),
    ],
)
def test_index_that_contradicts_its_shard(
    tmp_path: Path, shard_format: str, change: dict[str, object], says: str
) -> None:
    write(tmp_path, clips(2), shard_format=shard_format)
    ((index,), _) = read_all(LocalFolder(tmp_path / "shards"))
    rewritten(tmp_path, arrays={**index.arrays, "values": replace(index.arrays["values"], **change)})  # type: ignore[arg-type]
    refused(lambda: FeatureSet.open(tmp_path).read(["clip1"]), says, "--drop-damaged")


def test_compressed_archive_is_read(tmp_path: Path, shard_format: str) -> None:
    write(tmp_path, clips(5), shard_format=shard_format)
    root = values_file(tmp_path).relative_to(tmp_path / "shards").parts[0]
    path = tmp_path / "shards" / root
    arrays = ShardArrays.pack(*zip(*clips(5).values(), strict=True))
    if shard_format == "zarr":
        group = zarr.create_group(path, overwrite=True)
        for name, array in arrays.items():
            group.create_array(
                name, data=array, chunks=array.shape, chunk_key_encoding={"name": "default", "separator": "."}
            )
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array, chunks=array.shape, compression="gzip")
    files = [each for each in [path, *path.rglob("*")] if each.is_file()]
    stated = [(str(each.relative_to(tmp_path / "shards")), each.stat().st_size, hash_file(each)) for each in files]
    rewritten(tmp_path, arrays={}, files=tuple(StoredFile(*facts) for facts in stated))
    assert_holds(tmp_path, clips(5))
    files[-1].unlink()
    refused(lambda: assert_holds(tmp_path, clips(5)), "the shard file is missing")


def test_renamed_index(tmp_path: Path, shard_format: str) -> None:
    write(tmp_path, clips(3), shard_format=shard_format)
    (index,) = (tmp_path / "shards").glob("*.parquet")
    index.rename(index.with_name("0" * 16 + ".parquet"))
    refused(lambda: FeatureSet.open(tmp_path), "0" * 16, f"is the index of shard {index.stem}: rename it back")


def test_index_that_is_a_broken_link(tmp_path: Path, shard_format: str) -> None:
    write(tmp_path, clips(3), shard_format=shard_format)
    (tmp_path / "shards" / ("0" * 16 + ".parquet")).symlink_to("nowhere")
    refused(lambda: FeatureSet.open(tmp_path), "0" * 16, "remove the broken link")


def test_other_files_are_left_alone(tmp_path: Path, shard_format: str) -> None:
    write(tmp_path, clips(3), shard_format=shard_format)
    for name in ("notes.txt", ".tmp-12-ab.parquet", "backup.parquet", "0123456789ABCDEF.parquet", "0123.h5"):
        (tmp_path / "shards" / name).write_text("something")
    assert_holds(tmp_path, clips(3))


def test_orphan_shard_is_not_seen(tmp_path: Path, shard_format: str) -> None:
    write(tmp_path, {"a": clip(1)}, shard_format=shard_format)
    (index,) = (tmp_path / "shards").glob("*.parquet")
    put_entry(LocalFolder(index.parent), index.stem, Entry())  # as if its writer had been killed before the commit
    index.unlink()
    write(tmp_path, {"b": clip(2)}, shard_format=shard_format)
    assert_holds(tmp_path, {"b": clip(2)})


def test_absent_clips_are_one_error_that_says_what_is_known(tmp_path: Path, shard_format: str) -> None:
    write(tmp_path, clips(3), shard_format=shard_format)
    with FeatureWriter(tmp_path, card()) as writer:
        writer.fail("broken", "unreadable", "")
    features = FeatureSet.open(tmp_path)
    asked = ["clip0", "broken", "x", "clip1", "y", "z"]
    for read in (features.read, features.lengths, features.read_timestamps, features.find):
        says = "no features of 4 clips: 'broken' (unreadable), 'x' (never extracted), 'y' (never extracted) and 1 more"
        refused(lambda read=read: read(asked), str(tmp_path), says)
    refused(lambda: features.read(["x"]), "no features of 1 clip: 'x' (never extracted);")


def test_opened_set_keeps_what_it_saw(tmp_path: Path, shard_format: str) -> None:
    write(tmp_path, {"a": clip(1)}, shard_format=shard_format)
    features = FeatureSet.open(tmp_path)
    write(tmp_path, {"a": clip(2), "b": clip(3)}, shard_format=shard_format)
    assert features.clip_ids == ["a"]
    assert features.read(["a"])[0].tobytes() == clip(1)[0].tobytes()


def test_unknown_format_lists_the_known(tmp_path: Path, shard_format: str) -> None:
    name = re.escape(shard_format)
    with pytest.raises(SupportsetError, match=f"'tar'.*{name}"):
        FeatureWriter(tmp_path / "new", card(), shard_format="tar")
    assert not (tmp_path / "new").exists()
