"""Resident features against slices of the clips themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import DTypeLike

from supportset.store.errors import SupportsetError
from supportset.store.files.memory import empty_aligned
from supportset.store.read import resident as resident_module
from supportset.store.read.aligned import AlignedFeatures
from supportset.store.read.feature_set import FeatureSet
from supportset.store.read.padding import lay_out
from supportset.store.read.resident import ResidentFeatures, resident_bytes, thinned
from tests.store.samples import DIM, FORMATS, Clip, card, clips, write


@pytest.fixture(params=FORMATS)
def content(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Clip]:
    """Twenty clips in a set at ``tmp_path / "a"``, three shards."""
    made = clips(20)
    write(tmp_path / "a", made, clips_per_shard=7, shard_format=request.param)
    return made


@pytest.mark.parametrize("device", [None, "cpu"])  # an array, and a tensor as on a GPU
@pytest.mark.parametrize("block", [1, 300, 1 << 20])
def test_gather_and_pad(
    tmp_path: Path, content: dict[str, Clip], device: str | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident_module, "_BLOCK_BYTES", block)
    ids = [f"clip{i}" for i in (13, 2, 7, 19, 0, 5)]
    held = ResidentFeatures(FeatureSet.open(tmp_path / "a"), ids, device=device)
    assert isinstance(held.values, torch.Tensor) == (device is not None)
    assert held.lengths.tolist() == [len(content[clip_id][0]) for clip_id in ids]
    rows = np.array([3, 0, 0, 5, 1])
    expected = [content[ids[row]][0] for row in rows]

    values, offsets = held.gather(rows)
    assert np.asarray(values).tobytes() == b"".join(clip.tobytes() for clip in expected)
    assert np.diff(offsets).tolist() == [len(clip) for clip in expected]

    padded, lengths = held.pad(rows)
    assert tuple(padded.shape) == (5, max(len(clip) for clip in expected), DIM)
    assert lengths.tolist() == [len(clip) for clip in expected]
    for row, clip in zip(np.asarray(padded), expected, strict=True):
        assert row[: len(clip)].tobytes() == clip.tobytes()
        assert not row[len(clip) :].any()


def test_on_their_way_to_a_device_features_are_never_in_ram_as_a_whole(
    tmp_path: Path, content: dict[str, Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[int] = []

    def noted(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray[Any, Any]:
        rooms.append(shape[0])
        return empty_aligned(shape, dtype)

    monkeypatch.setattr(resident_module, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(resident_module, "empty_aligned", noted)
    ResidentFeatures(FeatureSet.open(tmp_path / "a"), device="cpu")
    assert max(rooms) == max(len(values) for values, _ in content.values())


@pytest.mark.parametrize("device", [None, "cpu"])
def test_into_a_buffer_that_is_used_again(tmp_path: Path, content: dict[str, Clip], device: str | None) -> None:
    held = ResidentFeatures(FeatureSet.open(tmp_path / "a"), device=device)
    room = np.full((1000, DIM), 7, np.float16)
    out = room if device is None else torch.from_numpy(room)
    for rows in (np.arange(20), np.array([4]), np.array([9, 3])):
        before = room.copy()
        values, offsets = held.gather(rows, out)
        expected, _ = held.gather(rows)
        assert np.array_equal(np.asarray(values), np.asarray(expected))
        assert np.array_equal(room[offsets[-1] :], before[offsets[-1] :])
        padded, _ = held.pad(rows, out)
        assert np.array_equal(np.asarray(padded), np.asarray(held.pad(rows)[0]))
        assert np.shares_memory(np.asarray(padded), room)


@pytest.mark.parametrize("max_steps", [1, 5, 30, 1000])
def test_long_clips_are_thinned(tmp_path: Path, content: dict[str, Clip], max_steps: int) -> None:
    source = FeatureSet.open(tmp_path / "a")
    held = ResidentFeatures(source, max_steps=max_steps)
    assert held.nbytes == resident_bytes(source, source.clip_ids, max_steps)
    for row, clip_id in enumerate(held.clip_ids):
        clip = content[clip_id][0]
        values, _ = held.gather(np.array([row]))
        assert values.tobytes() == clip[thinned(len(clip), max_steps)].tobytes()


def test_of_several_sets(tmp_path: Path, content: dict[str, Clip]) -> None:
    other = {clip_id: (values[:, :2].astype(np.float32), times) for clip_id, (values, times) in content.items()}
    del other["clip3"]
    write(tmp_path / "b", other, card=card(dim=2, dtype="float32", layer="other"))
    source = AlignedFeatures([FeatureSet.open(tmp_path / "a"), FeatureSet.open(tmp_path / "b")])
    held = ResidentFeatures(source)
    assert "clip3" not in held.clip_ids
    for row, clip_id in enumerate(held.clip_ids):
        values, _ = held.gather(np.array([row]))
        assert np.array_equal(values, np.concatenate([content[clip_id][0], other[clip_id][0]], axis=1))
    with pytest.raises(SupportsetError, match="'clip3'"):
        ResidentFeatures(source, ["clip3"])


def test_of_nothing(tmp_path: Path, content: dict[str, Clip]) -> None:
    held = ResidentFeatures(FeatureSet.open(tmp_path / "a"), [])
    assert len(held) == 0
    assert held.gather(np.zeros(0, np.int64))[0].shape == (0, DIM)
    assert held.pad(np.zeros(0, np.int64))[0].shape == (0, 1, DIM)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(tmp_path: Path, content: dict[str, Clip]) -> None:
    source = FeatureSet.open(tmp_path / "a")
    rows = np.array([3, 11, 3])
    on_gpu, in_ram = ResidentFeatures(source, device="cuda"), ResidentFeatures(source)
    assert on_gpu.values.is_cuda
    assert np.array_equal(on_gpu.pad(rows)[0].cpu().numpy(), in_ram.pad(rows)[0])


def test_batches_laid_out_together_are_those_laid_out_alone() -> None:
    """Whatever the lengths, empty sequences included; nothing at all is a batch of nothing."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 7, 40)
    starts = np.cumsum(lengths) - lengths
    packed = np.append(np.arange(lengths.sum()) + 1, 0)  # zero: the blank row
    asked, sizes = rng.integers(0, 40, 30), [7, 1, 12, 10]
    layout = lay_out(starts[asked], lengths[asked], sizes, len(packed) - 1)
    first = 0
    for size, (rows, real) in zip(sizes, layout, strict=True):
        batch, first = asked[first : first + size], first + size
        width = max(1, lengths[batch].max())
        assert real.shape == (size, width)
        for row, found, kept in zip(batch, packed[rows].reshape(size, width), real, strict=True):
            own = packed[starts[row] : starts[row] + lengths[row]]
            assert found.tolist() == [*own, *[0] * (width - len(own))]
            assert kept.tolist() == [True] * len(own) + [False] * (width - len(own))
    nothing = lay_out(starts[:0], lengths[:0], [0], 0)
    assert [(rows.shape, real.shape) for rows, real in nothing] == [((0,), (0, 1))]
