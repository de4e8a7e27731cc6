"""What every shard format must do: a format's tests subclass :class:`ShardFormatContract` and name the format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import xxhash

from supportset.store.errors import InvalidFeatures, SupportsetError, ValueOverflow
from supportset.store.files import LocalFolder, StorePath, hash_file, open_folder
from supportset.store.format.index import read_all
from supportset.store.format.registry import format_names, shard_format
from supportset.store.format.shard import ARRAYS, ShardArrays
from supportset.store.maintain.compact import compact
from supportset.store.maintain.verify import verify
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.convert import convert_feature_set
from supportset.store.write.writer import FeatureWriter, Source
from tests.store.samples import DIM, assert_holds, card, clip, clips, write


class ShardFormatContract:
    """Subclass as ``Test...`` and set ``name``: a format of the registry."""

    name: ClassVar[str]

    def read_plainly(self, path: Path) -> dict[str, np.ndarray[Any, Any]]:
        """Read the arrays of a shard; override it to read them with the format's own library."""
        folder, shard = LocalFolder(path.parent), path.name.partition(".")[0]
        return {name: shard_format(self.name).decode(folder, shard, name) for name in ARRAYS}

    def write(self, path: Path, content: Any, **options: Any) -> None:
        """Write clips in this format."""
        write(path, content, shard_format=self.name, **options)

    def shard(self, path: StorePath) -> Path:
        """The only shard of a feature set, as local files."""
        (found,) = self.names(path, shard_format(self.name).suffix)
        return self.local(path / "shards", found)

    def names(self, path: StorePath, suffix: str) -> list[str]:
        """Names in the folder of the shards that end so."""
        return [name for name in open_folder(path).child("shards").names() if name.endswith(suffix)]

    def local(self, folder: StorePath, name: str) -> Path:
        """A file or tree of the store where plain libraries can read it."""
        assert isinstance(folder, Path)
        return folder / name

    def test_reads_back_what_was_written(self, tmp_path: Path) -> None:
        content = clips(23)
        self.write(tmp_path, content, clips_per_shard=7)
        assert len(self.names(tmp_path, ".parquet")) == 4
        assert_holds(tmp_path, content)

    def test_verify_compact_and_convert_take_it(self, tmp_path: Path) -> None:
        content = clips(11)
        path = tmp_path / card().recipe.folder
        self.write(path, content, clips_per_shard=3)
        assert compact(path).shards_after == 1
        for to in (next(name for name in format_names() if name != self.name), self.name):
            assert not convert_feature_set(path, to).damaged
            assert not verify(path).problems
            assert_holds(path, content)
        if not isinstance(path, Path):  # a remote store: other tests damage one
            return
        (there,) = read_all(open_folder(path / "shards"))[0]
        file = path / "shards" / there.arrays["values"].file
        content_then = bytearray(file.read_bytes())
        content_then[there.arrays["values"].offset] ^= 1
        file.write_bytes(content_then)
        assert verify(path).damaged_clips

    def test_order_asked_and_repeats(self, tmp_path: Path) -> None:
        content = clips(9)
        self.write(tmp_path, content, clips_per_shard=4)
        asked = ["clip8", "clip0", "clip8", "clip3"]
        features = FeatureSet.open(tmp_path)
        values, offsets = features.read(asked)
        assert offsets.dtype == np.int64
        assert np.diff(offsets).tolist() == [len(content[i][0]) for i in asked] == features.lengths(asked).tolist()
        assert values.tobytes() == np.concatenate([content[i][0] for i in asked]).tobytes()
        assert features.read_timestamps(asked).tobytes() == np.concatenate([content[i][1] for i in asked]).tobytes()

    def test_reading_nothing(self, tmp_path: Path) -> None:
        self.write(tmp_path, clips(2))
        values, offsets = FeatureSet.open(tmp_path).read([])
        assert values.shape == (0, DIM)
        assert offsets.tolist() == [0]

    def test_what_is_read_is_the_callers_own(self, tmp_path: Path) -> None:
        content = clips(3)
        self.write(tmp_path, content)
        features = FeatureSet.open(tmp_path)
        features.read(["clip1"])[0][:] = 0
        assert_holds(tmp_path, content)

    def test_reading_into_a_given_buffer(self, tmp_path: Path) -> None:
        content = clips(5)
        self.write(tmp_path, content)
        features = FeatureSet.open(tmp_path)
        out = np.full((500, DIM), 7, np.float16)
        values, offsets = features.read_rows(features.find(["clip4", "clip1"]), out)
        assert values.base is out
        assert values.tobytes() == np.concatenate([content["clip4"][0], content["clip1"][0]]).tobytes()
        assert (out[offsets[-1] :] == 7).all()
        checked = FeatureSet.open(tmp_path, check=True)
        wide = checked.read_rows(checked.find(["clip4", "clip1"]), out.astype(np.float32))[0]
        assert np.array_equal(wide, values)

    def test_scan_goes_through_everything(self, tmp_path: Path) -> None:
        content = clips(9)
        self.write(tmp_path, content, clips_per_shard=4)
        seen = {clip_id: (values, times) for clip_id, values, times in FeatureSet.open(tmp_path).scan()}
        assert sorted(seen) == sorted(content)
        for clip_id, (values, times) in seen.items():
            assert not values.flags.writeable
            assert values.tobytes() == content[clip_id][0].tobytes()
            assert times.tobytes() == content[clip_id][1].tobytes()

    @pytest.mark.parametrize("steps", [1, 255, 256, 257, 1000])
    def test_plain_library_reads_the_shard(self, tmp_path: Path, steps: int) -> None:
        content = {"first": clip(0, steps), "second": clip(1, 3)}
        self.write(tmp_path, content)
        arrays = self.read_plainly(self.shard(tmp_path))
        assert arrays["values"].dtype == np.float16
        assert arrays["timestamps"].dtype == np.float64
        assert arrays["offsets"].dtype == np.int64
        assert arrays["offsets"].tolist() == [0, steps, steps + 3]
        for i, (values, times) in enumerate(content.values()):
            rows = slice(*arrays["offsets"][i : i + 2])
            assert arrays["values"][rows].tobytes() == values.tobytes()
            assert arrays["timestamps"][rows].tobytes() == times.tobytes()

    def test_zeros_are_written_not_implied(self, tmp_path: Path) -> None:
        zeros = (np.zeros((600, DIM), np.float16), np.zeros((600, 2)))
        self.write(tmp_path, {"black": zeros})
        assert_holds(tmp_path, {"black": zeros})
        assert not self.read_plainly(self.shard(tmp_path))["values"].any()

    def test_float32_is_kept(self, tmp_path: Path) -> None:
        values, times = np.array([[1e30, 1e-30, 0.1, -0.0, 3.0, 4.0]], np.float32), np.array([[0.0, 1.0]])
        self.write(tmp_path, {"a": (values, times)}, card=card(dtype="float32"))
        read, _ = FeatureSet.open(tmp_path).read(["a"])
        assert read.dtype == np.float32
        assert read.tobytes() == values.tobytes()

    def test_index_says_where_the_arrays_lie(self, tmp_path: Path) -> None:
        self.write(tmp_path, clips(5))
        folder = open_folder(tmp_path / "shards")
        ((index,), _) = read_all(folder)
        assert index.arrays == shard_format(self.name).locate(folder, index.shard)

    def test_arrays_begin_aligned(self, tmp_path: Path) -> None:
        self.write(tmp_path, clips(5))
        ((index,), _) = read_all(open_folder(tmp_path / "shards"))
        assert [location.offset % 64 for location in index.arrays.values()] == [0, 0, 0]

    def test_equal_content_gives_equal_bytes(self) -> None:
        arrays = ShardArrays.pack(*zip(*clips(4).values(), strict=True))
        one, two = (shard_format(self.name).encode("0" * 16, arrays) for _ in range(2))
        assert {name: b"".join(parts) for name, parts in one.files.items()} == {
            name: b"".join(parts) for name, parts in two.files.items()
        }

    def test_index_records_every_file(self, tmp_path: Path) -> None:
        self.write(tmp_path, clips(5))
        ((index,), _) = read_all(open_folder(tmp_path / "shards"))
        shard = self.shard(tmp_path)
        there = [path for path in [shard, *shard.rglob("*")] if path.is_file()]
        stated = {shard.parent / file.name: (file.size, file.xxh3) for file in index.files}
        assert stated == {path: (path.stat().st_size, hash_file(path)) for path in there}

    def test_checksums_are_of_the_clips_bytes(self, tmp_path: Path) -> None:
        content = clips(4)
        self.write(tmp_path, content)
        for row in FeatureSet.open(tmp_path).rows().to_pylist():
            values, times = content[row["clip_id"]]
            assert row["checksum"] == xxhash.xxh3_64_intdigest(values.tobytes())
            assert row["timestamps_checksum"] == xxhash.xxh3_64_intdigest(times.tobytes())

    def test_rows_say_what_became_of_each_clip(self, tmp_path: Path) -> None:
        with FeatureWriter(tmp_path, card(), shard_format=self.name) as writer:
            values, times = clip(1)
            writer.add("a", values, times, source=Source("a.mp4", 10, 20, "xxh3-128:00"), seconds=0.5, message="2 bad")
            writer.fail("b", "unreadable", "no codec", source=Source("b.mp4", 1, 2), seconds=0.25)
            writer.fail("c", "missing", "no file")
        features = FeatureSet.open(tmp_path)
        rows = {row.pop("clip_id"): row for row in features.rows().to_pylist()}
        assert set(rows) == {"a", "b", "c"}
        assert rows["a"]["length"] == len(values)
        assert (rows["a"]["source_path"], rows["a"]["source_size"], rows["a"]["source_mtime_ns"]) == ("a.mp4", 10, 20)
        assert (rows["a"]["source_hash"], rows["a"]["seconds"], rows["a"]["message"]) == ("xxh3-128:00", 0.5, "2 bad")
        assert (rows["b"]["status"], rows["b"]["message"], rows["b"]["length"]) == ("unreadable", "no codec", 0)
        assert rows["b"]["offset"] is rows["b"]["checksum"] is rows["b"]["source_hash"] is None
        assert rows["c"]["source_path"] is rows["c"]["source_size"] is None
        assert features.statuses() == {"ok": 1, "missing": 1, "unreadable": 1}
        assert next(iter(features.statuses())) == "ok"
        assert features.clip_ids == ["a"]
        assert "a" in features
        assert "b" not in features
        assert len(features) == 1

    def test_shard_of_failures_only_has_no_arrays(self, tmp_path: Path) -> None:
        with FeatureWriter(tmp_path, card(), shard_format=self.name) as writer:
            writer.fail("b", "unreadable", "no codec")
        assert self.names(tmp_path, "") == self.names(tmp_path, ".json") + self.names(tmp_path, ".parquet")
        assert FeatureSet.open(tmp_path).statuses() == {"unreadable": 1}

    def test_overflow_is_refused_and_leaves_the_writer_usable(self, tmp_path: Path) -> None:
        good = clips(2)
        with FeatureWriter(tmp_path, card(), shard_format=self.name) as writer:
            writer.add("clip0", *good["clip0"])
            for bad in (70000.0, np.nan, np.inf):
                values = np.ones((2, DIM), np.float32)
                values[1, 3] = bad
                with pytest.raises(ValueOverflow, match="'big'"):
                    writer.add("big", values, [[0, 1], [1, 2]])
            writer.fail("big", "overflow", "too large for float16")
            writer.add("clip1", *good["clip1"])
        assert_holds(tmp_path, good)
        assert FeatureSet.open(tmp_path).statuses() == {"ok": 2, "overflow": 1}

    @pytest.mark.parametrize(
        ("values", "times", "says"),
        [
            (np.zeros((0, DIM)), np.zeros((0, 2)), "no steps"),
            (np.zeros((2, DIM + 1)), np.zeros((2, 2)), r"\(2, 7\)"),
            (np.zeros(DIM), np.zeros((1, 2)), r"\(6,\)"),
            (np.zeros((2, DIM), np.int64), np.zeros((2, 2)), "int64"),
            (np.zeros((2, DIM)), np.zeros((3, 2)), r"\(3, 2\), not \(2, 2\)"),
            (np.zeros((1, DIM)), np.array([[0.0, np.nan]]), "timestamps"),
            (np.zeros((1, DIM)), np.array([[1.0, 0.0]]), "ends before it starts"),
        ],
    )
    def test_features_that_cannot_be_are_refused(self, tmp_path: Path, values: Any, times: Any, says: str) -> None:
        with FeatureWriter(tmp_path, card(), shard_format=self.name) as writer:
            with pytest.raises(InvalidFeatures, match=f"'odd'.*{says}"):
                writer.add("odd", values, times)
            writer.add("odd", *clip(0))  # a refused clip may be corrected
        assert len(FeatureSet.open(tmp_path)) == 1

    def test_a_clip_goes_into_a_writer_once(self, tmp_path: Path) -> None:
        with FeatureWriter(tmp_path, card(), shard_format=self.name, clips_per_shard=1) as writer:
            writer.add("a", *clip(0))
            with pytest.raises(SupportsetError, match="'a' was added before"):
                writer.add("a", *clip(1))
            with pytest.raises(SupportsetError, match="'a' was added before"):
                writer.fail("a", "unreadable", "")
        assert_holds(tmp_path, {"a": clip(0)})

    def test_full_shards_are_sealed_by_clips_bytes_and_time(self, tmp_path: Path) -> None:
        limits: dict[str, Any]
        for limits in ({"clips_per_shard": 2}, {"bytes_per_shard": 1}, {"seconds_per_shard": 0.0}):
            path = tmp_path / "-".join(limits)
            writer = FeatureWriter(path, card(), shard_format=self.name, **limits)
            for clip_id, (values, times) in clips(2).items():
                writer.add(clip_id, values, times)
            assert_holds(path, clips(2))  # without a seal by us

    def test_failures_cost_nothing_and_are_committed_in_bounded_number(self, tmp_path: Path) -> None:
        def shards() -> int:
            return len(self.names(tmp_path, ".parquet"))

        writer = FeatureWriter(tmp_path, card(), shard_format=self.name, clips_per_shard=2)
        for number in range(39):
            writer.fail(f"a{number}", "unreadable", "")
        writer.add("clip0", *clip(0))  # the 40th row, and the first with features
        assert shards() == 1
        for number in range(30):
            writer.fail(f"b{number}", "missing", "")
        writer.add("clip1", *clip(1))
        assert shards() == 1
        writer.add("clip2", *clip(2))
        assert shards() == 2
        assert_holds(tmp_path, clips(3))
        assert FeatureSet.open(tmp_path).statuses() == {"ok": 3, "missing": 30, "unreadable": 39}

    def test_memory_of_a_writer_is_used_again_and_grows(self, tmp_path: Path) -> None:
        """What a shard was sealed with stays, though the next clips are put where its clips were."""
        content = {f"clip{i}": clip(i, steps) for i, steps in enumerate((900, 200, 3000, 1, 5000, 7, 1024, 1025))}
        early, sure = {}, {}
        for per_shard, held in ((1, early), (3, sure)):
            self.write(path := tmp_path / str(per_shard), content, clips_per_shard=per_shard)
            for clip_id, values, times in FeatureSet.open(path).scan():
                held[clip_id] = values.tobytes(), times.tobytes()
        assert (
            early
            == sure
            == {clip_id: (values.tobytes(), times.tobytes()) for clip_id, (values, times) in content.items()}
        )

    def test_what_the_caller_changes_afterwards_is_not_stored(self, tmp_path: Path) -> None:
        values, times = clip(0)
        mine, my_times = values.copy(), times.copy()
        with FeatureWriter(tmp_path, card(), shard_format=self.name) as writer:
            writer.add("clip0", mine, my_times)
            mine[:] = 7
            my_times[:] = 7
        assert_holds(tmp_path, {"clip0": (values, times)})

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_every_value_that_is_finite_is_taken_and_no_other(self, tmp_path: Path, dtype: str) -> None:
        kind = np.dtype(dtype)
        numbers = np.array([np.finfo(kind).max, np.finfo(kind).tiny, np.finfo(kind).smallest_subnormal, 1.0, 0.0], kind)
        row = np.zeros((1, DIM), kind)
        with FeatureWriter(tmp_path, card(dtype=dtype), shard_format=self.name) as writer:
            for number in (*numbers, *-numbers):
                row[0, -1] = number
                writer.add(f"{number!r}", row, [[0, 1]])
            for number in (np.inf, -np.inf, np.nan, -np.nan):
                row[0, -1] = number
                with pytest.raises(ValueOverflow, match="does not fit"):
                    writer.add("bad", row, [[0, 1]])
        values, _ = FeatureSet.open(tmp_path).read([f"{number!r}" for number in (*numbers, *-numbers)])
        assert values[:, -1].tobytes() == np.array([*numbers, *-numbers], kind).tobytes()

    def test_an_error_in_the_middle_keeps_what_was_complete(self, tmp_path: Path) -> None:
        for error in (RuntimeError, KeyboardInterrupt):
            path = tmp_path / error.__name__
            with pytest.raises(error), FeatureWriter(path, card(), shard_format=self.name) as writer:  # noqa: PT012
                writer.add("a", *clip(0))
                raise error
            assert_holds(path, {"a": clip(0)})

    def test_ids_may_be_any_text(self, tmp_path: Path) -> None:
        content = {"ein Käfer/läuft": clip(0), "视频 1": clip(1), "a'b\"c": clip(2)}
        self.write(tmp_path, content)
        assert_holds(tmp_path, content)

    def test_file_names_that_are_not_unicode_do_no_harm(self, tmp_path: Path) -> None:
        odd = os.fsdecode(b"caf\xe9.mp4")
        with FeatureWriter(tmp_path, card(), shard_format=self.name) as writer:
            writer.add("a", *clip(0), source=Source(odd, 1, 2), message=f"{odd}:\nfirst line\nsecond")
            with pytest.raises(InvalidFeatures, match=r"caf\\\\udce9.*rename"):
                writer.add(odd, *clip(1))
        (row,) = FeatureSet.open(tmp_path).rows().to_pylist()
        assert row["source_path"] == "caf\\udce9.mp4"
        assert row["message"] == "caf\\udce9.mp4: first line second"

    def test_index_opens_with_plain_pyarrow(self, tmp_path: Path) -> None:
        self.write(tmp_path, clips(3))
        (name,) = self.names(tmp_path, ".parquet")
        table = pq.read_table(self.local(tmp_path / "shards", name))
        assert table["clip_id"].to_pylist() == ["clip0", "clip1", "clip2"]
