"""A backbone that a person can compute by hand, and small datasets for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from supportset.extract.decode.clips import decode_clip
from supportset.extract.decode.sampling import Sampling
from supportset.store.format.dataset import Dataset, write_dataset
from tests.extract.fragile import Shrink


class MeanColour:
    """Features are the mean red, green and blue of a step, times ``scale``."""

    name, weights, weights_hash, layer, pooling = "fake:mean", "none", "xxh3-128:00", "pixels", "mean"
    given = "fake:mean@/some/folder"
    device, compiled = torch.device("cpu"), False
    dim, vectors = 3, 1

    def __init__(
        self, window: int = 1, scale: float = 1.0, transform: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> None:
        self.window, self.scale = window, scale
        self.transform = transform or Shrink()
        self.batches: list[int] = []

    @property
    def transform_json(self) -> dict[str, Any]:
        return {"shrink": 8, "scale": self.scale}

    def frame_transform(self) -> Callable[[np.ndarray], np.ndarray]:
        return self.transform

    def to(self, device: torch.device | str, precision: str = "fp32") -> None:
        assert precision == "fp32"

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        assert frames.dtype == torch.uint8
        assert frames.shape[1:] == ((8, 8, 3) if self.window == 1 else (self.window, 8, 8, 3))
        self.batches.append(len(frames))
        return frames.float().flatten(1, -2).mean(1) * self.scale


class MeanOfRows(MeanColour):
    """Grid features: the mean colour of each of a frame's eight rows."""

    name, pooling, vectors = "fake:rows", "rows", 8

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(frames))
        return frames.float().mean(2) * self.scale


def dataset_of(root: Path, paths: Mapping[str, str | None], **spans: tuple[float, float]) -> Dataset:
    """A dataset ``films`` of clips {id: path}; every second one is in split ``test`` of protocol ``p``."""
    clips = [
        {
            "clip_id": clip,
            "path": path,
            "start_s": spans.get(clip, (None, None))[0],
            "end_s": spans.get(clip, (None,) * 2)[1],
        }
        for clip, path in paths.items()
    ]
    captions = [{"caption_id": f"{clip}#0", "clip_id": clip, "text": f"about {clip}"} for clip in paths]
    splits = [
        {"protocol": "p", "split": ("train", "test")[i % 2], "clip_id": clip, "caption_id": None}
        for i, clip in enumerate(paths)
    ]
    sizes = {"p": {"train": None, "test": None}}
    return write_dataset(root, "films", clips=clips, captions=captions, splits=splits, protocols=sizes, sources=[])


def expected_features(
    path: Path, sampling: Sampling, span: tuple[float | None, float | None] = (None, None)
) -> tuple[np.ndarray, np.ndarray]:
    """What :class:`MeanColour` makes of a clip, one frame after the other: (values, timestamps)."""
    steps = list(decode_clip(path, *span, sampling, transform=Shrink()))
    values = [step.frames.reshape(-1, 3).astype(np.float64).mean(0) for step in steps]
    return np.stack(values), np.array([(step.start_s, step.end_s) for step in steps])
