"""Image and video models of transformers.

Frames are prepared as the model's own processor says, with its PIL arithmetic: it gives the same pixels on every
machine and most published weights were validated with it. Processors that resize with torchvision instead (the
default of transformers 5) differ from it by a grey level in one value of 200, at hard edges by some levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoVideoProcessor, CLIPVisionModelWithProjection

from supportset.extract.backbones.base import Backbone
from supportset.extract.backbones.transforms import CenterCrop, FrameTransform, Resize, ResizeShortest, Step
from supportset.extract.backbones.weights import from_file, from_hub, refuse_missing, split_folder
from supportset.store.errors import UsageError

ABOUT = {
    "pattern": "hf:NAME",
    "what": "transformers: CLIP, SigLIP, DINOv2 and ViT (frames), VideoMAE and X-CLIP (windows)",
    "needs": "a hub name, or a local folder with config.json, weights and preprocessor_config.json: "
    "hf:FOLDER or hf:NAME@FOLDER",
    "presets": {
        "siglip": "google/siglip-base-patch16-224",
        "dinov2": "facebook/dinov2-base",
        "videomae": "MCG-NJU/videomae-base-finetuned-kinetics",
        "xclip": "microsoft/xclip-base-patch32",
    },
}


def _pooled(output: Any) -> Tensor:
    """The embedding in what ``get_*_features`` returns: a tensor before transformers 5, an output object since."""
    return output if isinstance(output, Tensor) else output.pooler_output


@dataclass(frozen=True)
class _Kind:
    """How one type of model is loaded and read."""

    encode: Callable[[Any, Tensor], Tensor]
    layer: str
    pooling: str
    dim: Callable[[Any], int]
    keep: tuple[str, ...] = ()  # parts that the features depend on; empty = all
    window: Callable[[Any], int] = lambda config: 1
    loader: Any = AutoModel


def _vision(config: Any) -> Any:
    return getattr(config, "vision_config", config)


_CLASS_TOKEN = _Kind(
    lambda model, pixels: model(pixel_values=pixels).last_hidden_state[:, 0],
    "last hidden state", "class token", lambda config: config.hidden_size,
)  # fmt: skip
_KINDS = {
    "clip": _Kind(
        lambda model, pixels: _pooled(model.get_image_features(pixel_values=pixels)),
        "image embedding", "class token, projected, not normalised", lambda config: config.projection_dim,
        ("vision_model", "visual_projection"),
    ),
    "clip_vision_model": _Kind(
        lambda model, pixels: model(pixel_values=pixels).image_embeds,
        "image embedding", "class token, projected, not normalised", lambda config: config.projection_dim,
        loader=CLIPVisionModelWithProjection,
    ),
    "siglip": _Kind(
        lambda model, pixels: _pooled(model.get_image_features(pixel_values=pixels)),
        "image embedding", "attention pooling, not normalised", lambda config: _vision(config).hidden_size,
        ("vision_model",),
    ),
    "siglip_vision_model": _Kind(
        lambda model, pixels: model(pixel_values=pixels).pooler_output,
        "image embedding", "attention pooling, not normalised", lambda config: config.hidden_size,
    ),
    "dinov2": _CLASS_TOKEN,
    "dinov2_with_registers": _CLASS_TOKEN,
    "vit": _CLASS_TOKEN,
    "videomae": _Kind(
        lambda model, pixels: model(pixel_values=pixels).last_hidden_state.mean(1),
        "last hidden state", "mean of the patch tokens", lambda config: config.hidden_size,
        window=lambda config: config.num_frames,
    ),
    "xclip": _Kind(
        lambda model, pixels: _pooled(model.get_video_features(pixel_values=pixels)),
        "video embedding", "multi-frame integration, not normalised", lambda config: config.projection_dim,
        ("vision_model", "visual_projection", "mit"), window=lambda config: _vision(config).num_frames,
    ),
}  # fmt: skip
_UNUSED = "pooler"  # a part that ViT creates, filled or not: the class token is taken before it

# Processors that resize, crop, rescale and normalise in this order, and do nothing else
_PROCESSORS = ("CLIPImageProcessor", "SiglipImageProcessor", "BitImageProcessor", "ViTImageProcessor",
               "VideoMAEImageProcessor", "VideoMAEVideoProcessor")  # fmt: skip
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # PIL's numbers


class HfBackbone(Backbone):
    """A model of transformers; its type decides which output is the feature."""

    def __init__(self, model: nn.Module, *, kind: _Kind, **options: Any) -> None:
        super().__init__(model, layer=kind.layer, pooling=kind.pooling, **options)
        self._kind = kind

    def encode(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, h, w) or (N, window, 3, h, w) to (N, dim)."""
        return self._kind.encode(self.model, pixels)


