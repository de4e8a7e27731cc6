"""Archives under a reader: what was unpacked is everybody's, and is not kept longer than it is needed."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest

from supportset.store.files import Folder
from supportset.store.format.registry import shard_format
from supportset.store.format.shard import Array, ShardFormat
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.convert import convert_feature_set
from tests.store.samples import clips, write


@pytest.mark.parametrize(("to", "compress"), [("zarr", "zstd"), ("hdf5", "gzip")])
def test_what_was_unpacked_of_an_archive_cannot_be_changed_and_goes_with_its_shard(
    tmp_path: Path, to: str, compress: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = clips(12)
    write(tmp_path, content, clips_per_shard=2)
    convert_feature_set(tmp_path, to, compress=compress)
    unpacked: list[weakref.ref[Array]] = []
    kind = type(shard_format(to))
    decode = kind.decode

    def noted(self: ShardFormat, folder: Folder, shard: str, name: str) -> Array:
        array = decode(self, folder, shard, name)
        unpacked.append(weakref.ref(array))
        return array

    monkeypatch.setattr(kind, "decode", noted)
    features = FeatureSet.open(tmp_path)
    for clip_id, values, times in features.scan():
        assert (values.tobytes(), times.tobytes()) == tuple(part.tobytes() for part in content[clip_id])
        assert not values.flags.writeable
        assert not times.flags.writeable
        assert sum(array() is not None for array in unpacked) <= 2  # values and timestamps of one shard
    assert len(unpacked) == 12
