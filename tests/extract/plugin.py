"""A backbone plugin as another package would bring it, for tests whose extraction processes load it by name."""

from __future__ import annotations

from pathlib import Path

from tests.extract.fakes import MeanColour
from tests.extract.fragile import Slow

ROOT = Path(__file__).parents[2]


def load(model: str, path: Path | None) -> MeanColour:
    """The model's name is the seconds that each frame takes."""
    return MeanColour(transform=Slow(seconds=float(model)))


def install(folder: Path) -> str:
    """Make the plugin known to Python processes that find ``folder`` in their path; returns the folder."""
    info = folder / "fake_backbones-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-backbones\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[supportset.backbones]\nfake = tests.extract.plugin:load\n")
    return str(folder)
