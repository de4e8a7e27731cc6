"""A backbone plugin as another package would bring it, for tests whose extraction processes load it by name."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch

from tests.extract.fakes import MeanColour
from tests.extract.fragile import Slow

ROOT = Path(__file__).parents[2]


class Deadly(MeanColour):
    """Takes its process down where a frame is red."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        mean = frames.float().flatten(1, -2).mean(1)
        if ((mean[:, 0] > 200) & (mean[:, 1:] < 60).all(1)).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(frames)


class Different(MeanColour):
    """Is not the same in any two processes."""

    @property
    def transform_json(self) -> dict[str, Any]:
        return super().transform_json | {"process": os.getpid()}


def load(model: str, path: Path | None) -> MeanColour:
    """``SECONDS`` that each frame takes, ``deadly`` or ``different``."""
    if model == "deadly":
        return Deadly()
    if model == "different":
        return Different()
    return MeanColour(transform=Slow(seconds=float(model)))


def install(folder: Path) -> str:
    """Make the plugin known to Python processes that find ``folder`` in their path; returns the folder."""
    info = folder / "fake_backbones-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-backbones\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[supportset.backbones]\nfake = tests.extract.plugin:load\n")
    return str(folder)
