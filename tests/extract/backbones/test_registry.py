"""Names, presets, plugins, and what is told where weights cannot be had."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from supportset.extract.backbones import BACKBONES, DEFAULT_BACKBONE, load_backbone
from supportset.extract.backbones.registry import Registry
from supportset.extract.backbones.weights import quiet_libraries
from supportset.extract.text.encoders import TEXT_ENCODERS, load_text_encoder
from supportset.store.errors import UsageError
from tests.extract.backbones.compare import features
from tests.extract.backbones.frames import frame

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"


def test_names_are_listed_without_loading_torch() -> None:
    code = (
        "import sys; from supportset.extract.backbones import BACKBONES; BACKBONES.describe(); "
        "from supportset.extract.text.encoders import TEXT_ENCODERS; TEXT_ENCODERS.describe(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("name", "family", "model"),
    [
        (DEFAULT_BACKBONE, "open_clip", "ViT-B-32/laion2b_s34b_b79k"),
        ("resnet152", "timm", "resnet152.tv_in1k"),
        ("timm:hf-hub:someone/model", "timm", "hf-hub:someone/model"),
        ("r2plus1d_34", "r2plus1d_34", ""),
        ("r2plus1d_34:8", "r2plus1d_34", "8"),
    ],
)
def test_names_are_taken_apart(name: str, family: str, model: str, tmp_path: Path) -> None:
    parsed = BACKBONES.parse(name)
    assert (parsed.family, parsed.model, parsed.path) == (family, model, None)
    assert BACKBONES.parse(f"{name}@{tmp_path}").path == tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet151",
            r"'resnet151' is unknown \(did you mean resnet152\?\): families are efficientnet_lite, hf, open_clip",
        ),
        ("openclip:ViT-B-32/openai", r"did you mean open_clip"),
        ("", "is unknown: families are"),
        ("resnet152@/nowhere/at/all.pth", "there is no file or folder '/nowhere/at/all.pth'"),
        ("resnet152@", "there is no file or folder ''"),
    ],
)
def test_unknown_names_and_absent_paths_are_told(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_backbone(name)


@pytest.mark.parametrize(
    ("registry", "document"), [(BACKBONES, "backbones.md"), (TEXT_ENCODERS, "text-encoders.md")], ids=["visual", "text"]
)
def test_every_family_and_preset_is_described_and_documented(registry: Registry, document: str) -> None:
    rows = {name: (what, needs) for name, what, needs in registry.describe()}
    text = (DOCS / document).read_text(encoding="utf-8")
    for name, family in registry.families().items():
        assert family.pattern in rows
        assert "plugin" not in family.what, "ours say what they are"
        assert f"`{name}" in text
    for preset, full in registry.presets().items():
        assert full in rows[preset][0]
        assert re.search(rf"^\| `{preset}` \| `{re.escape(full)}`", text, re.MULTILINE), f"{preset} is not documented"
    assert registry is TEXT_ENCODERS or DEFAULT_BACKBONE in text


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        (DEFAULT_BACKBONE, f"{DEFAULT_BACKBONE}@PATH"),
        ("open_clip:hf-hub:nobody/nothing", "@PATH"),
        ("clip-vit-l-14", "open_clip:ViT-L-14/openai@PATH"),
        ("timm:resnet18", "timm:resnet18@PATH"),
        ("timm:hf-hub:nobody/nothing", "@PATH"),
        ("torchvision:resnet18", "torchvision:resnet18/IMAGENET1K_V1@PATH"),
        ("hf:nobody/nothing", "hf:nobody/nothing@FOLDER"),
    ],
)
def test_weights_out_of_reach_are_one_line_with_the_mend(
    name: str, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []

    def unknown_host(*args: object, **options: object) -> None:
        asked.append(args)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown_host)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(UsageError) as raised:
        load_backbone(name)
    message = str(raised.value)
    assert "not a local path and cannot be downloaded from the hub" in message
    assert mend in message
    assert "\n" not in message
    assert len(message) < 600
    assert len(asked) <= 2, "what does not resolve is not asked again and again"
    assert constants.HF_HUB_OFFLINE is False
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger("huggingface_hub").level < logging.CRITICAL
    assert "rror" not in capfd.readouterr().err


def test_our_own_warnings_are_heard_while_libraries_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    root, handlers = logging.getLogger(), list(logging.getLogger().handlers)
    for handler in handlers:
        root.removeHandler(handler)
    try:
        with quiet_libraries():
            logging.getLogger("timm.models").warning("theirs")
            logging.error("by way of the root logger")
            logging.getLogger("supportset.extract.backbones.timm").warning("ours")
        assert not root.handlers
    finally:
        for handler in handlers:
            root.addHandler(handler)
    assert capsys.readouterr().err.split() == ["ours"]


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
    assert [(len(each.ids), each.whole) for each in tokens] == [(5, 8), (0, 0), (2, 2)]
    values = encoder.forward([each.ids for each in tokens if each.ids])
    assert values.shape == (7, 8)
    assert torch.equal(values[0], values[6]), "a is a"
    assert load_text_encoder("letters:8").weights_hash == encoder.weights_hash
    assert any(name == "letters:DIM" for name, _, _ in TEXT_ENCODERS.describe())
    with pytest.raises(UsageError, match="text encoder letters:x: give the length"):
        load_text_encoder("letters:x")


@pytest.mark.parametrize("document", ["backbones.md", "text-encoders.md"])
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
        assert b":load" in archive.read(points)
