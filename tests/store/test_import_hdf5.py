"""What an HDF5 file refers to, what it never held, and tables that bring their ids; files that unpack to far more."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.import_card import ImportOptions
from supportset.store.transfer.importing import ImportSummary, import_features
from supportset.store.transfer.opening import open_source
from supportset.store.transfer.sources import Naming


def steps(seed: int, count: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)


def run(path: Path, **naming: object) -> ImportSummary:
    source = open_source(path, Naming(**naming))  # type: ignore[arg-type]
    return import_features(path.with_name("store"), path.stem, source, ImportOptions("X"))


def ids(summary: ImportSummary) -> list[str]:
    return sorted(FeatureSet.open(summary.path).clip_ids)


def test_every_name_of_a_dataset_is_a_clip(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["e"] = steps(5)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = steps(0)
        file["same"] = file["a"]  # a hard link
        file["hidden/d1"] = steps(1)
        file["hidden/d2"] = steps(2)
        file["b"] = h5py.SoftLink("/hidden/d1")
        file["c"] = h5py.SoftLink("hidden/d2")
        file["e"] = h5py.ExternalLink("other.h5", "/e")
        file["group/f"] = steps(3)
        file["again"] = h5py.SoftLink("/")  # a circle
    summary = run(tmp_path / "x.h5")
    assert ids(summary) == ["a", "b", "c", "e", "f", "same"]
    features = FeatureSet.open(summary.path)
    assert features.read(["c"])[0].tobytes() == steps(2).tobytes()
    assert features.card.provenance["source"]["linked_files"] == ["other.h5"]


def test_links_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = steps(0)
        file["soft"] = h5py.SoftLink("/nothing")
        file["circle"] = h5py.SoftLink("/circle")
        file["away"] = h5py.ExternalLink("gone.h5", "/e")
    summary = run(tmp_path / "x.h5")
    assert ids(summary) == ["a"]
    assert {clip_id: status for clip_id, status, _ in summary.failures} == dict.fromkeys(
        ("soft", "circle", "away"), "unreadable"
    )


@pytest.mark.parametrize("kind", ["link", "external", "virtual"])
def test_other_files_are_read_on_request_only(tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "elsewhere" / "secret.h5"
    secret.parent.mkdir()
    with h5py.File(secret, "w") as file:
        file["e"] = steps(5)
    secret.with_suffix(".raw").write_bytes(steps(5).tobytes())
    path = tmp_path / "in" / "x.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["a"] = steps(0)
        if kind == "link":
            file["e"] = h5py.ExternalLink("../elsewhere/secret.h5", "/e")
        elif kind == "external":
            file.create_dataset("e", (4, 3), "f4", external=[(str(secret.with_suffix(".raw")), 0, 48)])
        else:
            layout = h5py.VirtualLayout((4, 3), "f4")
            layout[:] = h5py.VirtualSource(str(secret), "e", (4, 3))
            file.create_virtual_dataset("e", layout)
    summary = run(path)
    assert ids(summary) == ["a"]
    assert "--follow-links" in summary.failures[0][2]
    followed = run(path, follow_links=True)
    assert ids(followed) == ["a", "e"]
    secret.unlink()
    secret.with_suffix(".raw").write_bytes(b"short")
    other = path.rename(path.with_name("y.h5"))
    gone = run(other, follow_links=True)
    assert ids(gone) == ["a"]
    assert gone.failures[0][1] == "unreadable"


def test_the_card_names_the_files_that_were_followed(tmp_path: Path) -> None:
    (tmp_path / "e.raw").write_bytes(steps(5).tobytes())
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("e", (4, 3), "f4", external=[(str(tmp_path / "e.raw"), 0, 48)])
    card = FeatureSet.open(run(tmp_path / "x.h5", follow_links=True).path).card
    assert card.provenance["source"]["linked_files"] == [str(tmp_path / "e.raw")]


def test_what_was_never_written_is_not_read_as_zeros(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = steps(0)
        file.create_dataset("never", (4, 3), "f4")
        chunked = file.create_dataset("part", (4, 3), "f4", chunks=(1, 3))
        chunked[:2] = steps(1)[:2]
        layout = h5py.VirtualLayout((4, 3), "f4")
        layout[:2] = h5py.VirtualSource(".", "a", (4, 3))[:2]
        file.create_virtual_dataset("gap", layout)
    summary = run(tmp_path / "x.h5", follow_links=True)
    assert ids(summary) == ["a"]
    said = {clip_id: message for clip_id, _, message in summary.failures}
    assert said["never"] == "was never written"
    assert said["part"] == "2 of its 4 chunks were never written"
    assert said["gap"] == "6 of its 12 values have no source"


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_a_table_that_brings_its_ids(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    table = steps(0, 5)

    def write(**arrays: np.ndarray) -> None:
        if suffix == ".npz":
            np.savez(path, **arrays)  # type: ignore[arg-type]
            return
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array.astype("S") if array.dtype.kind == "U" else array

    names = np.array([f"v{number}" for number in range(5)])
    write(ids=names, features=table)
    summary = run(path)
    assert ids(summary) == list(names)
    assert FeatureSet.open(summary.path).read(["v3"])[0].tobytes() == table[3:4].tobytes()
    write(ids=names[:2], features=table, offsets=np.array([0, 2, 5]))
    assert FeatureSet.open(run(path.rename(tmp_path / f"ragged{suffix}")).path).lengths(["v0", "v1"]).tolist() == [2, 3]
    write(features=table)
    with pytest.raises(UsageError, match=r"'features', of all clips needs their ids.*--id-list"):
        run(path)
    (tmp_path / "list").write_text("".join(f"{name}\n" for name in names))
    assert ids(run(path.rename(tmp_path / f"listed{suffix}"), only=tmp_path / "list")) == list(names)
    write(ids=np.array(["v0"] * 5), features=table)
    with pytest.raises(UsageError, match="a clip twice"):
        run(path)


def test_archives_that_unpack_to_far_more_are_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.save(content, np.zeros((1, 1)))
    header = content.getvalue()[:128].replace(b"(1, 1), ", b"(99999999, 9), ").ljust(128)
    bomb = tmp_path / "src" / "a.npz"
    bomb.parent.mkdir()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("features.npy", "w") as member:
        member.write(header)
        for _ in range(80):
            member.write(bytes(1 << 20))
    np.save(bomb.with_name("b.npy"), steps(0))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["b"] = steps(0)
        file.create_dataset("a", data=np.zeros((1 << 23, 3), "f4"), compression="gzip", chunks=(1 << 20, 3))
    for path in (bomb.parent, tmp_path / "x.h5"):
        summary = run(path)
        assert ids(summary) == ["b"]
        assert summary.failures[0][:2] == ("a", "out_of_memory")
        assert "unpack to" in summary.failures[0][2]
    with pytest.raises(SupportsetError, match="unpack to"):
        run(bomb)


def test_values_that_vanish_in_float16_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "src"
    folder.mkdir()
    tiny = steps(0)
    tiny[2] = 1e-9
    partly = steps(1)
    partly[2, 0] = 1e-9
    np.save(folder / "tiny.npy", tiny)
    np.save(folder / "partly.npy", partly)
    source = open_source(folder)
    summary = import_features(tmp_path / "store", "d", source, ImportOptions("X", dtype="float16"))
    assert ids(summary) == ["partly"]
    assert summary.failures == [("tiny", "underflow", summary.failures[0][2])]
    assert "step 2" in summary.failures[0][2]
    assert any("zero in float16, not in the source: 1" in note for note in summary.notes)
