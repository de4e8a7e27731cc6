"""Stores in S3: the contract of both formats, what goes over the network, and what a network does to a reader."""

from __future__ import annotations

import multiprocessing
import pickle
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import fsspec
import numpy as np
import pytest
import s3fs

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import RemotePath, StorePath, open_folder, store_path
from supportset.store.format.index import read_all
from supportset.store.format.manifest import Entry, put_entry
from supportset.store.maintain.compact import compact
from supportset.store.maintain.removal import remove_feature_set
from supportset.store.maintain.verify import verify
from supportset.store.read.catalog import list_feature_sets, locate_feature_set
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter
from tests.s3_server import S3Server
from tests.store.samples import FORMATS, Clip, assert_holds, card, clips, recipe, write
from tests.store.test_hdf5_shard import TestHdf5 as Hdf5
from tests.store.test_zarr_shard import TestZarr as Zarr

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
formats = pytest.mark.parametrize("shard_format", FORMATS)


class Remote:
    """The tests of a format with a URL in the place of a temporary folder."""

    protocol = "memory"

    @pytest.fixture
    def tmp_path(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StorePath:
        self.copies = tmp_path_factory.mktemp("copies")
        in_memory = f"memory://{uuid.uuid4().hex}"
        return store_path(in_memory if self.protocol == "memory" else request.getfixturevalue("s3"))

    def local(self, folder: StorePath, name: str) -> Path:
        """A copy of a file or tree, for plain libraries."""
        for file in open_folder(folder).files(name):
            (self.copies / file).parent.mkdir(parents=True, exist_ok=True)
            (self.copies / file).write_bytes(open_folder(folder).read(file) or b"")
        return self.copies / name


class TestZarrInMemory(Remote, Zarr):
    pass


class TestHdf5InS3(Remote, Hdf5):
    protocol = "s3"


del Zarr, Hdf5  # else they were collected here once more


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("SUPPORTSET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["s3", "memory"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "s3":
        yield request.getfixturevalue("s3")
    else:
        yield f"memory://{uuid.uuid4().hex}"


def large_clips(count: int = 40) -> dict[str, Clip]:
    """Clips of some 160 KiB."""
    rng = np.random.default_rng(0)
    times = np.stack([np.arange(160.0), np.arange(160.0) + 1], axis=1)
    return {f"clip{i:02d}": (rng.standard_normal((160, 512)).astype(np.float16), times) for i in range(count)}


def test_a_folder(url: str) -> None:
    folder = open_folder(url)
    assert str(folder) == url
    assert (folder.names(), folder.files("a"), folder.changed("a")) == ([], {}, None)
    assert folder.put({"a.bin": [b"one", memoryview(b"two")]})
    assert folder.put({"b/x": [b"1"], "b/c/y": [b""]})
    assert folder.names() == ["a.bin", "b"]
    assert list(folder.read_many(["a.bin", "b/x", "b/z", "b/c/y", "b"])) == [b"onetwo", b"1", None, b"", None]
    assert (folder.size("a.bin"), folder.size("b/z"), folder.size("b")) == (6, None, None)
    assert folder.files("b") == {"b/x": 1, "b/c/y": 0}
    assert folder.files("a.bin") == {"a.bin": 6}
    assert b"".join(folder.pieces("a.bin")) == b"onetwo"
    assert folder.glob("*/x") == folder.glob("b/x") == ["b/x"]
    assert folder.child("b").names() == ["c", "x"]
    assert folder.child("a.bin").names() == []
    assert list(folder.stamps()) == ["a.bin"]
    before = folder.stamps()
    assert not folder.put({"a.bin": [b"other"]}, replace=False)
    assert folder.stamps() == before
    assert folder.put({"new": [b"1"]}, replace=False)
    assert folder.put({"a.bin": [b"other"]})
    assert folder.read("a.bin") == b"other"
    assert folder.stamps() != before
    with pytest.raises(SupportsetError, match=r"/b: cannot write: it exists"):
        folder.put({"b/x": [b"2"]})
    with pytest.raises(ValueError, match="files of one put"):
        folder.put({"a": [b""], "b": [b""]})
    assert folder.read("b/x") == b"1"
    changed = folder.changed("b")
    assert changed is not None
    assert changed > 1.7e9
    for name in ("a.bin", "b", "new", "gone"):
        folder.remove(name)
    assert folder.names() == []


def test_discarding_goes_on_where_it_was_cut(url: str) -> None:
    folder = open_folder(url)
    folder.put({"one/card": [b"1"], "one/data": [b"2"]})
    folder.put({"two/card": [b"1"], "two/data": [b"2"]})
    folder.put({".tmp-01234567-one": [b"is being removed"]})  # of a killed run
    folder.put({".tmp-01234567-two": [b"is being removed"]})  # likewise, and the tree was written anew since
    folder.remove("one/card")
    folder.put({"three/card": [b"1"]})
    folder.discard("three", "card")
    assert folder.names() == ["two"]
    assert folder.files("two") == {"two/card": 1, "two/data": 1}


def test_mapped_and_the_same_in_another_process(s3: str, cache: Path) -> None:
    content = np.random.default_rng(0).bytes(3 * MIB + 17)
    folder = open_folder(s3)
    folder.put({"a": [content]})
    file = folder.map("a")
    assert (len(file.content), file.complete, file.is_cached(0)) == (len(content), False, False)
    file.fetch([(5, 10), (3 * MIB, len(content))])
    assert file.is_cached(0)
    child = multiprocessing.get_context("fork").Process(target=_reads_the_rest, args=(pickle.dumps(folder), content))
    child.start()
    child.join()
    assert child.exitcode == 0
    file.ask([(0, len(content))])
    file.fetch([(0, len(content))])
    assert file.content == content
    assert file.complete


def _reads_the_rest(folder: bytes, content: bytes) -> None:
    file = pickle.loads(folder).map("a")
    file.ask([(MIB, 2 * MIB)])
    file.fetch([(0, len(content))])
    sys.exit(file.content != content)


@formats
def test_three_clips_of_a_large_shard_cost_their_blocks_once(
    s3: str, s3_server: S3Server, cache: Path, shard_format: str
) -> None:
    content = large_clips()
    write(store_path(s3), content, card=card(dim=512), shard_format=shard_format)
    asked = ["clip00", "clip01", "clip39"]
    wanted = b"".join(content[clip_id][0].tobytes() for clip_id in asked)
    s3_server.forget()
    features = FeatureSet.open(s3)
    assert features.read(asked)[0].tobytes() == wanted
    size = max(file.size for file in read_all(open_folder(s3).child("shards"))[0][0].files)
    assert size > 6 * MIB
    assert 2 <= len(s3_server.ranges()) <= 3
    assert sum(stop - start for start, stop in s3_server.ranges()) <= 3 * MIB
    s3_server.forget()
    assert features.read(asked)[0].tobytes() == wanted
    assert not s3_server.requests
    assert FeatureSet.open(s3).read(asked)[0].tobytes() == wanted
    code = (
        "import sys; from supportset.store.read.feature_set import FeatureSet; "
        f"sys.stdout.buffer.write(FeatureSet.open({s3!r}).read({asked!r})[0].tobytes())"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout == wanted
    assert s3_server.requests
    assert s3_server.ranges() == []
    assert_holds(store_path(s3), content)
    seen = s3_server.ranges()
    assert all(stop <= start for (_, stop), (start, _) in pairwise(seen) if stop <= 6 * MIB)


def test_what_is_asked_for_ahead_comes_in_the_background(s3: str, s3_server: S3Server, cache: Path) -> None:
    content = large_clips()
    write(store_path(s3), content, card=card(dim=512))
    features = FeatureSet.open(s3)
    rows = features.find(content)
    s3_server.forget()
    features.prefetch(rows)
    values, _ = features.read_rows(rows)
    assert values.tobytes() == b"".join(clip[0].tobytes() for clip in content.values())
    assert sum(stop - start for start, stop in s3_server.ranges()) < 8 * MIB  # each block once


@pytest.mark.parametrize("damage", ["flipped", "cut", "grown", "emptied", "gone"])
def test_a_damaged_cache_costs_a_request_and_never_a_byte(
    s3: str, s3_server: S3Server, cache: Path, damage: str
) -> None:
    content = large_clips(14)
    write(store_path(s3), content, card=card(dim=512))
    assert_holds(store_path(s3), content)
    file = max(cache.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    whole = file.read_bytes()
    damaged = {
        "flipped": whole[: MIB + 5] + bytes([whole[MIB + 5] ^ 1]) + whole[MIB + 6 :],
        "cut": whole[: MIB + 5],
        "grown": whole + whole,
        "emptied": b"",
    }
    file.unlink()
    if damage != "gone":
        file.write_bytes(damaged[damage])
    s3_server.forget()
    assert_holds(store_path(s3), content)
    fetched = sum(stop - start for start, stop in s3_server.ranges())
    assert fetched == (MIB if damage == "flipped" else 0 if damage == "grown" else fetched)
    assert fetched or damage == "grown"
    s3_server.forget()
    assert_holds(store_path(s3), content)
    assert s3_server.ranges() == []


def test_an_object_that_is_not_what_it_was_is_told(s3: str, cache: Path) -> None:
    folder = open_folder(s3)
    folder.put({"a": [bytes(3 * MIB)]})
    file = folder.map("a")
    folder.put({"a": [bytes(MIB // 2)]})
    with pytest.raises(SupportsetError, match=rf"^{s3}/a: .*"):
        file.fetch([(0, 3 * MIB)])
    write(store_path(s3) / "set", clips(3))
    features = FeatureSet.open(store_path(s3) / "set")
    name = read_all(open_folder(s3).child("set/shards"))[0][0].arrays["values"].file
    open_folder(s3).child("set/shards").put({f"{name.partition('/')[0]}": [b"x"]})  # something else beside it
    open_folder(s3).child("set/shards").child(name.rpartition("/")[0]).put({name.rpartition("/")[2]: [b"x"]})
    with pytest.raises(SupportsetError, match="has 1 bytes, its index says"):
        features.read(["clip0"])


@formats
def test_a_write_that_fails_half_way_is_not_seen(s3: str, s3_server: S3Server, shard_format: str) -> None:
    write(store_path(s3), {"a": clips(1)["clip0"]}, shard_format=shard_format)
    there = open_folder(s3).child("shards").names()
    for refused in (r"PUT .*\.parquet", r"PUT .*(h5|timestamps/c)"):
        s3_server.refused = re.compile(refused)
        try:
            with pytest.raises(SupportsetError, match=rf"^{s3}/shards/\w+\.\w+: cannot write: Access Denied; check"):
                write(store_path(s3), clips(2, "b"), shard_format=shard_format)
        finally:
            s3_server.refused = None
        assert open_folder(s3).child("shards").names() == there
    assert_holds(store_path(s3), {"a": clips(1)["clip0"]})


def test_writers_at_the_same_time(s3: str) -> None:
    barrier = threading.Barrier(3)
    failed: list[Exception] = []

    def work(number: int) -> None:
        try:
            barrier.wait()
            write(store_path(s3), clips(4, f"w{number}-"), clips_per_shard=2, shard_format=FORMATS[number % 2])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert_holds(store_path(s3), {key: clip for number in range(3) for key, clip in clips(4, f"w{number}-").items()})
    with pytest.raises(SupportsetError, match="holds features of another recipe"):
        FeatureWriter(s3, card(dim=7))


@formats
def test_compaction_under_a_reader(s3: str, s3_server: S3Server, shard_format: str) -> None:
    content = clips(4)
    write(store_path(s3), content, clips_per_shard=2, shard_format=shard_format)
    features = FeatureSet.open(s3)
    features.read(["clip0"])
    folder = open_folder(s3).child("shards")
    put_entry(folder, "0123456789abcdef", Entry())
    folder.put({"0123456789abcdef.h5": [b"of a killed writer"]})
    summary = compact(s3)
    assert (summary.shards_before, summary.shards_after, summary.orphans) == (2, 1, [])
    assert summary.orphans_left == [f"{s3}/shards/0123456789abcdef{end}" for end in (".h5", ".json")]
    values, _ = features.read(list(content))
    assert values.tobytes() == b"".join(clip[0].tobytes() for clip in content.values())
    assert compact(s3, safe_age=0.0).orphans == summary.orphans_left
    assert_holds(store_path(s3), content)
    assert len(folder.names()) == 3


def test_verify_reads_everything_and_caches_nothing(s3: str, s3_server: S3Server, cache: Path) -> None:
    path = store_path(s3) / recipe().folder
    write(path, clips(4), clips_per_shard=2)
    report = verify(path)
    assert (report.problems, report.shards, report.clips) == ([], 2, 4)
    assert report.bytes == sum(file.size for index in read_all(open_folder(path / "shards"))[0] for file in index.files)
    assert not cache.exists()
    index = read_all(open_folder(path / "shards"))[0][0]
    name = index.arrays["values"].file
    folder = open_folder(path / "shards").child(name.rpartition("/")[0])
    content = bytearray(folder.read("c.0.0") or b"")
    content[3] ^= 1
    folder.put({"c.0.0": [bytes(content)]})
    (problem,) = verify(path).harmful
    assert (problem.kind, problem.path, len(problem.clips)) == ("content", f"{path}/shards/{name}", 1)


def test_a_removal_that_is_cut_short_is_finished_by_the_next(s3: str, s3_server: S3Server) -> None:
    sets = [store_path(s3) / "d" / "features" / name for name in ("one", "two")]
    for path in sets:
        write(path, clips(2))
    info = locate_feature_set(s3, "d/one")
    folder = open_folder(s3).child("d/features")
    folder.put({".tmp-01234567-one": [b"is being removed"]})
    folder.remove("one/card.json")  # there the process was killed
    assert [info.name for info in list_feature_sets(s3)] == ["two"]
    assert info.dataset == "d"
    remove_feature_set(locate_feature_set(s3, "d/two"))
    assert open_folder(s3).files("d") == {}


BAD = [
    ("s3://no-such-bucket/store", SupportsetError, "bucket does not exist; check the name of the bucket"),
    ("gs://bucket/store", UsageError, "pip install gcsfs"),
    ("nosuch://bucket/store", UsageError, "Protocol not known: nosuch"),
    ("s3://bucket/st*re", UsageError, r"cannot contain '\*'"),
    ("simplecache::s3://bucket/store", UsageError, "chained URLs"),
]


@pytest.mark.parametrize(("url", "kind", "says"), BAD)
def test_what_cannot_be_reached_is_one_line(s3_server: S3Server, url: str, kind: type[Exception], says: str) -> None:
    for use in (
        lambda: list_feature_sets(url),
        lambda: FeatureSet.open(url),
        lambda: FeatureWriter(url, card()),
    ):
        with pytest.raises(kind, match=says) as error:
            use()
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(url)


def test_a_server_that_is_gone_and_credentials_that_are_absent(
    s3: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    write(store_path(s3), clips(3))
    features = FeatureSet.open(s3)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        s3fs.S3FileSystem.clear_instance_cache()
        for use in (lambda: FeatureSet.open(s3), lambda: pickle.loads(pickle.dumps(features)).read(["clip0"])):
            with pytest.raises(
                SupportsetError, match=r"Could not connect.*; check the address \(AWS_ENDPOINT_URL"
            ) as told:
                use()
            assert "\n" not in str(told.value)
    with monkeypatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(SupportsetError, match="Unable to locate credentials; log in first"):
            FeatureSet.open(s3)
    s3fs.S3FileSystem.clear_instance_cache()
    assert_holds(store_path(s3), clips(3))


def test_urls_are_joined_in_one_way() -> None:
    place = store_path("S3://bucket/features/")
    assert isinstance(place, RemotePath)
    assert (str(place), str(place / "d"), place.name) == ("s3://bucket/features", "s3://bucket/features/d", "features")
    assert (place / "d").parent == place
    assert str(store_path("memory://") / "d") == "memory://d"
    assert store_path("file:///a/b") == store_path("/a/b") == Path("/a/b")
    assert store_path("C:odd/name:x") == Path("C:odd/name:x")
    with pytest.raises(TypeError):
        Path(place)  # type: ignore[arg-type]  # else it were looked for in a folder called s3:
    assert fsspec.core.url_to_fs(str(place))[1] == "bucket/features"


def test_a_url_that_lost_a_slash_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for cut in (Path("s3://bucket/features"), "s3:/bucket/features"):
        with pytest.raises(UsageError, match="pass a string"):
            FeatureWriter(cut, card())
    assert not list(tmp_path.iterdir())
    (tmp_path / "s3:").mkdir()
    assert store_path("s3:/bucket/features") == Path("s3:/bucket/features")
