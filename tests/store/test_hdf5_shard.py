"""HDF5 shards: the contract, and what is peculiar to HDF5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from supportset.store.errors import SupportsetError
from supportset.store.files import LocalFolder
from supportset.store.format.shard import ShardArrays
from supportset.store.format.shards.hdf5 import Hdf5Format
from tests.store.contract import ShardFormatContract
from tests.store.samples import clips, write

pytestmark = pytest.mark.slow

SHARD = "0123456789abcdef"
ARRAYS = ShardArrays.pack(*zip(*clips(40).values(), strict=True))


class TestHdf5(ShardFormatContract):
    name = "hdf5"

    def read_plainly(self, path: Path) -> dict[str, np.ndarray[Any, Any]]:
        with h5py.File(path) as file:
            return {name: file[name][...] for name in file}


def store_arrays(folder: Path, **layout: Any) -> None:
    """Write a shard as a user of h5py would."""
    with h5py.File(folder / f"{SHARD}.h5", "w") as file:
        for name, array in ARRAYS.items():
            file.create_dataset(name, data=array, **(layout if name == "values" else {}))


def test_datasets_are_contiguous(tmp_path: Path) -> None:
    write(tmp_path, clips(30), shard_format="hdf5")
    (path,) = (tmp_path / "shards").glob("*.h5")
    with h5py.File(path) as file:
        assert [file[name].chunks for name in file] == [None, None, None]


def test_what_h5py_writes_uncompressed_is_found(tmp_path: Path) -> None:
    store_arrays(tmp_path)
    folder = LocalFolder(tmp_path)
    found = Hdf5Format().locate(folder, SHARD)
    for name, array in ARRAYS.items():
        assert found[name].view(folder.map(found[name].file).content).tobytes() == array.tobytes()


def test_what_is_not_in_one_run_is_not_mapped_but_decoded(tmp_path: Path) -> None:
    store_arrays(tmp_path, chunks=(64, 6), compression="gzip")
    with pytest.raises(SupportsetError, match="values is not contiguous"):
        Hdf5Format().locate(LocalFolder(tmp_path), SHARD)
    assert Hdf5Format().decode(LocalFolder(tmp_path), SHARD, "values").tobytes() == ARRAYS.values.tobytes()


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_damaged_file_is_one_line(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / f"{SHARD}.h5").write_bytes(damage)
    with pytest.raises(SupportsetError, match=f"{SHARD}.h5: .*store verify --drop-damaged") as caught:
        Hdf5Format().locate(LocalFolder(tmp_path), SHARD)
    assert "\n" not in str(caught.value)


def test_dataset_that_is_not_there(tmp_path: Path) -> None:
    with h5py.File(tmp_path / f"{SHARD}.h5", "w") as file:
        file["values"] = np.zeros(3)
    with pytest.raises(SupportsetError, match="timestamps"):
        Hdf5Format().locate(LocalFolder(tmp_path), SHARD)
