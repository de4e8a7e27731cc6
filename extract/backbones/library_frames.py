"""Frames prepared by a processor of transformers itself, in the decode workers.

For processors that are not repeated in :mod:`supportset.extract.backbones.transforms`. Slower: every decode worker
loads torch and transformers, and a frame is four times as large, since the processor gives float32.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class LibraryFrames:
    """The processor of a model, frame by frame, as a transform of decode workers.

    Its float32 pixels are passed on as bytes: a frame of (h, w) is an array of (h, 4 w, 3) uint8.

    Parameters
    ----------
    processor : str
        A class of transformers, such as ``ConvNextImageProcessor``.
    settings : str
        Its settings as JSON.
    version : str
        The version of transformers.
    height, width : int
        Size of the arrays that come out: h and 4 w.
    """

    processor: str
    settings: str
    version: str
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.height, self.width // 4

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Return the bytes of the processed frame, (height, width, 3) uint8.

        Raises
        ------
        ValueError
            If the processor makes another size of this frame.
        """
        packed = pack(run(self._loaded, frame[None])[0])
        if packed.shape != (self.height, self.width, 3):
            raise ValueError(f"{self.processor} made {packed.shape} of a frame, not {(self.height, self.width, 3)}")
        return packed

    def to_json(self) -> list[dict[str, object]]:
        """Describe the processor for the feature card."""
        settings = json.loads(self.settings)
        return [{"op": "library", "processor": self.processor, "settings": settings, "transformers": self.version}]

    @cached_property
    def _loaded(self) -> Any:
        import transformers

        return getattr(transformers, self.processor)(**json.loads(self.settings))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_loaded"}


def run(processor: Any, frames: np.ndarray) -> np.ndarray:
    """Process (T, H, W, 3) uint8 frames with an image or video processor: (T, 3, h, w) float32.

    A video processor gets them as one video and takes all of them: it does not sample.

    Raises
    ------
    ValueError
        If what it gives is not one picture a frame.
    """
    if hasattr(processor, "sample_frames"):
        made = processor([frames], return_tensors="np", do_sample_frames=False)
    else:
        made = processor(list(frames), return_tensors="np")
    names = [name for name in made if name.startswith("pixel_values")]
    pixels = np.asarray(made[names[0]], np.float32) if len(names) == 1 else np.empty(0, np.float32)
    if len(made) == 1 and pixels.ndim == 5 and len(pixels) == 1:
        pixels = pixels[0]  # one video
    if len(made) != 1 or pixels.ndim != 4 or pixels.shape[:2] != (len(frames), 3):
        told = ", ".join(f"{name} {np.shape(made[name])}" for name in made)
        raise ValueError(f"{type(processor).__name__} gives {told}, not one picture of three channels a frame")
    return pixels


def pack(pixels: np.ndarray) -> np.ndarray:
    """Turn (3, h, w) float32 pixels into (h, 4 w, 3) uint8: their bytes, channels last."""
    rows = np.ascontiguousarray(pixels.transpose(1, 2, 0), np.float32)
    return rows.view(np.uint8).reshape(rows.shape[0], 4 * rows.shape[1], 3)
