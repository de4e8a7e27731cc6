"""What every backbone offers: a transform for the decode workers and a forward for the device.

A family of backbones is a small subclass that says how to build its model and, in :meth:`Backbone.encode`, which
output is the feature. Everything else (checks, normalisation, precision, hashing) is here, once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from supportset.extract.backbones.hashing import hash_state
from supportset.extract.backbones.transforms import FrameTransform
from supportset.store.errors import UsageError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Backbone(ABC):
    """A frozen visual model: uint8 frames in, one float32 feature vector a step out.

    Parameters
    ----------
    model : nn.Module
        The parameters that decide the features and nothing else (no text tower, no classifier): it is hashed.
    name : str
        Full name without folders (a local file by its file name), so that equal weights have one name on all machines.
    weights : str
        The weights' own name: a pretrained tag, a hub name, or the name of a local file or folder.
    dim : int
        Length D of the feature vector.
    transform : FrameTransform
        What the decode workers do to each frame.
    mean, std : three floats
        Normalisation of pixels after ``rescale``.
    layer, pooling : str
        Which output is taken and how it became one vector, for the card.
    window : int
        Frames of one step: 1 for a frame model, else the clip length the model was trained on.
    rescale : float
        Factor on the uint8 values before normalisation.
    vectors : int
        Feature vectors of one step: 1, or more where a map of a frame is kept cell by cell (grid features).
    given : str, optional
        The name as the user gave it, paths included: :func:`supportset.extract.backbones.load_backbone` of it loads the
        same weights on this machine.

    Attributes
    ----------
    compiled : bool
        Whether the forward is a compiled one: batches should then be of one size.

    Notes
    -----
    Parameters always stay in float32. With ``bf16`` or ``fp16`` the forward runs under ``torch.autocast``: matrix
    products and convolutions in the short type, normalisations and softmax in float32.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        weights: str,
        dim: int,
        transform: FrameTransform,
        mean: Sequence[float],
        std: Sequence[float],
        layer: str,
        pooling: str,
        window: int = 1,
        rescale: float = 1 / 255,
        vectors: int = 1,
        given: str | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.name, self.weights, self.given = name, weights, given or name
        self.dim, self.window, self.layer, self.pooling = dim, window, layer, pooling
        self.vectors = vectors
        self._transform = transform
        self._rescale, self._mean, self._std = float(rescale), [float(m) for m in mean], [float(s) for s in std]
        self._device, self._precision = torch.device("cpu"), "fp32"
        self._offset, self._scale = self._constants()
        self._hash: str | None = None
        self._compute: Callable[[Tensor], Tensor] = self._features
        self.compiled = False

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Map normalised float32 pixels, (N, 3, h, w) or (N, window, 3, h, w), to features (N, vectors, dim).

        Where a step has one vector, (N, dim) will do.
        """

    @property
    def transform_json(self) -> dict[str, Any]:
        """The whole way from a decoded RGB frame to the model's input, in plain JSON values, for the card."""
        return {
            "frame": self._transform.to_json(),
            "size": [self._transform.height, self._transform.width],
            "rescale": self._rescale,
            "mean": self._mean,
            "std": self._std,
        }

    @property
    def weights_hash(self) -> str:
        """Content hash of the parameters, ``xxh3-128:<hex>`` (computed once)."""
        if self._hash is None:
            self._hash = hash_state(self.model.state_dict())
        return self._hash

    @property
    def device(self) -> torch.device:
        """Where the forward runs."""
        return self._device

    @property
    def precision(self) -> str:
        """Precision of the forward: ``fp32``, ``bf16`` or ``fp16``."""
        return self._precision

    def frame_transform(self) -> FrameTransform:
        """Return the picklable transform of one frame: (H, W, 3) uint8 -> (h, w, 3) uint8, without torch."""
        return self._transform

    def to(self, device: torch.device | str, precision: str = "fp32") -> None:
        """Move the model to ``device`` and choose the precision of the forward.

        Raises
        ------
        UsageError
            If the precision is unknown.
        """
        if precision not in PRECISIONS:
            raise UsageError(f"precision {precision!r} is unknown: choose one of {', '.join(PRECISIONS)}")
        self._device, self._precision = torch.device(device), precision
        self._offset, self._scale = self._constants()
        self.model.to(self._device)
        if self.window == 1:  # convolutions run faster so; layers without images are left as they are
            self.model.to(memory_format=torch.channels_last)

    def compile(self, on: bool = True) -> None:
        """Have ``torch.compile`` translate the forward when it is next used, or no longer use what it made.

        It is made for one batch size: the first batch of another size takes as long again.
        """
        self.compiled = on
        self._compute = torch.compile(self._features, dynamic=False) if on else self._features

    @torch.inference_mode()
    def forward(self, frames: Tensor) -> Tensor:
        """Compute the features of a batch of steps.

        Parameters
        ----------
        frames : (N, h, w, 3) uint8, or (N, window, h, w, 3) uint8 for a clip model
            Transformed frames; moved to the backbone's device where they are not there.

        Returns
        -------
        (N, vectors, dim) float32
            On the backbone's device. N may be 0. Where a step has one vector: (N, dim).

        Raises
        ------
        ValueError
            If the shape or the type is not the one above.
        """
        steps = () if self.window == 1 else (self.window,)
        expected = (*steps, self._transform.height, self._transform.width, 3)
        if frames.dtype != torch.uint8 or tuple(frames.shape[1:]) != expected:
            wanted = ", ".join(map(str, expected))
            raise ValueError(f"{self.name} takes (N, {wanted}) uint8, not {tuple(frames.shape)} {frames.dtype}")
        shape = (len(frames), self.dim) if self.vectors == 1 else (len(frames), self.vectors, self.dim)
        if not len(frames):
            return torch.empty(shape, device=self._device)
        features = self._compute(frames.to(self._device, non_blocking=True))
        if tuple(features.shape) != shape:
            raise ValueError(f"{self.name} gave features {tuple(features.shape)}, not {shape}")
        return features.float()

    def _features(self, frames: Tensor) -> Tensor:
        pixels = self._normalise(frames)
        short = self._precision != "fp32"
        with torch.autocast(self._device.type, dtype=PRECISIONS[self._precision] if short else None, enabled=short):
            return self.encode(pixels)

    def _normalise(self, frames: Tensor) -> Tensor:
        pixels = frames.movedim(-1, -3).float()  # a view: (N, 3, h, w) stays channels-last in memory
        return pixels.mul_(self._rescale).sub_(self._offset).div_(self._scale)

    def _constants(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation on the device, (3, 1, 1) each: made once, a copy a batch would make it wait."""
        mean, std = (torch.tensor(value, device=self._device).view(3, 1, 1) for value in (self._mean, self._std))
        return mean, std
