"""Thumbnails: JPEGs that read back bit for bit, in a set of their own that features do not depend on."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from PIL import Image

from supportset.store.errors import InvalidFeatures, SupportsetError, UsageError
from supportset.store.format.card import FeatureCard
from supportset.store.format.thumbnails import Picture, thumbnails_path, to_rows
from supportset.store.read.catalog import feature_set_path, list_feature_sets
from supportset.store.read.feature_set import FeatureSet
from supportset.store.read.thumbnails import Thumbnails
from supportset.store.write.thumbnails import ThumbnailWriter
from supportset.store.write.writer import FeatureWriter
from tests.store.samples import FORMATS, assert_holds, card, clips, recipe, write

SAMPLING = {"fps": 1, "max_steps": 64}


def jpeg(seed: int, size: tuple[int, int] = (160, 90)) -> bytes:
    """A picture of noise, whose file has some KB; the same for the same seed."""
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=30 + seed % 50)
    return file.getvalue()


def pictures(seed: int, count: int) -> list[Picture]:
    """Pictures of steps of two seconds, with gaps of one between them."""
    return [Picture(3.0 * i, 3.0 * i + 2.0, jpeg(100 * seed + i)) for i in range(count)]


def write_thumbnails(path: Path, content: dict[str, list[Picture]], shard_format: str = "zarr") -> None:
    with ThumbnailWriter(path, SAMPLING, {"width": 160}, {}, shard_format=shard_format) as writer:
        for clip_id, of_clip in content.items():
            writer.record(clip_id, of_clip)


@pytest.fixture(params=FORMATS)
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A feature set of five clips, of which three have thumbnails."""
    made = feature_set_path(tmp_path, "films", recipe())
    assert isinstance(made, Path)
    write(made, clips(5), shard_format=request.param)
    write_thumbnails(made, {f"clip{i}": pictures(i, i + 1) for i in range(3)}, request.param)
    return made


def opened(path: Path) -> Thumbnails:
    found = Thumbnails.open(path)
    assert found is not None
    return found


def test_pictures_read_back_bit_for_bit(path: Path) -> None:
    found = opened(path)
    assert sorted(found.clip_ids) == ["clip0", "clip1", "clip2"]
    assert (len(found), "clip2" in found, "clip3" in found) == (3, True, False)
    for i in range(3):
        stored = pictures(i, i + 1)
        assert found.spans(f"clip{i}").tolist() == [[each.start_s, each.end_s] for each in stored]
        for each in stored:
            assert found.read(f"clip{i}", each.start_s) == each.jpeg


@pytest.mark.parametrize(
    ("at_s", "nearest"),
    [(-5, 0), (0, 0), (1.9, 0), (2.4, 0), (2.6, 1), (3, 1), (5.5, 2), (1e9, 2), (float("inf"), 2)],
)
def test_moment_has_the_picture_of_the_nearest_step(path: Path, at_s: float, nearest: int) -> None:
    assert opened(path).read("clip2", at_s) == pictures(2, 3)[nearest].jpeg


def test_step_ends_where_the_next_begins(tmp_path: Path) -> None:
    write_thumbnails(tmp_path, {"a": [Picture(0.0, 1.0, jpeg(1)), Picture(1.0, 2.0, jpeg(2))]})
    assert opened(tmp_path).read("a", 1.0) == jpeg(2)


def test_clip_without_thumbnails(path: Path) -> None:
    assert opened(path).read("clip3") is None
    assert opened(path).spans("clip3").shape == (0, 2)


def test_set_without_thumbnails(tmp_path: Path) -> None:
    write(tmp_path, clips(2))
    assert Thumbnails.open(tmp_path) is None


def test_sets_of_features_are_listed_without_thumbnails(path: Path) -> None:
    (listed,) = list_feature_sets(path.parents[2])
    assert listed.path == path
    assert_holds(path, clips(5))


