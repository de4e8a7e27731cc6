"""Names, presets, plugins, and what is told where weights cannot be had."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from supportset.extract.backbones import BACKBONES, DEFAULT_BACKBONE, load_backbone
from supportset.extract.backbones.registry import Registry
from supportset.extract.backbones.weights import quiet_libraries
from supportset.extract.text.encoders import TEXT_ENCODERS
from supportset.store.errors import UsageError

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
        *((preset, f"{full}@") for preset, full in BACKBONES.presets().items()),
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
    assert "not a local path and cannot be downloaded from the hub (no network: " in message
    assert "or use --backbone efficientnet_lite:0" in message
    assert mend in message
    assert re.search(r"download them, (the hub's \S+/\S+|https?://\S+), where there is a network", message), "what"
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
            print("and theirs, where --json is read")
            logging.error("by way of the root logger")
            logging.getLogger("supportset.extract.backbones.timm").warning("ours")
        assert not root.handlers
    finally:
        for handler in handlers:
            root.addHandler(handler)
    shown = capsys.readouterr()
    assert (shown.out, shown.err.split()) == ("", ["ours"])
