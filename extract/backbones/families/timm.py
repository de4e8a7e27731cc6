"""Image models of timm without their classifier."""

from __future__ import annotations

import json
import math
import sys
from logging import getLogger
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.models import get_arch_name, is_model, list_models
from torch import Tensor, nn

from supportset.extract.backbones.base import Backbone
from supportset.extract.backbones.tokens import TokenGrid, suffix
from supportset.extract.backbones.transforms import (
    CenterCrop,
    FrameTransform,
    Resize,
    ResizeKeepRatio,
    ResizeShortest,
    Step,
)
from supportset.extract.backbones.weights import fill, from_file, from_hub, only_file, read_state, split_folder
from supportset.store.errors import UsageError
from supportset.store.plugins import nearest

ABOUT = {
    "pattern": "timm:NAME",
    "what": "any timm image model without its classifier: pooled features a frame",
    "needs": "a timm name with or without a tag, hf-hub:ORG/NAME (hub), NAME@FILE, or NAME@FOLDER with config.json",
    "presets": {"resnet152": "resnet152.tv_in1k"},
}
_HUB = "hf-hub:"
# Arguments of timm.create_model that read other files
_LOADING = {"checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}


class TimmBackbone(Backbone):
    """The model's own pooling of its last features, before the classifier, or the patch tokens of a ViT."""

    def __init__(self, model: nn.Module, *, grid: TokenGrid | None, **options: Any) -> None:
        super().__init__(model, vectors=1 if grid is None else grid.vectors, **options)
        self._grid = grid

    def encode(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, h, w) to (N, dim) or (N, vectors, dim)."""
        network: Any = self.model
        if self._grid is None:
            pooled: Tensor = network(pixels)
            return pooled
        return self._grid.pool(network.forward_features(pixels)[:, network.num_prefix_tokens :])


def load(model: str, path: Path | None = None, tokens: int | None = None) -> Backbone:
    """Load ``timm:NAME``, ``timm:hf-hub:ORG/NAME``, ``timm:NAME@FILE``, or a folder with config.json and weights.

    ``tokens`` is the N of ``#tokens=N``, 0 for all.
    """
    model, path = split_folder(model, path)
    if (model or path is None) and not model.startswith(_HUB):
        _check_name(model)
    if path is None:
        known = None if model.startswith(_HUB) else timm.get_pretrained_cfg(model)
        place = model.removeprefix(_HUB) if known is None else known.hf_hub_id or known.url
        with from_hub(f"timm:{model}", f"timm:{model}@PATH", what=f"the hub's {place}" if place else ""):
            network = timm.create_model(model, pretrained=True, num_classes=0)
        name, weights = _full_name(model, network.pretrained_cfg), network.pretrained_cfg.get("tag") or model
    else:
        name = f"timm:{model or path.name}"
        with from_file(name, path):
            network = _from_path(model, path)
        weights = path.name
    config = resolve_data_config(network.pretrained_cfg, model=network)
    grid = None
    pooling = str(getattr(network, "global_pool", "") or network.pretrained_cfg.get("pool") or "the model's own")
    if tokens is not None:
        name += suffix(tokens)
        grid = _token_grid(name, network, tokens)
    return TimmBackbone(
        network,
        grid=grid,
        name=name,
        weights=weights,
        dim=_width(name, network, config["input_size"]) if grid is None else network.num_features,
        transform=frame_transform(config),
        mean=config["mean"],
        std=config["std"],
        layer="pooled features" if grid is None else "last features",
        pooling=pooling if grid is None else grid.words,
    )


def _token_grid(name: str, network: Any, tokens: int) -> TokenGrid:
    if not hasattr(network, "num_prefix_tokens") or not hasattr(getattr(network, "patch_embed", None), "grid_size"):
        raise UsageError(f"backbone {name}: it is no plain ViT, so it has no patch tokens: leave out #tokens")
    return TokenGrid.make(name, tokens, 1, *network.patch_embed.grid_size)


def _check_name(model: str) -> None:
    if not is_model(model):
        names = list_models()
        raise UsageError(
            f"backbone timm:{model}: timm has no model {model!r}{nearest(get_arch_name(model), names)}: "
            f"name one of its {len(names)}, hf-hub:ORG/NAME, or a folder"
        )
    tag = model.partition(".")[2]
    tags = [name.partition(".")[2] for name in list_models(f"{get_arch_name(model)}.*", pretrained=True)]
    if tag and tag not in tags:
        raise UsageError(
            f"backbone timm:{model}: {get_arch_name(model)} has no weights {tag!r}: "
            f"choose one of {', '.join(tags) or '(none are published: give a file, NAME@FILE)'}"
        )


def _full_name(model: str, config: dict[str, Any]) -> str:
    """Add the tag that timm chose, so that the card says which weights a plain ``resnet152`` has."""
    tag = config.get("tag")
    return f"timm:{model}" if model.startswith(_HUB) or "." in model or not tag else f"timm:{model}.{tag}"


def _from_path(model: str, path: Path) -> nn.Module:
    options: dict[str, Any] = {}
    if path.is_dir():
        file, described = only_file(path), path / "config.json"
        if described.exists():
            published = json.loads(described.read_text(encoding="utf-8"))
            architecture = published.get("architecture", "")
            if model and architecture != get_arch_name(model):
                raise ValueError(f"its config.json says {architecture!r}")
            model = model or architecture
            arguments = published.get("model_args", {})
            if unsafe := sorted(set(arguments) & _LOADING):
                raise ValueError(f"its config.json sets {unsafe[0]}, which is an option of loading")
            options = {"pretrained_cfg_overlay": published.get("pretrained_cfg", {}), **arguments}
        if not model:
            raise ValueError("it holds no config.json that names the architecture")
    else:
        file = path
        model = _published_as(model, path)
    network = timm.create_model(model, pretrained=False, num_classes=0, **options)
    classifier = network.pretrained_cfg.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    state, ignore = read_state(file), tuple(f"{name}." for name in names)
    try:
        fill(network, state, ignore=ignore)
    except ValueError:
        # The layout of an older release, or of the model's authors: timm's modules can translate it
        translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        if translate is None:
            raise
        fill(network, translate(state, network), ignore=ignore)
    return network


def _published_as(model: str, path: Path) -> str:
    """Add the tag to an untagged name if the file's name gives it; else say which transform is used."""
    if "." in model:
        return model
    tagged = list_models(f"{model}.*", pretrained=True)
    configs = {name: timm.get_pretrained_cfg(name) for name in tagged}
    for name, config in configs.items():
        if config is not None and config.url and path.name == config.url.rpartition("/")[2]:
            return name
    prepared = {str(resolve_data_config(config.to_dict())) for config in configs.values() if config is not None}
    if len(prepared) > 1:
        default = timm.get_pretrained_cfg(model)
        getLogger(__name__).warning(
            "%s: it is not known which weights of %s these are; frames are prepared as for %s.%s: "
            "name other weights, as timm:%s@PATH",
            path, model, model, default.tag if default else "", tagged[-1],
        )  # fmt: skip
    return model


def _width(name: str, network: nn.Module, input_size: tuple[int, int, int]) -> int:
    if input_size[0] != 3:
        raise UsageError(f"backbone {name} takes {input_size[0]} channels, not RGB: choose a model of three channels")
    with torch.inference_mode():  # timm has no one attribute that says it for all models
        shape = tuple(network.eval()(torch.zeros(1, *input_size)).shape)
    if len(shape) != 2:
        raise UsageError(f"backbone {name} does not pool its features (they have shape {shape}): choose one that does")
    return shape[1]


def frame_transform(config: dict[str, Any]) -> FrameTransform:
    """Repeat timm's evaluation transform of a data configuration (``resolve_data_config``) for one frame."""
    (height, width), interpolation = config["input_size"][1:], config["interpolation"]
    tall, wide = (math.floor(edge / (config["crop_pct"] or 0.875)) for edge in (height, width))
    fill_colour: tuple[int, ...] = (0,)
    resize: Step
    if config["crop_mode"] == "squash":
        resize = Resize(tall, wide, interpolation)
    elif config["crop_mode"] == "border":
        resize = ResizeKeepRatio(tall, wide, True, interpolation)
        fill_colour = tuple(round(255 * value) for value in config["mean"])
    elif tall == wide:
        resize = ResizeShortest(tall, interpolation)
    else:
        resize = ResizeKeepRatio(tall, wide, False, interpolation)
    return FrameTransform((resize, CenterCrop(height, width, fill=fill_colour)), height, width)
