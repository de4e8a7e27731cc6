"""Import: every form gives the same bits; resuming, differing and mixed imports."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.card import FeatureCard
from supportset.store.read.catalog import list_feature_sets
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.import_card import ImportOptions
from supportset.store.transfer.importing import ImportSummary, import_features
from supportset.store.transfer.opening import open_source
from supportset.store.transfer.sources import Naming
from tests.store.foreign import WRITERS, Arrays, arrays, npy_folder
from tests.store.samples import FORMATS

pytestmark = pytest.mark.slow


def run(
    store: Path, source: Path, *, naming: Naming | None = None, times: Path | None = None, **said: Any
) -> ImportSummary:
    """Import as dataset ``d`` under the name ``net``."""
    options = ImportOptions(**{"name": "net", **said})
    return import_features(
        store, "d", open_source(source, naming), options, times=open_source(times) if times else None
    )


def assert_holds(summary: ImportSummary, content: Arrays) -> None:
    """The feature set holds these arrays, bit for bit."""
    features = FeatureSet.open(summary.path)
    assert sorted(features.clip_ids) == sorted(content)
    for clip_id, array in content.items():
        values, _ = features.read([clip_id])
        assert values.dtype == array.dtype
        assert values.tobytes() == np.atleast_2d(array).tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_every_form_gives_the_same_bits(tmp_path: Path, writer: Callable[..., Path], dtype: str) -> None:
    content = arrays(dtype=dtype)
    summary = run(tmp_path / "store", writer(tmp_path / "src", content))
    assert (summary.imported, summary.unchanged, summary.failures) == (7, 0, [])
    assert_holds(summary, content)
    again = run(
        tmp_path / "store", tmp_path / "src" if (tmp_path / "src" / "clip0.npy").exists() else _only(tmp_path / "src")
    )
    assert (again.imported, again.unchanged) == (0, 7)


def _only(root: Path) -> Path:
    """What a user names: the folder, or the one file in it."""
    files = list(root.iterdir())
    return files[0] if len(files) == 1 else root


@pytest.mark.parametrize("shard_format", FORMATS)
def test_both_shard_formats(tmp_path: Path, shard_format: str) -> None:
    content = arrays()
    summary = run(tmp_path / "store", npy_folder(tmp_path / "src", content), shard_format=shard_format)
    assert_holds(summary, content)


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5)])
def test_one_array_with_an_id_list(tmp_path: Path, shape: tuple[int, ...]) -> None:
    table = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
    np.save(tmp_path / "table.npy", table)
    (tmp_path / "names").write_bytes(b"\xef\xbb\xbfa\r\nb b\r\nc\r\n\xc3\xa4\r\n")  # as Windows writes it
    summary = run(tmp_path / "store", tmp_path / "table.npy", naming=Naming(only=tmp_path / "names"))
    assert_holds(summary, dict(zip(["a", "b b", "c", "ä"], table, strict=True)))


def test_ids_txt_beside_an_array_is_found(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.ones((2, 3), np.float32))
    (tmp_path / "ids.txt").write_text("a\nb\n")
    assert_holds(run(tmp_path / "store", tmp_path / "table.npy"), dict.fromkeys("ab", np.ones(3, np.float32)))


def test_a_tensor_with_an_id_list(tmp_path: Path) -> None:
    torch.save(torch.ones(2, 4, 3), tmp_path / "t.pt")
    (tmp_path / "ids").write_text("a\nb\n")
    summary = run(tmp_path / "store", tmp_path / "t.pt", naming=Naming(only=tmp_path / "ids"))
    assert_holds(summary, dict.fromkeys("ab", np.ones((4, 3), np.float32)))


def test_a_folder_of_clips_named_like_a_table_is_no_table(tmp_path: Path) -> None:
    content = {"values": arrays()["clip0"], "other": arrays()["clip1"]}
    npy_folder(tmp_path / "src", content)
    (tmp_path / "src" / "ids.txt").write_text("values\nother\n")
    assert_holds(run(tmp_path / "store", tmp_path / "src"), content)


@pytest.mark.parametrize("container", ["pt", "safetensors"])
def test_bfloat16_becomes_float32_exactly(tmp_path: Path, container: str) -> None:
    tensor = torch.tensor([[1.0, 3.140625, -(2.0**-100)]], dtype=torch.bfloat16)
    path = tmp_path / f"all.{container}"
    torch.save({"a": tensor}, path) if container == "pt" else save_file({"a": tensor}, path)
    assert_holds(run(tmp_path / "store", path), {"a": tensor.float().numpy()})


def test_other_byte_orders_and_layouts(tmp_path: Path) -> None:
    array = arrays()["clip0"]
    npy_folder(tmp_path / "src", {"big": array.astype(">f4"), "fortran": np.asfortranarray(array)})
    assert_holds(run(tmp_path / "store", tmp_path / "src"), {"big": array, "fortran": array})


def test_steps_have_the_times_that_are_stated(tmp_path: Path) -> None:
    source = npy_folder(tmp_path / "src", {"a": np.ones((3, 2), np.float32)})
    given = npy_folder(tmp_path / "times", {"a": np.array([[0, 0.5], [0.5, 2], [2, 9]]), "b": np.ones(1)})
    moments = npy_folder(tmp_path / "moments", {"a": np.array([1, 4, 9])})
    expected = {
        "unknown": (run(tmp_path, source), [[0, 1], [1, 2], [2, 3]]),
        "stated": (run(tmp_path, source, fps=4), [[0, 0.25], [0.25, 0.5], [0.5, 0.75]]),
        "given": (run(tmp_path, source, times=given), [[0, 0.5], [0.5, 2], [2, 9]]),
    }
    for word, (summary, spans) in expected.items():
        features = FeatureSet.open(summary.path)
        assert features.read_timestamps(["a"]).tolist() == spans
        assert features.card.recipe.sampling["times"] == word
        assert any("--fps" in note for note in summary.notes) == (word == "unknown")
    assert len({summary.path for summary, _ in expected.values()}) == 3
    summary = run(tmp_path, source, times=moments, name="moments")
    assert FeatureSet.open(summary.path).read_timestamps(["a"]).tolist() == [[1, 1], [4, 4], [9, 9]]
    with pytest.raises(UsageError, match="one only"):
        run(tmp_path, source, times=given, fps=1)


def test_card_says_what_is_known_and_what_is_not(tmp_path: Path) -> None:
    source = npy_folder(tmp_path / "my features", arrays())
    stated = {"weights": "blue", "layer": "pool5", "resize": "224", "backbone": "VGG-16"}
    summary = run(tmp_path / "store", source, name="VGG 16", card_fields=stated, fps=0.5)
    card = FeatureCard.load(summary.path)
    recipe = card.recipe
    assert (recipe.kind, recipe.backbone, recipe.weights, recipe.weights_hash) == (
        "video",
        "imported:VGG 16",
        "blue",
        "unknown",
    )
    assert (recipe.layer, recipe.pooling, recipe.dim, recipe.dtype) == ("pool5", "unknown", 5, "float32")
    assert recipe.transform == {"stated": {"resize": "224", "backbone": "VGG-16"}}
    assert summary.feature_set == f"imported-VGG-16-0.5fps-{recipe.hash}"
    assert card.provenance["origin"] == "imported, recipe unknown"
    assert card.provenance["source"]["name"] == "my features"
    assert card.provenance["source"]["clips"] == 7
    assert str(tmp_path) not in (summary.path / "card.json").read_text()
    row = FeatureSet.open(summary.path).rows().to_pylist()[0]
    assert row["source_path"] == f"{row['clip_id']}.npy"
    assert row["source_hash"].startswith("xxh3-128:")


def test_the_same_options_are_the_same_set_and_others_are_not(tmp_path: Path) -> None:
    source = npy_folder(tmp_path / "src", arrays())
    variants: list[dict[str, Any]] = [
        {},
        {"name": "other"},
        {"card_fields": {"a": "1"}},
        {"fps": 2.0},
        {"trim_zeros": True},
        {"kind": "text"},
        {"dtype": "float16"},
    ]
    paths = [run(tmp_path / "store", source, **variant).path for variant in variants]
    assert len(set(paths)) == len(variants)
    npy_folder(tmp_path / "moved", arrays(9))
    assert run(tmp_path / "store", tmp_path / "moved", fps=2).path == paths[3]


def test_going_on_imports_only_what_is_new(tmp_path: Path) -> None:
    content = arrays(9)
    first = {clip_id: content[clip_id] for clip_id in list(content)[:4]}
    run(tmp_path / "store", npy_folder(tmp_path / "src", first))
    summary = run(tmp_path / "store", npy_folder(tmp_path / "src", content))
    assert (summary.imported, summary.unchanged) == (5, 4)
    assert_holds(summary, content)
    assert set(FeatureSet.open(summary.path).rows()["generation"].to_pylist()) == {0}


def test_what_is_unchanged_by_name_size_and_time_is_not_even_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = npy_folder(tmp_path / "src", arrays())
    run(tmp_path / "store", source, dim=5, dtype="float32")
    opened = open_source(source)
    monkeypatch.setattr(opened, "read", lambda clip_id: pytest.fail("read again"))
    options = ImportOptions("net", dim=5, dtype="float32")
    assert import_features(tmp_path / "store", "d", opened, options).unchanged == 7


def test_a_touched_file_is_no_change(tmp_path: Path) -> None:
    source = npy_folder(tmp_path / "src", arrays())
    run(tmp_path / "store", source)
    os.utime(source / "clip3.npy", ns=(1, 1))
    assert run(tmp_path / "store", source).unchanged == 7


def test_other_features_of_the_same_clips_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    content = arrays()
    run(tmp_path / "store", npy_folder(tmp_path / "src", content))
    others = {**content, "clip2": content["clip2"] + 1, "new": content["clip0"]}
    source = npy_folder(tmp_path / "others", others)
    with pytest.raises(SupportsetError, match=r"1 clip \(clip2\).*nothing was imported.*--name.*--replace"):
        run(tmp_path / "store", source)
    (info,) = list_feature_sets(tmp_path / "store")
    assert "new" not in info.open()
    summary = run(tmp_path / "store", source, replace=True)
    assert (summary.imported, summary.unchanged) == (2, 6)
    assert_holds(summary, others)


def test_another_folder_with_files_of_equal_name_size_and_time_is_another_content(tmp_path: Path) -> None:
    first, others = arrays(), {clip_id: array + 1 for clip_id, array in arrays().items()}
    folders = [npy_folder(tmp_path / place / "features", content) for place, content in (("a", first), ("b", others))]
    for file in (file for folder in folders for file in folder.iterdir()):
        os.utime(file, ns=(1, 1))  # as out of an archive that has one time for all
    run(tmp_path / "store", folders[0])
    with pytest.raises(SupportsetError, match="holds other features of 7 clips"):
        run(tmp_path / "store", folders[1])
    assert run(tmp_path / "store", folders[1], replace=True).imported == 7
    with pytest.raises(SupportsetError, match="holds other features of 7 clips"):
        run(tmp_path / "store", folders[0])
    moved = (tmp_path / "b").rename(tmp_path / "c") / "features"
    assert_holds(run(tmp_path / "store", moved), others)


def test_other_times_of_the_same_clips_are_another_content(tmp_path: Path) -> None:
    source = npy_folder(tmp_path / "src", {"a": np.ones((1, 2), np.float32)})
    run(tmp_path / "store", source, times=npy_folder(tmp_path / "t", {"a": np.array([[0.0, 1.0]])}))
    times = npy_folder(tmp_path / "t", {"a": np.array([[0.0, 2.0]])})
    os.utime(times / "a.npy", ns=(2**61, 2**61))
    with pytest.raises(SupportsetError, match="other features of 1 clip"):
        run(tmp_path / "store", source, times=times)


def test_another_array_of_the_same_file_is_another_content(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    np.savez(tmp_path / "src" / "a.npz", one=np.ones((2, 3), np.float32), two=np.zeros((2, 3), np.float32))
    run(tmp_path / "store", tmp_path / "src", naming=Naming(key="one"))
    with pytest.raises(SupportsetError, match="other features of 1 clip"):
        run(tmp_path / "store", tmp_path / "src", naming=Naming(key="two"))


def test_imports_of_one_name_are_told_of_each_other(tmp_path: Path) -> None:
    run(tmp_path / "store", npy_folder(tmp_path / "one", arrays(2)))
    added = run(tmp_path / "store", npy_folder(tmp_path / "two", {"x": arrays()["clip0"]}))
    assert any("imported from 'one'" in note for note in added.notes)
    apart = run(tmp_path / "store", npy_folder(tmp_path / "wide", arrays(2, dim=6)))
    assert any("different: dim" in note for note in apart.notes)


def test_an_interrupt_keeps_what_is_complete(tmp_path: Path) -> None:
    source = open_source(npy_folder(tmp_path / "src", arrays()))

    def stop(done: int, total: int) -> None:
        assert total == 7
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_features(tmp_path / "store", "d", source, ImportOptions("net"), progress=stop)
    (info,) = list_feature_sets(tmp_path / "store")
    assert len(info.open()) == 3
    assert run(tmp_path / "store", tmp_path / "src").imported == 4


def test_real_features(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "msrvtt_features"
    summary = run(tmp_path, source, naming=Naming(only=source / "ids.txt"))
    names = (source / "ids.txt").read_text().split()
    assert (summary.imported, summary.failures, summary.zero_padded) == (len(names), [], 0)
    features = FeatureSet.open(summary.path)
    for name in names[:: len(names) // 50]:
        assert features.read([name])[0].tobytes() == np.load(source / f"{name}.npy").tobytes()
    assert features.read(names)[0].shape == (50 * len(names), 128)
