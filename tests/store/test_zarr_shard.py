"""Zarr shards: the contract, and what is peculiar to Zarr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from supportset.store.errors import SupportsetError
from supportset.store.files import LocalFolder
from supportset.store.format.shard import ShardArrays
from supportset.store.format.shards.zarr import ZarrFormat, crc32c
from tests.store.contract import ShardFormatContract
from tests.store.samples import clips, write

SHARD = "0123456789abcdef"


class TestZarr(ShardFormatContract):
    name = "zarr"

    def read_plainly(self, path: Path) -> dict[str, np.ndarray[Any, Any]]:
        group = zarr.open_group(path, mode="r")
        return {name: np.asarray(array[...]) for name, array in group.arrays()}


def test_checksum_is_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of RFC 3720's CRC


def test_slices_are_fetched_in_chunks_of_at_most_256_rows(tmp_path: Path) -> None:
    write(tmp_path, clips(60))
    (path,) = (tmp_path / "shards").glob("*.zarr")
    values = zarr.open_group(path, mode="r")["values"]
    assert isinstance(values, zarr.Array)
    assert values.shape[0] > 512
    assert 128 < values.chunks[0] <= 256
    assert values.shards is not None
    assert values.shards[0] - values.shape[0] < values.chunks[0]
    assert values.compressors == ()


def store_arrays(folder: Path, arrays: ShardArrays, **layout: Any) -> None:
    """Write a shard as a user of zarr-python would."""
    group = zarr.create_group(folder / f"{SHARD}.zarr")
    for name, array in arrays.items():
        options = {"compressors": None, **layout} if name == "values" else {"compressors": None, "chunks": array.shape}
        group.create_array(name, data=array, **options)


ARRAYS = ShardArrays.pack(*zip(*clips(40).values(), strict=True))
ROWS = len(ARRAYS.values)


@pytest.mark.parametrize(
    "layout",
    [
        {"chunks": ARRAYS.values.shape},
        {"chunks": (ROWS + 5, 6)},
        {"chunks": (64, 6), "shards": (64 * 20, 6)},
        {"chunks": (64, 6), "shards": (64 * 20, 6), "chunk_key_encoding": {"name": "v2", "separator": "."}},
    ],
)
def test_what_zarr_python_writes_uncompressed_is_found(tmp_path: Path, layout: dict[str, Any]) -> None:
    store_arrays(tmp_path, ARRAYS, **layout)
    folder = LocalFolder(tmp_path)
    found = ZarrFormat().locate(folder, SHARD)
    for name, array in ARRAYS.items():
        assert found[name].view(folder.map(found[name].file).content).tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "layout",
    [
        {"chunks": ARRAYS.values.shape, "compressors": "auto"},
        {"chunks": (64, 6), "shards": (64 * 20, 6), "compressors": "auto"},
        {"chunks": (64, 3), "shards": (64 * 20, 6)},
    ],
)
def test_what_is_not_in_one_run_is_not_mapped_but_decoded(tmp_path: Path, layout: dict[str, Any]) -> None:
    store_arrays(tmp_path, ARRAYS, **layout)
    with pytest.raises(SupportsetError, match="compressed or not contiguous"):
        ZarrFormat().locate(LocalFolder(tmp_path), SHARD)
    assert ZarrFormat().decode(LocalFolder(tmp_path), SHARD, "values").tobytes() == ARRAYS.values.tobytes()


def test_chunk_that_zarr_left_out_is_not_taken_for_zeros(tmp_path: Path) -> None:
    values = ARRAYS.values.copy()
    values[64:128] = 0  # zarr-python does not write an inner chunk that holds only the fill value
    store_arrays(tmp_path, ShardArrays(values, ARRAYS.timestamps, ARRAYS.offsets), chunks=(64, 6), shards=(64 * 20, 6))
    with pytest.raises(SupportsetError, match="compressed or not contiguous"):
        ZarrFormat().locate(LocalFolder(tmp_path), SHARD)


def test_several_chunk_files_are_refused(tmp_path: Path) -> None:
    store_arrays(tmp_path, ARRAYS, chunks=(64, 6))
    for read in (lambda f: ZarrFormat().locate(f, SHARD), lambda f: ZarrFormat().decode(f, SHARD, "values")):
        with pytest.raises(SupportsetError, match="more than one chunk file"):
            read(LocalFolder(tmp_path))


def test_damaged_shard_index_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, clips(3))
    (path,) = (tmp_path / "shards").glob("*.zarr")
    file = path / "values" / "c.0.0"
    content = bytearray(file.read_bytes())
    content[-8] ^= 1
    file.write_bytes(content)
    with pytest.raises(SupportsetError, match=r"values/c\.0\.0: compressed"):
        ZarrFormat().locate(LocalFolder(tmp_path / "shards"), path.stem)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b'{"shape": 1}'])
def test_damaged_metadata_is_one_line(tmp_path: Path, damage: bytes) -> None:
    write(tmp_path, clips(3))
    (path,) = (tmp_path / "shards").glob("*.zarr")
    (path / "values" / "zarr.json").write_bytes(damage)
    with pytest.raises(SupportsetError, match=r"values/zarr\.json: damaged") as caught:
        ZarrFormat().locate(LocalFolder(tmp_path / "shards"), path.stem)
    assert "\n" not in str(caught.value)


def test_absent_files_are_named(tmp_path: Path) -> None:
    write(tmp_path, clips(3))
    (path,) = (tmp_path / "shards").glob("*.zarr")
    for name in ("values/c.0.0", "values/zarr.json"):
        (path / name).unlink()
        with pytest.raises(SupportsetError, match=f"{name}: the file is missing"):
            ZarrFormat().locate(LocalFolder(tmp_path / "shards"), path.stem)


def test_metadata_says_what_the_rows_are(tmp_path: Path) -> None:
    write(tmp_path, clips(3))
    (path,) = (tmp_path / "shards").glob("*.zarr")
    assert json.loads((path / "values" / "zarr.json").read_bytes())["dimension_names"] == ["step", "feature"]
