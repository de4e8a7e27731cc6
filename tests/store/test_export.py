"""Export: every form reads back with its own library, and imports back, bit for bit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supportset.commands.store_transfer import export_command
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.exporting import FORMS, export_features
from supportset.store.transfer.import_card import ImportOptions
from supportset.store.transfer.importing import import_features
from supportset.store.transfer.opening import open_source
from supportset.store.transfer.sources import Naming
from supportset.store.write.writer import FeatureWriter
from tests.store.samples import DIM, FORMATS, Clip, card, clip, clips, write

pytestmark = pytest.mark.slow


def plainly(path: Path, form: str) -> dict[str, np.ndarray[Any, Any]]:
    """Read an export without any of our code."""
    if form == "hdf5":
        found: dict[str, np.ndarray[Any, Any]] = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        return found
    if form == "array":
        ids = (path / "ids.txt").read_text(encoding="utf-8").split("\n")[:-1]
        values = np.load(path / "values.npy")
        offsets = path / "offsets.npy"
        parts = np.split(values, np.load(offsets)[1:-1]) if offsets.exists() else list(values)
        return dict(zip(ids, parts, strict=True))
    names = {file.relative_to(path).as_posix()[: -len(file.suffix)]: file for file in path.rglob(f"*.{form}")}
    if form == "pt":
        return {name: torch.load(file, weights_only=True).numpy() for name, file in names.items()}
    if form == "npz":
        return {name: next(iter(np.load(file).values())) for name, file in names.items()}
    return {name: np.load(file) for name, file in names.items()}


def assert_equal(found: dict[str, np.ndarray[Any, Any]], content: dict[str, Clip], part: int) -> None:
    assert set(found) == set(content)
    for clip_id, arrays in content.items():
        assert found[clip_id].dtype == arrays[part].dtype
        assert found[clip_id].shape == arrays[part].shape
        assert found[clip_id].tobytes() == arrays[part].tobytes()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shard", FORMATS)
def test_reads_back_plainly(tmp_path: Path, form: str, shard: str) -> None:
    content = {**clips(9), "train/sub/clip.x": clip(50), "Käfer 1": clip(51)}
    write(tmp_path / "set", content, shard_format=shard, clips_per_shard=4)
    told: list[tuple[int, int]] = []
    summary = export_features(
        FeatureSet.open(tmp_path / "set"),
        tmp_path / "deep" / "out",
        form,
        timestamps=tmp_path / "times",
        progress=lambda done, total: told.append((done, total)),
    )
    assert_equal(plainly(tmp_path / "deep" / "out", form), content, 0)
    assert_equal(plainly(tmp_path / "times", form), content, 1)
    assert told == [(i, 11) for i in range(1, 12)]
    steps = sum(len(values) for values, _ in content.values())
    assert (summary.clips, summary.steps, summary.bytes) == (11, steps, steps * DIM * 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "set", "times"]


def test_clips_of_one_length_make_a_plain_array(tmp_path: Path) -> None:
    content = {f"c{i}": clip(i, 4) for i in range(3)}
    write(tmp_path / "set", content)
    export_features(FeatureSet.open(tmp_path / "set"), tmp_path / "out", "array")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ids.txt", "values.npy"]
    assert np.load(tmp_path / "out" / "values.npy").shape == (3, 4, DIM)
    assert_equal(plainly(tmp_path / "out", "array"), content, 0)


IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\\ufeff"), min_size=1, max_size=12)
BITS = st.lists(st.lists(st.integers(0, 2**16 - 1), min_size=3, max_size=3), min_size=1, max_size=5)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(IDS, BITS, min_size=1, max_size=5), st.sampled_from(list(FORMS)), st.sampled_from(FORMATS))
def test_any_bits_survive_export_and_import(content: dict[str, Any], form: str, shard: str) -> None:
    finite = {}
    for clip_id, rows in content.items():
        if clip_id.strip() and clip_id not in (".", "..") and not clip_id.startswith("._"):
            values = np.array(rows, np.uint16).view(np.float16)
            finite[clip_id] = np.where(np.isfinite(values), values, np.float16(-0.0))
    spans = {clip_id: np.cumsum(np.ones((len(values), 2)), axis=0) / 3 for clip_id, values in finite.items()}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write(root / "set", {c: (finite[c], spans[c]) for c in finite}, card=card(dim=3), shard_format=shard)
        if not finite:
            return
        export_features(FeatureSet.open(root / "set"), root / "out.h5", form, timestamps=root / "times.h5")
        naming = Naming(id_from="path")
        source, times = open_source(root / "out.h5", naming), open_source(root / "times.h5", naming)
        summary = import_features(root / "store", "d", source, ImportOptions("net"), times=times)
        back = FeatureSet.open(summary.path)
        assert summary.failures == []
        assert sorted(back.clip_ids) == sorted(finite)
        for clip_id, values in finite.items():
            assert back.read([clip_id])[0].tobytes() == values.tobytes()
            assert back.read_timestamps([clip_id]).tobytes() == spans[clip_id].tobytes()


def test_failures_are_left_out_and_counted(tmp_path: Path) -> None:
    with FeatureWriter(tmp_path / "set", card()) as writer:
        writer.add("a", *clip(0))
        writer.fail("b", "unreadable", "no codec")
    summary = export_features(FeatureSet.open(tmp_path / "set"), tmp_path / "out", "npy")
    assert summary.left_out == {"unreadable": 1}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.npy"]
    assert summary.to_json()["path"] == str(tmp_path / "out")


def test_a_set_without_features_is_told(tmp_path: Path) -> None:
    FeatureWriter(tmp_path / "set", card())
    with pytest.raises(UsageError, match="no features to export"):
        export_features(FeatureSet.open(tmp_path / "set"), tmp_path / "out", "npy")


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_ever_overwritten(tmp_path: Path, form: str) -> None:
    write(tmp_path / "set", clips(3))
    features = FeatureSet.open(tmp_path / "set")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("years")
    (tmp_path / "file").write_text("years")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("taken", "file", "dangling"):
        with pytest.raises(UsageError, match=f"{name}: is .*name another"):
            export_features(features, tmp_path / name, form)
        with pytest.raises(UsageError, match=f"{name}: is .*name another"):
            export_features(features, tmp_path / "new", form, timestamps=tmp_path / name)
    with pytest.raises(UsageError, match="same place"):
        export_features(features, tmp_path / "new", form, timestamps=tmp_path / "set" / ".." / "new")
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "taken" / "thesis.tex").read_text() == (tmp_path / "file").read_text() == "years"


@pytest.mark.parametrize("form", ["npy", "array"])
def test_an_empty_folder_may_be_filled_also_through_a_link(tmp_path: Path, form: str) -> None:
    write(tmp_path / "set", clips(3))
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    export_features(FeatureSet.open(tmp_path / "set"), tmp_path / "link", form)
    assert_equal(plainly(tmp_path / "empty", form), clips(3), 0)
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("part", ["values", "timestamps"])
def test_damage_is_noticed_and_nothing_is_left_behind(tmp_path: Path, form: str, part: str) -> None:
    write(tmp_path / "set", clips(5), shard_format="hdf5")
    (path,) = (tmp_path / "set" / "shards").glob("*.h5")
    with h5py.File(path) as file:
        at = file[part].id.get_offset()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(SupportsetError, match=r"\('clip0'\) are not what was written.*store verify"):
        export_features(FeatureSet.open(tmp_path / "set"), tmp_path / "out", form, timestamps=tmp_path / "times")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    write(tmp_path / "set", clips(3))

    def stop(done: int, total: int) -> None:
        raise error

    with pytest.raises(error):
        export_features(FeatureSet.open(tmp_path / "set"), tmp_path / "out", "npy", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("ids", "refused_by"),
    [
        (["../up"], {"npy", "npz", "pt", "hdf5"}),
        (["/etc/x"], {"npy", "npz", "pt", "hdf5"}),
        (["a//b"], {"npy", "npz", "pt", "hdf5"}),
        (["a", "a/b"], {"hdf5"}),
        (["a", "a.npy/b"], {"npy"}),
        (["x" * 300], {"npy", "npz", "pt"}),
        (["two\nlines"], {"array"}),
        ([" "], {"array"}),
    ],
)
def test_ids_that_cannot_be_names_are_refused_before_anything_is_written(
    tmp_path: Path, ids: list[str], refused_by: set[str]
) -> None:
    content = {clip_id: clip(i) for i, clip_id in enumerate(ids)}
    write(tmp_path / "set", content)
    features = FeatureSet.open(tmp_path / "set")
    refused = set()
    for form in FORMS:
        try:
            export_features(features, tmp_path / form, form)
        except UsageError as error:
            assert "use" in str(error)  # noqa: PT017 - which forms refuse is the point
            assert not (tmp_path / form).exists()
            refused.add(form)
        else:
            assert_equal(plainly(tmp_path / form, form), content, 0)
    assert refused == refused_by


def test_names_that_a_file_system_takes_for_one_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "set", {"clip": clip(0), "CLIP": clip(1)})
    real = Path.__truediv__
    monkeypatch.setattr(Path, "__truediv__", lambda self, name: real(self, name.lower()))
    with pytest.raises(UsageError, match=r"'clip'.*another clip's"):
        export_features(FeatureSet.open(tmp_path / "set"), tmp_path / "out", "npy")


def test_unknown_form(tmp_path: Path) -> None:
    write(tmp_path / "set", clips(1))
    with pytest.raises(UsageError, match=r"'csv'.*npy, npz, pt, hdf5, array"):
        export_features(FeatureSet.open(tmp_path / "set"), tmp_path / "out", "csv")


def test_the_command_offers_every_form() -> None:
    (choices,) = [option.type.choices for option in export_command.params if option.name == "form"]  # type: ignore[attr-defined]
    assert list(choices) == list(FORMS)