def load(model: str, path: Path | None = None) -> Backbone:
    """Load ``hf:NAME`` from the hub, or ``hf:FOLDER`` or ``hf:NAME@FOLDER`` from a local folder."""
    model, path = split_folder(model, path)
    model = model or (path.resolve().name if path else "")
    if path is None and (not model or model.startswith((".", "/", "~"))):
        raise UsageError(f"backbone hf:{model}: there is no folder {model!r}: give a hub name or the path of a folder")
    name = f"hf:{model}"
    if path is None:
        with from_hub(name, f"{name}@FOLDER"):
            return _load(name, model, model)
    with from_file(name, path):
        if not (path / "config.json").is_file():  # else transformers may guess a model from the folder's name
            raise ValueError("there is no config.json in it")
        return _load(name, str(path), path.resolve().name)


def _load(name: str, source: str, weights: str) -> Backbone:
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    kind = _KINDS.get(config.model_type)
    if kind is None:
        raise UsageError(
            f"backbone {name} is a model of type {config.model_type!r}, which is not supported: "
            f"choose one of {', '.join(_KINDS)}"
        )
    # float32 always: transformers 5 would take the type of the file
    network, info = kind.loader.from_pretrained(
        source, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
    )
    strip(network, kind.keep)
    refuse_missing(set(info["missing_keys"]) & set(network.state_dict()))
    processor = _processor(source)
    transform, rescale, mean, std = read_processor(name, processor)
    return HfBackbone(
        network,
        kind=kind,
        name=name,
        weights=weights,
        dim=kind.dim(config),
        window=kind.window(config),
        transform=transform,
        rescale=rescale,
        mean=mean,
        std=std,
    )


def visual_state(network: nn.Module, model_type: str) -> dict[str, Tensor]:
    """The parameters that remain of a pair after :func:`strip` keeps what the visual features depend on."""
    keep = _KINDS[model_type].keep if model_type in _KINDS else ()
    return {name: value for name, value in network.state_dict().items() if name.partition(".")[0] in keep}


def strip(network: nn.Module, keep: tuple[str, ...]) -> None:
    """Remove what no feature depends on (the other tower, temperature, pooler): it is neither kept nor hashed."""
    for part, _ in list(network.named_children()):
        if part == _UNUSED or (keep and part not in keep):
            setattr(network, part, None)
    for parameter, _ in list(network.named_parameters(recurse=False)):
        if keep:
            setattr(network, parameter, None)


def _processor(source: str) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError):
        # Newer video models have no image processor
        return AutoVideoProcessor.from_pretrained(source, trust_remote_code=False)


def read_processor(name: str, processor: Any) -> tuple[FrameTransform, float, list[float], list[float]]:
    """Read a processor's settings: the transform of one frame, the rescaling factor, mean and standard deviation.

    Raises
    ------
    UsageError
        If the processor does something that the transform could not repeat.
    """
    kind = type(processor).__name__.removesuffix("Fast").removesuffix("Pil")
    if kind not in _PROCESSORS:
        raise UsageError(f"backbone {name} prepares frames with a {kind}, which is not supported: choose another model")
    steps: list[Step] = []
    height = width = 0
    if processor.do_resize:
        resample = processor.resample  # PIL's number, or torchvision's enum of names
        interpolation = _INTERPOLATIONS[resample] if isinstance(resample, int) else str(resample.value)
        size = dict(processor.size)
        if size.get("shortest_edge") and not size.get("longest_edge"):
            height = width = size["shortest_edge"]
            steps.append(ResizeShortest(height, interpolation))
        elif size.get("height") and size.get("width"):
            height, width = size["height"], size["width"]
            steps.append(Resize(height, width, interpolation))
    if getattr(processor, "do_center_crop", False):
        crop = dict(processor.crop_size)
        height, width = crop["height"], crop["width"]
        steps.append(CenterCrop(height, width, rounding="floor"))
    if not any(isinstance(step, Resize | CenterCrop) for step in steps):
        raise UsageError(f"backbone {name}: its processor does not bring frames to one size: choose another model")
    rescale = float(processor.rescale_factor) if processor.do_rescale else 1.0
    mean = list(processor.image_mean) if processor.do_normalize else [0.0] * 3
    std = list(processor.image_std) if processor.do_normalize else [1.0] * 3
    return FrameTransform(tuple(steps), height, width), rescale, mean, std
