"""What every backbone offers: a transform for the decode workers and a forward for the device.

A family of backbones is a small subclass that builds its model and says in :meth:`Backbone.encode` which output is the
feature. Checks, normalisation, precision and hashing are here, once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from supportset.extract.backbones.encoder import Encoder
from supportset.extract.backbones.library_frames import LibraryFrames
from supportset.extract.backbones.transforms import FrameTransform


class Backbone(Encoder, ABC):
    """A frozen visual model: uint8 frames in, float32 feature vectors out.

    Parameters
    ----------
    model : nn.Module
        The parameters that decide the features and no others (no text tower, no classifier): they are hashed.
    transform : FrameTransform or LibraryFrames
        What the decode workers do to each frame.
    mean, std : sequence of three floats
        Normalisation of pixels after ``rescale``.
    window : int
        Frames of one step: 1 for a frame model, else the clip length that the model was trained on.
    rescale : float
        Factor on the uint8 values before normalisation.
    vectors : int
        Feature vectors of one step: more than 1 where a feature map is kept cell by cell (grid features).
    **options
        ``name``, ``weights``, ``dim``, ``layer``, ``pooling`` and ``given`` of :class:`Encoder`.

    Attributes
    ----------
    compiled : bool
        Whether the forward is compiled: batches should then be of one size.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        transform: FrameTransform | LibraryFrames,
        mean: Sequence[float],
        std: Sequence[float],
        window: int = 1,
        rescale: float = 1 / 255,
        vectors: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self.window, self.vectors = window, vectors
        self._transform = transform
        self._rescale, self._mean, self._std = float(rescale), [float(m) for m in mean], [float(s) for s in std]
        self._offset, self._scale = self._constants()
        self._compute: Callable[[Tensor], Tensor] = self._features
        self.compiled = False

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Map normalised float32 pixels, (N, 3, h, w) or (N, window, 3, h, w), to features (N, vectors, dim).

        (N, dim) is accepted where a step has one vector.
        """

    @property
    def transform_json(self) -> dict[str, Any]:
        """Every step from a decoded RGB frame to the model's input, in plain JSON values, for the card."""
        return {
            "frame": self._transform.to_json(),
            "size": list(self._transform.size),
            "rescale": self._rescale,
            "mean": self._mean,
            "std": self._std,
        }

    def frame_transform(self) -> FrameTransform | LibraryFrames:
        """Return the picklable transform of one frame: (H, W, 3) uint8 -> (h, w, 3) uint8, without torch."""
        return self._transform

    def to(self, device: torch.device | str, precision: str = "fp32") -> None:
        """Move the model to ``device`` and choose the precision of the forward; see :meth:`Encoder.to`."""
        super().to(device, precision)
        self._offset, self._scale = self._constants()
        if self.window == 1:  # convolutions run faster so; layers without images are left as they are
            self.model.to(memory_format=torch.channels_last)

    def compile(self, on: bool = True) -> None:
        """Compile the forward with ``torch.compile`` when it is next used, or stop using the compiled one.

        The compiled forward has one batch size: the first batch of another size takes as long again.
        """
        self.compiled = on
        self._compute = torch.compile(self._features, dynamic=False) if on else self._features

    @torch.inference_mode()
    def forward(self, frames: Tensor) -> Tensor:
        """Compute the features of a batch of steps.

        Parameters
        ----------
        frames : Tensor
            Transformed frames, (N, h, w, 3) uint8, or (N, window, h, w, 3) uint8 for a clip model. On any device.

        Returns
        -------
        Tensor
            (N, vectors, dim) float32 on the backbone's device; (N, dim) where a step has one vector. N may be 0.

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
        with self._autocast():
            return self.encode(pixels)

    def _normalise(self, frames: Tensor) -> Tensor:
        if isinstance(self._transform, LibraryFrames):  # (..., h, 4 w, 3) bytes of float32 values
            values = frames.flatten(-2).view(torch.float32)
            return values.unflatten(-1, (-1, 3)).movedim(-1, -3)
        pixels = frames.movedim(-1, -3).float()  # a view: (N, 3, h, w) stays channels-last in memory
        return pixels.mul_(self._rescale).sub_(self._offset).div_(self._scale)

    def _constants(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation on the device, (3, 1, 1) each: made once, since a copy a batch costs time."""
        mean, std = (torch.tensor(value, device=self._device).view(3, 1, 1) for value in (self._mean, self._std))
        return mean, std
