"""R(2+1)D-34 with the IG-65M weights: the paper's motion expert.

The weights were trained in Caffe2 and converted. torchvision's building blocks differ from them in two ways, which are
reversed here. The second convolution of a block that changes the number of channels computes its inner width
from its own channels, not from the block's input. And batch norm divides by sqrt(variance + 1e-3), not 1e-5.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

from supportset.extract.backbones.base import Backbone
from supportset.extract.backbones.transforms import CenterCrop, FrameTransform, Resize
from supportset.extract.backbones.weights import fill, from_file, read_state
from supportset.store.errors import UsageError

ABOUT = {
    "pattern": "r2plus1d_34@FILE",
    "what": "R(2+1)D-34 on windows of 32 frames at 112 px: 512 pooled features a window",
    "needs": "the IG-65M weights as a file, published by moabitcoin/ig65m-pytorch as "
    "r2plus1d_34_clip32_ig65m_from_scratch-449a7af9.pth; r2plus1d_34:8@FILE takes weights of windows of 8 frames",
}
_FILE = "r2plus1d_34_clip32_ig65m_from_scratch-449a7af9.pth of moabitcoin/ig65m-pytorch"
_WINDOWS = {"": 32, "32": 32, "8": 8}
_CAFFE2_EPSILON = 1e-3


class R2Plus1D(Backbone):
    """Mean over time and space of the last residual block: 512 channels a window."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Map (N, window, 3, 112, 112) to (N, 512)."""
        return self.model(pixels.transpose(1, 2))


def r2plus1d_34() -> VideoResNet:
    """Build the network of the converted weights, with random parameters and without the classifier."""
    network = VideoResNet(BasicBlock, [Conv2Plus1D] * 4, layers=[3, 4, 6, 3], stem=R2Plus1dStem)
    for layer, channels in ((network.layer2, 128), (network.layer3, 256), (network.layer4, 512)):
        inner = channels * channels * 27 // (channels * 9 + channels * 3)
        layer[0].conv2[0] = Conv2Plus1D(channels, channels, inner)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = _CAFFE2_EPSILON
    network.fc = nn.Identity()
    return network


def load(model: str, path: Path | None = None) -> Backbone:
    """Load ``r2plus1d_34@FILE`` (windows of 32 frames) or ``r2plus1d_34:8@FILE``.

    The number of classes of the file does not matter: its classifier (359 classes for IG-65M) is left out.
    """
    if model not in _WINDOWS:
        raise UsageError(f"backbone r2plus1d_34:{model} is unknown: windows have 32 or 8 frames, as the weights do")
    name = f"r2plus1d_34:{model}" if model else "r2plus1d_34"
    if path is None:
        raise UsageError(f"backbone {name} reads its weights from a file: get {_FILE} and name it by path, {name}@PATH")
    network = r2plus1d_34()
    with from_file(name, path):
        fill(network, read_state(path), ignore=("fc.",))
    # The published transform: 128 x 171 for every shape, plain bilinear, then the central 112 x 112.
    steps = (Resize(128, 171, "bilinear", antialias=False), CenterCrop(112, 112))
    return R2Plus1D(
        network,
        name=name,
        weights=path.name,
        dim=512,
        window=_WINDOWS[model],
        transform=FrameTransform(steps, 112, 112),
        mean=(0.43216, 0.394666, 0.37645),
        std=(0.22803, 0.22145, 0.216989),
        layer="last residual block",
        pooling="global average",
    )
