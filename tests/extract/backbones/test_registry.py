"""Names, presets, plugins, and what is told where weights cannot be had."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from supportset.extract.backbones import DEFAULT_BACKBONE, PRESETS, describe_backbones, load_backbone
from supportset.extract.backbones.registry import FAMILIES, parse_name
from supportset.extract.backbones.weights import quiet_libraries
from supportset.store.errors import UsageError
from tests.extract.backbones.compare import features
from tests.extract.backbones.frames import frame

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")


def test_names_are_listed_without_loading_torch() -> None:
    code = "import sys, supportset.extract.backbones as b; b.describe_backbones(); assert 'torch' not in sys.modules"
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
    parsed = parse_name(name)
    assert (parsed.family, parsed.model, parsed.path) == (family, model, None)
    assert parse_name(f"{name}@{tmp_path}").path == tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet151",
            r"'resnet151' is unknown \(did you mean resnet152\?\): families are efficientnet_lite, open_clip",
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


def test_every_family_and_preset_is_described_and_documented() -> None:
    rows = {name: (what, needs) for name, what, needs in describe_backbones()}
    for family in FAMILIES.values():
        assert family.pattern in rows
    for preset, full in PRESETS.items():
        assert full in rows[preset][0]
        assert re.search(rf"^\| `{preset}` \| `{re.escape(full)}`", DOCUMENT, re.MULTILINE), (
            f"{preset} is not documented"
        )
    assert all(f"`{name}" in DOCUMENT for name in FAMILIES)
    assert DEFAULT_BACKBONE in DOCUMENT


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
    assert "neither a local path nor to be had from the hub" in message
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


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of the documentation, installed: its module and what pip writes beside it."""
    blocks = dict(re.findall(r"```(python|toml)\n(.*?)```", DOCUMENT, re.DOTALL))
    assert len(blocks["python"].splitlines()) <= 30
    group, entry = blocks["toml"].strip().splitlines()
    assert group == '[project.entry-points."supportset.backbones"]'
    (tmp_path / "supportset_colours.py").write_text(blocks["python"])
    info = tmp_path / "supportset_colours-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: supportset-colours\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[supportset.backbones]\n" + entry.replace('"', "") + "\nbroken = nowhere:load\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugin")
def test_the_documented_plugin_works() -> None:
    backbone = load_backbone("colours:2")
    picture = frame(64, 64)
    assert (backbone.name, backbone.dim, backbone.given) == ("colours:2", 12, "colours:2")
    cells = torch.from_numpy(picture).float().view(2, 32, 2, 32, 3).mean((1, 3)) / 255
    expected = ((cells - 0.5) / 0.5).permute(2, 0, 1).reshape(1, 12)
    torch.testing.assert_close(features(backbone, [picture]), expected, atol=1e-5, rtol=0)
    assert (
        "colours:MODEL",
        "plugin supportset_colours:load",
        "see the package supportset-colours",
    ) in describe_backbones()
    with pytest.raises(UsageError, match="backbone colours:x: give the number"):
        load_backbone("colours:x")
    with pytest.raises(UsageError, match=r"did you mean colours"):
        load_backbone("colour:2")


@pytest.mark.usefixtures("plugin")
def test_a_broken_plugin_is_told_and_harms_no_other() -> None:
    with pytest.raises(UsageError, match=r"plugin 'broken' \(nowhere:load\) cannot be imported"):
        load_backbone("broken:1")
    assert load_backbone("colours:1").dim == 3
