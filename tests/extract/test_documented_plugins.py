"""Plugins as the documentation prints them: they build, install and work."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch

from supportset.extract.backbones import BACKBONES, load_backbone
from supportset.extract.readers import list_readers
from supportset.extract.readers.annotate import read_dataset
from supportset.extract.text.encoders import TEXT_ENCODERS, load_text_encoder
from supportset.store.errors import UsageError
from tests.extract.backbones.compare import features
from tests.extract.backbones.frames import frame

DOCS = Path(__file__).resolve().parents[2] / "docs"


def documented(document: str) -> tuple[str, str]:
    """The module and the ``pyproject.toml`` of a plugin, as a page of the documentation prints them."""
    blocks = dict(re.findall(r"```(python|toml)\n(.*?)```", (DOCS / document).read_text(encoding="utf-8"), re.DOTALL))
    assert len(blocks["python"].splitlines()) <= 40
    return blocks["python"], blocks["toml"]


def installed(folder: Path, document: str) -> Path:
    """Put the package of a page where Python finds it: its module and what pip writes beside it."""
    module, described = documented(document)
    project = tomllib.loads(described)
    (group, points), *_ = project["project"]["entry-points"].items()
    name, *_ = project["tool"]["setuptools"]["py-modules"]
    (folder / f"{name}.py").write_text(module)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['project']['name']}\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{key} = {value}" for key, value in points.items()), "broken = nowhere:load"]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_the_documented_backbone_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(installed(tmp_path, "backbones.md"))
    backbone = load_backbone("colours:2")
    picture = frame(64, 64)
    assert (backbone.name, backbone.dim, backbone.given) == ("colours:2", 12, "colours:2")
    cells = torch.from_numpy(picture).float().view(2, 32, 2, 32, 3).mean((1, 3)) / 255
    expected = ((cells - 0.5) / 0.5).permute(2, 0, 1).reshape(1, 12)
    torch.testing.assert_close(features(backbone, [picture]), expected, atol=1e-5, rtol=0)
    assert ("colours:CELLS", "mean colours of a grid", "no weights") in BACKBONES.describe()
    assert BACKBONES.families()["broken"].needs == "see the package supportset-colours"
    with pytest.raises(UsageError, match="backbone colours:x: give the number"):
        load_backbone("colours:x")
    with pytest.raises(UsageError, match=r"did you mean colours"):
        load_backbone("colour:2")
    with pytest.raises(UsageError, match=r"'broken' \(nowhere:load\) .*uninstall the package supportset-colours"):
        load_backbone("broken:1")


def test_the_documented_text_encoder_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(installed(tmp_path, "text-encoders.md"))
    encoder = load_text_encoder("letters:8", 5)
    tokens = encoder.tokenize(["abcdefgh", "", "ba"])
    assert [(len(each.ids), each.length) for each in tokens] == [(5, 8), (0, 0), (2, 2)]
    values = encoder.forward([each.ids for each in tokens if each.ids])
    assert values.shape == (7, 8)
    assert torch.equal(values[0], values[6]), "a is a"
    assert load_text_encoder("letters:8").weights_hash == encoder.weights_hash
    assert any(name == "letters:DIM" for name, _, _ in TEXT_ENCODERS.describe())
    with pytest.raises(UsageError, match="text encoder letters:x: give the length"):
        load_text_encoder("letters:x")


@pytest.mark.parametrize("document", ["backbones.md", "text-encoders.md", "datasets.md"])
def test_the_documented_pyproject_builds(document: str, tmp_path: Path) -> None:
    module, described = documented(document)
    (tmp_path / "pyproject.toml").write_text(described)
    (tmp_path / f"{tomllib.loads(described)['tool']['setuptools']['py-modules'][0]}.py").write_text(module)
    code = "import setuptools.build_meta as b; print(b.build_wheel('.'))"
    built = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [points] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert b"[supportset." in archive.read(points)


def test_the_documented_reader_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(installed(tmp_path, "datasets.md"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lines.txt").write_text("one\ta dog runs\ntwo\ta cat sits\n")
    (tmp_path / "data" / "one.mp4").write_bytes(b"\0")
    found = read_dataset("lines", tmp_path / "data").annotations
    assert [(clip.clip_id, clip.path) for clip in found.clips] == [("one", "one.mp4"), ("two", None)]
    assert [row.clip_id for row in found.splits] == ["one", "two"]
    assert "lines" in [reader.name for reader in list_readers()], "a broken plugin harms no other"
    with pytest.raises(UsageError, match="did you mean lines"):
        read_dataset("line", tmp_path)
    (tmp_path / "data" / "lines.txt").unlink()
    with pytest.raises(UsageError, match=r"lines: no lines.txt in .*expected lines.txt with"):
        read_dataset("lines", tmp_path / "data")