def test_jpeg_of_a_whole_number_of_rows_and_pictures_of_one_step() -> None:
    exact = jpeg(5)[:-2]
    exact += bytes([1]) * (-(len(exact) + 2) % 512) + b"\xff\xd9"
    values, times = to_rows([Picture(0.0, 0.0, exact), Picture(0.0, 0.0, jpeg(6)), Picture(0.0, 1.0, jpeg(7))])
    assert len(exact) % 512 == 0
    assert values[: len(exact) // 512].tobytes() == exact
    assert len(np.unique(times, axis=0)) == 2


@pytest.mark.parametrize("wrong", [[], [Picture(0.0, 1.0, b"GIF89a")], [Picture(0.0, 1.0, jpeg(1)[:-9])]])
def test_only_jpegs_are_stored(wrong: list[Picture]) -> None:
    with pytest.raises(ValueError, match="picture"):
        to_rows(wrong)


def test_changed_byte_is_refused(path: Path) -> None:
    stored = pictures(1, 2)[1].jpeg
    (file,) = [
        each
        for each in thumbnails_path(path).rglob("*")
        if each.is_file() and stored in each.read_bytes()  # type: ignore[union-attr]
    ]
    content = bytearray(file.read_bytes())
    content[content.index(stored) + 700] ^= 1
    file.write_bytes(content)
    with pytest.raises(SupportsetError, match="are not what was written"):
        opened(path).read("clip1", 3.0)
    assert opened(path).read("clip2") == pictures(2, 3)[0].jpeg


def test_rows_of_another_program_that_are_no_jpeg(tmp_path: Path) -> None:
    with ThumbnailWriter(tmp_path, SAMPLING, {}, {}) as writer:
        writer.add("a", np.full((2, 512), 65, np.uint8), np.zeros((2, 2)))
    with pytest.raises(SupportsetError, match="a thumbnail of clip 'a': is not a JPEG"):
        opened(tmp_path).read("a")


def test_folder_of_features_in_the_place_of_thumbnails(tmp_path: Path) -> None:
    write(tmp_path / "thumbnails", clips(1))
    with pytest.raises(SupportsetError, match="is of kind 'video'"):
        Thumbnails.open(tmp_path)


def test_each_kind_has_its_dtypes(tmp_path: Path) -> None:
    for changes in ({"dtype": "uint8"}, {"kind": "thumbnails"}):
        with pytest.raises(UsageError, match="dtype = "):
            recipe(**changes)
    with FeatureWriter(tmp_path, FeatureCard(recipe(kind="thumbnails", dtype="uint8"))) as writer:
        for wrong in (np.zeros((1, 6)), np.zeros((1, 6), np.uint16), np.zeros((1, 6), np.int8)):
            with pytest.raises(InvalidFeatures, match="not uint8"):
                writer.add("a", wrong, np.zeros((1, 2)))
    with FeatureWriter(tmp_path / "b", card()) as writer, pytest.raises(InvalidFeatures, match="not floats"):
        writer.add("a", np.zeros((1, 6), np.uint8), np.zeros((1, 2)))


def test_what_must_come_first_is_committed_first(tmp_path: Path) -> None:
    seen: list[int] = []
    before = lambda: seen.append(len(FeatureSet.open(tmp_path)))  # noqa: E731
    with FeatureWriter(tmp_path, card(), clips_per_shard=2, before=before) as writer:
        for clip_id, features in clips(5).items():
            writer.add(clip_id, *features)
    assert seen == [0, 2, 4]


def test_rows_open_in_the_libraries_of_their_format(tmp_path: Path) -> None:
    for name in FORMATS:
        write_thumbnails(tmp_path / name, {"a": pictures(1, 2)}, name)
    (group,) = (tmp_path / "zarr").rglob("*.zarr")
    (file,) = (tmp_path / "hdf5").rglob("*.h5")
    with h5py.File(file) as shard:
        for values in (shard["values"][()], zarr.open_group(group, mode="r")["values"][...]):
            assert values.dtype == np.uint8
            assert values.tobytes() == to_rows(pictures(1, 2))[0].tobytes()
