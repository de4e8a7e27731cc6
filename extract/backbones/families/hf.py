"""Image and video models of transformers. Its types are in :mod:`supportset.extract.backbones.hf_types`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoVideoProcessor

from supportset.extract.backbones.base import Backbone
from supportset.extract.backbones.hf_processors import prepare
from supportset.extract.backbones.hf_types import TYPES, HfType, load_network, strip, token_grid
from supportset.extract.backbones.tokens import TokenGrid, suffix
from supportset.extract.backbones.weights import from_file, from_hub, refuse_missing, split_folder
from supportset.store.errors import UsageError

ABOUT = {
    "pattern": "hf:NAME",
    "what": "transformers: CLIP, MetaCLIP 2, SigLIP, SigLIP 2, DINOv2, DINOv3, ViT (frames); VideoPrism, PE-video, "
    "V-JEPA 2, VideoMAE, TimeSformer, X-CLIP (windows)",
    "needs": "a hub name, or a local folder with config.json, weights and the processor's file: "
    "hf:FOLDER or hf:NAME@FOLDER",
    "presets": {
        "siglip": "google/siglip-base-patch16-224",
        "siglip2": "google/siglip2-base-patch16-224",
        "siglip2-naflex": "google/siglip2-base-patch16-naflex",
        "metaclip2": "facebook/metaclip-2-worldwide-huge-quickgelu",
        "dinov2": "facebook/dinov2-base",
        "dinov3": "facebook/dinov3-vitb16-pretrain-lvd1689m",
        "videoprism": "google/videoprism-lvt-base-f16r288",
        "pe-video": "facebook/pe-av-base-16-frame",
        "vjepa2": "facebook/vjepa2-vitl-fpc64-256",
        "timesformer": "facebook/timesformer-base-finetuned-k400",
        "videomae": "MCG-NJU/videomae-base-finetuned-kinetics",
        "xclip": "microsoft/xclip-base-patch32",
    },
}


class HfBackbone(Backbone):
    """A model of transformers; its type decides which output is the feature."""

    def __init__(self, model: nn.Module, *, kind: HfType, grid: TokenGrid | None = None, **options: Any) -> None:
        super().__init__(
            model,
            layer=kind.layer if grid is None else "last hidden state",
            pooling=kind.pooling if grid is None else grid.words,
            vectors=1 if grid is None else grid.vectors,
            **options,
        )
        self._kind, self._grid = kind, grid

    def encode(self, pixels: Any) -> Tensor:
        """Map (N, 3, h, w) or (N, window, 3, h, w) to (N, dim) or to tokens; of a model with patches, its inputs."""
        if self._grid is None or self._kind.tokens is None:
            return self._kind.encode(self.model, pixels)
        return self._grid.pool(self._kind.tokens(self.model, pixels))

    def _normalise(self, frames: Tensor) -> Any:
        if not self._kind.patches:
            return super()._normalise(frames)
        numbers = frames[:, 0, :2, :2].long()  # see FitPatches
        shapes = (numbers[..., 0] * 256 + numbers[..., 1]).clamp(min=1)
        patches = super()._normalise(frames[:, 1:]).movedim(1, -1).flatten(2)
        places = torch.arange(patches.shape[1], device=frames.device)
        mask = (places < shapes.prod(1, keepdim=True)).to(torch.int32)
        return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}


def load(model: str, path: Path | None = None, tokens: int | None = None) -> Backbone:
    """Load ``hf:NAME`` from the hub, or ``hf:FOLDER`` or ``hf:NAME@FOLDER`` from a local folder.

    ``tokens`` is the N of ``#tokens=N``, 0 for all.
    """
    model, path = split_folder(model, path)
    model = model or (path.resolve().name if path else "")
    if path is None and (not model or model.startswith((".", "/", "~"))):
        raise UsageError(f"backbone hf:{model}: there is no folder {model!r}: give a hub name or the path of a folder")
    name = f"hf:{model}"
    if path is None:
        with from_hub(name, f"{name}@FOLDER", what=f"the hub's {model}"):
            return _load(name, model, model, tokens)
    with from_file(name, path):
        if not (path / "config.json").is_file():  # else transformers may guess a model from the folder's name
            raise ValueError("there is no config.json in it")
        return _load(name, str(path), path.resolve().name, tokens)


def _load(name: str, source: str, weights: str, tokens: int | None) -> Backbone:
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    kind = TYPES.get(config.model_type)
    if kind is None:
        raise UsageError(
            f"backbone {name} is a model of type {config.model_type!r}, which is not supported: "
            f"choose one of {', '.join(TYPES)}"
        )
    if tokens is not None and kind.tokens is None:
        raise UsageError(
            f"backbone {name}: models of type {config.model_type!r} have no grid of tokens of one size: leave out "
            f"#tokens, or choose one of {', '.join(known for known, each in TYPES.items() if each.tokens)}"
        )
    network, missing = load_network(source, config)
    strip(network, kind.keep)
    refuse_missing(missing & set(network.state_dict()))
    config, processor = kind.config(config), _processor(source)
    window = kind.window(config, processor)
    prepared = prepare(name, processor, window, kind.patches)
    dim, grid = kind.dim(config), None
    if tokens is not None:
        *shape, dim = token_grid(config, window, *prepared.transform.size)
        name += suffix(tokens)
        grid = TokenGrid.make(name, tokens, *shape)
    return HfBackbone(
        network,
        kind=kind,
        grid=grid,
        name=name,
        weights=weights,
        dim=dim,
        window=window,
        **vars(prepared),
    )


def _processor(source: str) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError):
        # Newer video models have no image processor
        return AutoVideoProcessor.from_pretrained(source, trust_remote_code=False)
