"""Padded batches from memory and from mapped files: the same, and valid as long as they are promised to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from supportset.store.read.aligned import AlignedFeatures
from supportset.store.read.catalog import find_feature_set
from supportset.store.read.resident import thinned
from supportset.train.data import clip_features
from supportset.train.data.clip_features import ClipFeatures, Place
from tests.train.small_store import plant


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> AlignedFeatures:
    return AlignedFeatures([find_feature_set(plant(tmp_path_factory.mktemp("store")).root, "small/planted")])


@pytest.mark.parametrize("place", ["ram", "disk"])
@pytest.mark.parametrize("buffers", [0, 2])
def test_batches_are_the_stores_thinned_and_padded(features: AlignedFeatures, place: Place, buffers: int) -> None:
    ids = features.clip_ids[5:15][::-1]
    source = ClipFeatures(features, ids, 3, place=place, buffers=buffers)
    assert source.place == place
    for rows in (np.array([4, 0, 9, 4]), np.array([1]), np.array([7, 8, 2, 3, 5, 6])):
        source.prefetch(rows)
        values, mask = source.gather(rows)
        assert values.dtype == torch.float16
        assert tuple(values.shape) == (len(rows), max(source.lengths[rows]), features.dim)
        for row, padded, real in zip(rows, values, mask, strict=True):
            stored, _ = features.read([ids[row]])
            expected = stored[thinned(len(stored), 3)]
            assert np.array_equal(padded[: len(expected)].numpy(), expected)
            assert not padded[len(expected) :].any()
            assert real.tolist() == [True] * len(expected) + [False] * (len(real) - len(expected))


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_buffers_are_used_in_turn(features: AlignedFeatures, place: Place) -> None:
    source = ClipFeatures(features, features.clip_ids[:12], 4, place=place, buffers=2)
    source.gather(np.arange(12))  # from here on the memory is large enough
    source.gather(np.arange(12))
    first, _ = source.gather(np.array([1, 2]))
    kept = first.clone()
    second, _ = source.gather(np.array([3, 4]))
    assert torch.equal(first, kept)
    third, _ = source.gather(np.array([5, 6]))
    assert third.data_ptr() == first.data_ptr() != second.data_ptr()
    own = ClipFeatures(features, features.clip_ids[:12], 4, place=place)
    batches = [own.gather(np.array([row]))[0] for row in range(12)]
    assert len({batch.data_ptr() for batch in batches}) == 12


def test_features_that_memory_has_no_room_for_stay_on_disk(
    features: AlignedFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ClipFeatures(features, features.clip_ids, 4).place == "ram"
    monkeypatch.setattr(clip_features, "_OF_RAM", 0.0)
    small = ClipFeatures(features, features.clip_ids, 4)
    assert small.place == "disk"
    assert small.nbytes > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("place", ["gpu", "ram", "disk"])
def test_on_a_gpu(features: AlignedFeatures, place: Place) -> None:
    ids = features.clip_ids[:20]
    source = ClipFeatures(features, ids, 4, place=place, device="cuda", buffers=2)
    expected = ClipFeatures(features, ids, 4, place="ram")
    batches = [np.random.default_rng(i).integers(0, 20, 16) for i in range(50)]
    found = [source.gather(rows) for rows in batches]  # copies still under way while buffers are filled again
    for rows, (values, mask) in zip(batches, found, strict=True):
        assert values.is_cuda
        wanted, wanted_mask = expected.gather(rows)
        assert torch.equal(values.cpu(), wanted)
        assert torch.equal(mask.cpu(), wanted_mask)
