"""A shard format from outside the package: an entry point and a test are all that it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from supportset.commands.main import cli
from supportset.store.errors import UsageError
from supportset.store.files import Folder, as_part
from supportset.store.format.registry import DEFAULT_FORMAT, PLUGIN_GROUP, format_names, shard_format
from supportset.store.format.shard import Compression, EncodedShard, Location, ShardArrays, ShardFormat
from tests.store.contract import ShardFormatContract
from tests.store.samples import assert_holds, card, clips, write

pytestmark = pytest.mark.slow


class PlainFormat(ShardFormat):
    """Each array in a file, and a note of dtypes and shapes."""

    name = "plain"
    suffix = ".plain"

    def encode(self, shard: str, arrays: ShardArrays, compression: Compression | None = None) -> EncodedShard:
        root = self.root(shard)
        places = {name: Location(f"{root}/{name}", 0, array.dtype.name, array.shape) for name, array in arrays.items()}
        note = json.dumps({name: place.to_json() for name, place in places.items()}).encode()
        files = {f"{root}/{name}": [as_part(array)] for name, array in arrays.items()}
        return EncodedShard({f"{root}/arrays.json": [note], **files}, places)

    def locate(self, folder: Folder, shard: str) -> dict[str, Location]:
        note = folder.read(f"{self.root(shard)}/arrays.json")
        if note is None:
            raise self.missing(folder, f"{self.root(shard)}/arrays.json", shard)
        return {name: Location.from_json(place) for name, place in json.loads(note).items()}


FORMAT = PlainFormat()


@pytest.fixture(autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make the format known as an installed package would."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "plain_shards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-shards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{PLUGIN_GROUP}]\nplain = {__name__}:FORMAT\nbroken = no_such_module_at_all:FORMAT\n"
        f"misnamed = {__name__}:FORMAT\n{DEFAULT_FORMAT} = {__name__}:FORMAT\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    yield info
    shard_format.cache_clear()


class TestPlain(ShardFormatContract):
    name = "plain"


def test_the_commands_know_it(tmp_path: Path) -> None:
    path = tmp_path / "d" / "features" / card().recipe.folder
    write(path, clips(4), shard_format="zarr")
    run = CliRunner().invoke(cli, ["store", "convert", "d", "--to", "plain", "--store", str(tmp_path)])
    assert run.exit_code == 0, run.output
    assert [name.suffix for name in sorted((path / "shards").iterdir())] == [".json", ".parquet", ".plain"]
    assert_holds(path, clips(4))
    assert "|plain" in CliRunner().invoke(cli, ["extract", "--help"]).output
    wrong = CliRunner().invoke(cli, ["store", "convert", "d", "--to", "lmdb", "--store", str(tmp_path)])
    assert wrong.exit_code == 2
    assert "'lmdb' is not one of zarr, broken, hdf5" in wrong.output


def test_what_is_written_reads_without_the_plugin(tmp_path: Path, plugin: Path) -> None:
    write(tmp_path, clips(4), shard_format="plain")
    (plugin / "entry_points.txt").unlink()
    shard_format.cache_clear()
    assert_holds(tmp_path, clips(4))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("broken", "no_such_module_at_all:FORMAT.*cannot be loaded"),
        ("misnamed", "is not a ShardFormat of this name"),
        ("lmdb", "unknown: use one of zarr, .*plain"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        shard_format(name)


def test_a_plugin_does_not_replace_a_built_in_format() -> None:
    assert shard_format(DEFAULT_FORMAT) is not FORMAT
    assert format_names()[0] == DEFAULT_FORMAT


def test_a_format_without_archives_says_so() -> None:
    with pytest.raises(UsageError, match="no archives"):
        FORMAT.compression("zstd:3")
