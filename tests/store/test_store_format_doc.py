"""The specification's examples run, on a store that we wrote, and read what we read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from supportset.store.format import dataset, index, tables
from supportset.store.format.card import FeatureCard
from supportset.store.format.dataset import write_dataset
from supportset.store.format.thumbnails import thumbnails_path
from supportset.store.read.catalog import feature_set_path
from supportset.store.read.feature_set import FeatureSet
from supportset.store.write.writer import FeatureWriter
from tests.store.samples import FORMATS, card, clip, clips, recipe, write
from tests.store.test_thumbnails import pictures, write_thumbnails

TEXT = (Path(__file__).parents[2] / "docs" / "store-format.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def example(words: str) -> str:
    (found,) = [code for code in EXAMPLES if words in code]
    return str(found)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with one feature set of each format, in which some clips failed and were tried again."""
    root = tmp_path / "features"
    for shard_format in FORMATS:
        made = recipe(weights=shard_format)
        path = feature_set_path(root, "msrvtt", made)
        write(path, clips(5), card=FeatureCard(made), shard_format=shard_format)
        write_thumbnails(path, {"clip0": pictures(1, 2), "clip1": pictures(2, 2)}, shard_format)
    rows = [{"clip_id": clip_id} for clip_id in clips(5)]
    write_dataset(root, "msrvtt", clips=rows, captions=[], splits=[], protocols={}, sources=[])
    monkeypatch.chdir(tmp_path)
    return root


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "store-format.md", "exec"), names)
    return names


@pytest.mark.parametrize("words", ["*/shards/*.zarr", "h5py.File"])
def test_plain_array_libraries(root: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(example(words).strip().splitlines()) == 5
    names = run(example(words))
    offsets = [0]
    for values, _ in clips(5).values():
        offsets.append(offsets[-1] + len(values))
    assert (names["start"], names["stop"]) == tuple(offsets[3:5])
    values, times = clip(3)
    assert capsys.readouterr().out.strip() == f"{values} {times}"


def test_first_thumbnail(root: Path) -> None:
    code = example("first.jpg")
    assert len(code.strip().splitlines()) == 5
    run(code)
    assert Path("first.jpg").read_bytes() == pictures(1, 2)[0].jpeg


@pytest.mark.parametrize("name", FORMATS)
def test_whole_reader_reads_thumbnails(root: Path, name: str) -> None:
    path = thumbnails_path(feature_set_path(root, "msrvtt", recipe(weights=name)))
    read = run(example("def read_feature_set"))["read_feature_set"](path)
    assert sorted(read) == ["clip0", "clip1"]
    values, times = read["clip1"]
    stored = pictures(2, 2)
    assert values[times[:, 0] == stored[1].start_s].tobytes().rstrip(b"\0") == stored[1].jpeg


def test_plain_pyarrow(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = example("index.select")
    assert len(code.strip().splitlines()) == 5
    run(code)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert "'clip_id': 'clip0', 'status': 'ok', 'message': '', 'offset': 0," in lines[0]


def test_hash(root: Path) -> None:
    assert run(example("hashlib"))["card"]["hash"] in {recipe(weights=name).hash for name in FORMATS}


def test_whole_reader(root: Path) -> None:
    path = feature_set_path(root, "msrvtt", recipe(weights="zarr"))
    writer_card = FeatureCard(recipe(weights="zarr"))
    with FeatureWriter(path, writer_card, shard_format="hdf5") as writer:
        writer.fail("clip1", "unreadable", "")
        writer.fail("clip9", "missing", "")
        writer.add("clip2", *clip(77))
    read = run(example("def read_feature_set"))["read_feature_set"](path)
    ours = {clip_id: (values, times) for clip_id, values, times in FeatureSet.open(path).scan()}
    assert sorted(read) == sorted(ours) == [f"clip{i}" for i in range(5)]
    for clip_id, arrays in ours.items():
        assert [array.tobytes() for array in read[clip_id]] == [array.tobytes() for array in arrays]
    assert read["clip2"][0].tobytes() == clip(77)[0].tobytes()


def test_every_example_is_run_by_a_test() -> None:
    assert len(EXAMPLES) == 6


def test_card_in_the_text_is_one_that_we_would_write() -> None:
    (shown,) = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
    ours = card().to_json()
    assert shown.pop("content")  # added where the file is written
    assert list(shown) == list(ours)
    assert list(shown["recipe"]) == list(ours["recipe"])


def test_columns_and_keys_are_all_described() -> None:
    names = set(index.SCHEMA.names) | set(index.ShardIndex("0" * 16, "zarr", "").to_json())
    for schema in tables.ALL_TABLES.values():
        names |= set(schema.names)
    for name in (*names, index.FORMAT, dataset.FORMAT, index.METADATA_HASH.decode(), tables.CONTENT.decode()):
        assert f"`{name}`" in TEXT, f"{name} is not described in docs/store-format.md"
