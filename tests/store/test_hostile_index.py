"""Stores from elsewhere: an index whose hashes are right and whose content is impossible is refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from supportset.store.errors import SupportsetError
from supportset.store.files import LocalFolder, hash_parts
from supportset.store.format.index import METADATA, METADATA_HASH
from supportset.store.format.manifest import Entry, put_entry
from supportset.store.format.row_hash import hash_rows
from supportset.store.maintain.compact import compact
from supportset.store.maintain.verify import verify
from supportset.store.read.feature_set import FeatureSet
from tests.store.samples import card, clips, write

Change = Callable[[dict[str, Any], pa.Table], pa.Table]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / card().recipe.folder
    write(path, clips(4))
    return path


def forge(path: Path, change: Change) -> Path:
    """Write the only index anew, with all hashes right."""
    (file,) = (path / "shards").glob("*.parquet")
    table = pq.read_table(file)
    data = json.loads(table.schema.metadata[METADATA])
    rows = change(data, table.replace_schema_metadata(None))
    content = json.dumps({**data, "rows": hash_rows(rows)}).encode()
    pq.write_table(
        rows.replace_schema_metadata({METADATA: content, METADATA_HASH: hash_parts([content]).encode()}), file
    )
    put_entry(LocalFolder(file.parent), file.stem, Entry.of_index(file.read_bytes()))
    return file


def metadata(change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(data: dict[str, Any], rows: pa.Table) -> pa.Table:
        change(data)
        return rows

    return apply


def column(name: str, number: int) -> Change:
    """A number in the first row."""

    def apply(data: dict[str, Any], rows: pa.Table) -> pa.Table:
        field = rows.schema.field(name)
        values = pa.array([number, *rows[name].to_pylist()[1:]], field.type)
        return rows.set_column(rows.column_names.index(name), field, values)

    return apply


CHANGES: dict[str, Change] = {
    **{
        f"file {name}": metadata(lambda data, name=name: data["files"][0].update(name=name))  # type: ignore[misc]
        for name in ("../secret", "/etc/passwd", "../../card.json", "a/../../b", "", ".", "x.zarr/values/c.0.0", "a//b")
    },
    "file of another shard": metadata(lambda data: data["files"][0].update(name=f"{'0' * 16}.zarr/zarr.json")),
    "file inside": metadata(lambda data: data["files"][0].update(name=f"{data['shard']}.zarr/../../x")),
    "size": metadata(lambda data: data["files"][0].update(size=-1)),
    "array elsewhere": metadata(lambda data: data["arrays"]["values"].update(file="/etc/passwd")),
    "array above": metadata(lambda data: data["arrays"]["values"].update(file="../card.json")),
    "negative offset": metadata(lambda data: data["arrays"]["values"].update(offset=-4096)),
    "offset behind": metadata(lambda data: data["arrays"]["values"].update(offset=1 << 40)),
    "offset of text": metadata(lambda data: data["arrays"]["values"].update(offset="0")),
    "shape": metadata(lambda data: data["arrays"]["values"].update(shape=[1 << 40, 6])),
    "negative shape": metadata(lambda data: data["arrays"]["values"].update(shape=[-1, -6])),
    "dtype": metadata(lambda data: data["arrays"]["values"].update(dtype="O")),
    "arrays": metadata(lambda data: data["arrays"].pop("values")),
    "no arrays": metadata(lambda data: data.update(arrays={}, files=[])),
    "replaces itself": metadata(lambda data: data.update(replaces=[data["shard"]])),
    "replaces a path": metadata(lambda data: data.update(replaces=["../../x"])),
    "replaces a number": metadata(lambda data: data.update(replaces=[1])),
    "provenance": metadata(lambda data: data.update(provenance=[])),
    "first row": column("offset", -4096),
    "last row": column("offset", 1 << 62),
    "steps": column("length", 1 << 62),
    "no steps": column("length", 0),
    "fewer than none": column("length", -1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_cannot_be_is_refused_and_found(path: Path, name: str) -> None:
    secret = path.parent / "secret"
    secret.write_text("not of the store")
    file = forge(path, CHANGES[name])
    for use in (FeatureSet.open, lambda path: compact(path, safe_age=0.0)):
        with pytest.raises(SupportsetError, match="damaged index file") as caught:
            use(path)
        assert "\n" not in str(caught.value)
    (problem,) = [problem for problem in verify(path).harmful if problem.kind == "index"]
    assert problem.path == str(file)
    assert secret.read_text() == "not of the store"


def test_shards_that_replace_each_other(path: Path) -> None:
    write(path, clips(2))
    one, two = sorted((path / "shards").glob("*.parquet"))
    for file, other in ((one, two), (two, one)):
        others = path.parent / "aside"
        others.mkdir()
        shutil.move(other, others)
        forge(path, metadata(lambda data, other=other: data.update(replaces=[other.stem])))  # type: ignore[misc]
        shutil.move(others / other.name, other)
        others.rmdir()
        assert file.exists()
    with pytest.raises(SupportsetError, match="replace each other"):
        FeatureSet.open(path)
    with pytest.raises(SupportsetError, match="replace each other"):
        compact(path)
    assert any("replace each other" in problem.says for problem in verify(path).harmful)


def test_random_changes_end_in_one_line_or_in_the_same_features(path: Path) -> None:
    """No change of the metadata, with its hash made right, reads as other features, or ends the process."""
    features = FeatureSet.open(path)
    expected = features.read(features.clip_ids)[0].tobytes()
    (file,) = (path / "shards").glob("*.parquet")
    original = file.read_bytes()
    rng = random.Random(0)
    odd = [
        -1,
        0,
        1 << 31,
        1 << 63,
        1 << 70,
        1.5,
        None,
        "",
        "..",
        "/",
        [],
        {},
        True,
        "\x1b[2J",
        "a" * 300,
        [[]],
        {"a": 1},
    ]

    def scramble(value: Any) -> Any:
        if isinstance(value, dict) and value and rng.random() < 0.9:
            key = rng.choice(sorted(value))
            return {**value, key: scramble(value[key])}
        if isinstance(value, list) and value and rng.random() < 0.9:
            at = rng.randrange(len(value))
            return [*value[:at], scramble(value[at]), *value[at + 1 :]]
        return rng.choice(odd)

    refused = []
    for _ in range(300):
        file.write_bytes(original)
        key = rng.choice(["shard", "shard_format", "recipe_hash", "files", "arrays", "replaces", "provenance"])
        forge(path, metadata(lambda data, key=key: data.update({key: scramble(data[key])})))  # type: ignore[misc]
        try:
            assert FeatureSet.open(path).read(features.clip_ids)[0].tobytes() == expected
        except SupportsetError as error:
            refused.append(str(error))
    assert len(refused) > 150
    assert all(message.isprintable() for message in refused)


def test_a_forged_cache_is_not_used(path: Path) -> None:
    from supportset.store.read.clip_table import ClipTable

    table = ClipTable.read(LocalFolder(path / "shards"))
    for changes in ({"offset": table.offset - 4096}, {"length": table.length + 4096}, {"shard": table.shard + 7}):
        columns = table.to_arrow()
        forged = pa.table({name: changes.get(name, columns[name]) for name in columns.column_names})
        with pytest.raises(ValueError, match="a clip"):
            ClipTable.from_arrow(forged, table.indexes, table.statuses)


def test_a_parquet_bomb_is_not_unpacked(path: Path) -> None:
    (file,) = (path / "shards").glob("*.parquet")
    table = pq.read_table(file)
    rows = pc.take(table, pa.array([0] * 5_000_000))
    pq.write_table(rows.replace_schema_metadata(table.schema.metadata), file)
    assert file.stat().st_size < 250_000
    with pytest.raises(SupportsetError, match=r"bytes that unpack to 5,000,000 rows"):
        FeatureSet.open(path)
    assert verify(path).harmful


@pytest.mark.parametrize("content", [b"[" * 10**6, b'{"a":' * 10**5])
def test_deeply_nested_json_is_one_line(path: Path, content: bytes) -> None:
    (path / "card.json").write_bytes(content)
    with pytest.raises(SupportsetError, match=r"card\.json: not readable as JSON"):
        FeatureSet.open(path)
    assert [problem.kind for problem in verify(path).harmful] == ["card"]


def test_a_huge_card_is_not_read(path: Path) -> None:
    with open(path / "card.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(SupportsetError, match="larger than 64 MiB"):
        FeatureSet.open(path)
