"""torchvision's classification models of images and of videos, without their last linear layer."""

from __future__ import annotations

import re
from logging import getLogger
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision import models
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from supportset.extract.backbones.base import Backbone
from supportset.extract.backbones.transforms import CenterCrop, FrameTransform, Resize, ResizeShortest, Step
from supportset.extract.backbones.weights import fill, from_file, from_hub, read_state
from supportset.store.errors import UsageError
from supportset.store.plugins import nearest

ABOUT = {
    "pattern": "torchvision:NAME",
    "what": "torchvision's image and video classification models: the input of the last linear layer",
    "needs": "NAME or NAME/WEIGHTS, as resnet50/IMAGENET1K_V1 (downloaded); or a file: NAME@FILE, NAME/WEIGHTS@FILE",
}
# Frames of one clip in the published evaluation of the video models (their weights' documentation)
_WINDOWS = {
    "r3d_18": 16,
    "mc3_18": 16,
    "r2plus1d_18": 16,
    "mvit_v1_b": 16,
    "mvit_v2_s": 16,
    "swin3d_t": 32,
    "swin3d_s": 32,
    "swin3d_b": 32,
    "s3d": 128,
}
# What the published weights of these need, and torchvision only sets when it loads them itself
_TRAINED_WITH = {
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": False, "init_weights": False},
}
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


class TorchvisionBackbone(Backbone):
    """The input of the classifier's last linear layer."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, h, w) or (N, window, 3, h, w) to (N, dim)."""
        return self.model(pixels if self.window == 1 else pixels.transpose(1, 2)).flatten(1)


def load(model: str, path: Path | None = None) -> Backbone:
    """Load ``torchvision:NAME``, ``NAME/WEIGHTS``, ``NAME@FILE`` or ``NAME/WEIGHTS@FILE``."""
    name, _, wanted = model.partition("/")
    known = [*list_models(module=models), *_WINDOWS]
    if name not in known:
        raise UsageError(
            f"backbone torchvision:{model}: torchvision has no classification model {name!r}{nearest(name, known)}"
        )
    entry = _entry(name, wanted, path)
    resolved = f"torchvision:{name}/{entry.name}" if wanted or path is None else f"torchvision:{name}"
    if path is None:
        with from_hub(resolved, f"{resolved}@PATH", what=entry.url):
            network = get_model(name, weights=entry, progress=False)
        dim, _ = _drop_classifier(network)
    else:
        network = get_model(name, weights=None, **_options(name, entry))
        dim, classifier = _drop_classifier(network)
        with from_file(resolved, path):
            fill(network, _renamed(name, read_state(path)), ignore=(f"{classifier}.", *_AUXILIARY))
    preset = entry.transforms()
    return TorchvisionBackbone(
        network,
        name=resolved,
        weights=entry.name if path is None else path.name,
        dim=dim,
        window=_WINDOWS.get(name, 1),
        transform=_frame_transform(preset, video=name in _WINDOWS),
        mean=preset.mean,
        std=preset.std,
        layer="input of the last linear layer",
        pooling="the model's own",
    )


def _entry(name: str, wanted: str, path: Path | None) -> WeightsEnum:
    """The published weights whose transform applies: those named, those whose file it is, or the model's default."""
    entries = list(get_model_weights(name))
    if wanted:
        for entry in entries:
            if entry.name == wanted:
                return entry
        raise UsageError(
            f"backbone torchvision:{name}/{wanted}: {name} has no weights of that name: "
            f"choose one of {', '.join(entry.name for entry in entries)}"
        )
    default = get_model_weights(name).DEFAULT
    if path is None:
        return default
    for entry in entries:
        if path.name == entry.url.rpartition("/")[2]:
            return entry
    if len({repr(entry.transforms()) for entry in entries}) > 1:
        getLogger(__name__).warning(
            "%s: it is not known which weights of %s these are; frames are prepared as for %s: "
            "name other weights, as torchvision:%s/%s@PATH",
            path, name, default.name, name, entries[0].name,
        )  # fmt: skip
    return default


def _options(name: str, entry: WeightsEnum) -> dict[str, Any]:
    if name.startswith("vit_"):
        return {"image_size": entry.transforms().crop_size[0]}
    return _TRAINED_WITH.get(name, {})


def _drop_classifier(network: nn.Module) -> tuple[int, str]:
    """Replace by an identity the last linear layer (or 1x1 convolution); return its input width and name."""
    layers = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    ]
    name, layer = layers[-1]
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return (layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels), name


def _renamed(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the entries of the published DenseNet files to the model's present names."""
    if not name.startswith("densenet"):
        return state
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key): value for key, value in state.items()}


def _frame_transform(preset: Any, *, video: bool) -> FrameTransform:
    """Repeat a torchvision preset: images are resized by PIL, videos as tensors without antialiasing."""
    interpolation, antialias = preset.interpolation.value, not video
    size, crop = list(preset.resize_size), list(preset.crop_size) * (2 if len(preset.crop_size) == 1 else 1)
    resize: Step
    if len(size) == 1:
        resize = ResizeShortest(size[0], interpolation, antialias)
    else:
        resize = Resize(size[0], size[1], interpolation, antialias)
    return FrameTransform((resize, CenterCrop(crop[0], crop[1])), crop[0], crop[1])
