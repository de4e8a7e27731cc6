"""Several feature sets as one, against a naive resampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.read.aligned import AlignedFeatures, resample
from supportset.store.read.feature_set import FeatureSet
from tests.store.samples import Clip, card, clip, clips, write

Array = np.ndarray[Any, Any]


def naive(values: Array, times: Array, grid: Array) -> Array:
    """Overlap-weighted mean, else the nearest step: one number at a time."""
    rows = []
    for start, end in grid:
        weights = [max(0.0, min(end, e) - max(start, s)) for s, e in times]
        if sum(weights) == 0:
            middles = [abs((s + e) / 2 - (start + end) / 2) for s, e in times]
            weights = [float(i == middles.index(min(middles))) for i in range(len(times))]
        rows.append(sum(w * v.astype(np.float64) for w, v in zip(weights, values, strict=True)) / sum(weights))
    return np.array(rows)


@pytest.mark.parametrize("seed", range(10))
def test_resampling_against_a_naive_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(1, 12))
    start = np.sort(rng.uniform(0, 10, steps))
    times = np.stack([start, start + rng.uniform(0, 2, steps)], axis=1)
    grid_start = np.arange(int(rng.integers(1, 12))) * rng.uniform(0.3, 3)
    grid = np.stack([grid_start, grid_start + rng.uniform(0, 2)], axis=1)
    values = rng.standard_normal((steps, 5)).astype(np.float32)
    np.testing.assert_allclose(resample(values, times, grid), naive(values, times, grid), rtol=1e-5, atol=1e-5)


def test_instants_take_the_nearest_step() -> None:
    values = np.array([[1.0], [2.0], [3.0]], np.float16)
    instants = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert resample(values, instants, np.array([[0.9, 0.9], [5.0, 5.0]])).tolist() == [[2.0], [3.0]]


def test_equal_grids_keep_every_bit() -> None:
    values, times = clip(3)
    assert resample(values, times, times.copy()).tobytes() == values.tobytes()


def store(path: Path, content: dict[str, Clip], **options: Any) -> FeatureSet:
    write(path, content, **options)
    return FeatureSet.open(path)


def test_one_set_passes_through(tmp_path: Path) -> None:
    features = store(tmp_path, clips(4))
    aligned = AlignedFeatures([features])
    assert (aligned.clip_ids, aligned.dim, aligned.dtype) == (features.clip_ids, features.dim, np.float16)
    assert aligned.missing == {}
    asked = ["clip3", "clip1", "clip3"]
    for got, wanted in zip(aligned.read(asked), features.read(asked), strict=True):
        assert got.tobytes() == wanted.tobytes()


def test_two_sets_are_cut_to_common_clips_and_joined_in_time(tmp_path: Path) -> None:
    slow = {f"clip{i}": clip(i, 3 + i) for i in range(4)}
    fast: dict[str, Clip] = {}
    for i in range(1, 5):
        times = np.arange(10 + i)[:, None] / 3 + np.array([[0.0, 1 / 3]])
        fast[f"clip{i}"] = (clip(50 + i, 10 + i)[0], times)
    first = store(tmp_path / "slow", slow)
    second = store(
        tmp_path / "fast", {k: (v.astype(np.float32), t) for k, (v, t) in fast.items()}, card=card(dtype="float32")
    )
    aligned = AlignedFeatures([first, second])
    assert aligned.clip_ids == [clip_id for clip_id in first.clip_ids if clip_id != "clip0"]
    assert aligned.missing == {"slow": ["clip4"], "fast": ["clip0"]}
    assert (aligned.dim, aligned.dtype, len(aligned)) == (12, np.float32, 3)
    assert "clip1" in aligned
    assert "clip0" not in aligned
    asked = ["clip3", "clip1"]
    values, offsets = aligned.read(asked)
    assert values.dtype == np.float32
    assert np.diff(offsets).tolist() == [6, 4] == aligned.lengths(asked).tolist()
    assert (aligned.read_timestamps(asked) == first.read_timestamps(asked)).all()
    for i, clip_id in enumerate(asked):
        here = values[offsets[i] : offsets[i + 1]]
        assert (here[:, :6] == slow[clip_id][0]).all()
        np.testing.assert_allclose(here[:, 6:], naive(*fast[clip_id], slow[clip_id][1]), rtol=1e-3, atol=1e-3)


def test_clip_that_one_set_lacks_is_named(tmp_path: Path) -> None:
    aligned = AlignedFeatures([store(tmp_path / "a", clips(3)), store(tmp_path / "b", clips(2))])
    with pytest.raises(SupportsetError, match=r"/b: no features of 1 clip: 'clip2'"):
        aligned.read(["clip0", "clip2"])


def test_sets_without_a_common_clip_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="have no clip in common"):
        AlignedFeatures([store(tmp_path / "a", clips(3)), store(tmp_path / "b", clips(3, "other"))])
    with pytest.raises(UsageError, match="no feature set is named"):
        AlignedFeatures([])
