"""Films for the tests of the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.extract.films import write_video
from tests.extract.runs import Films


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos and an image of different lengths and sizes."""
    folder = tmp_path_factory.mktemp("made")
    for i in range(5):
        write_video(folder / f"film{i}.mp4", 15 + 20 * i, size=(64 + 16 * i, 48))
    Image.new("RGB", (40, 30), (10, 200, 30)).save(folder / "still.png")
    return folder


@pytest.fixture
def videos(tmp_path: Path, made: Path) -> Path:
    """A copy of the films for one test to spoil."""
    return Path(shutil.copytree(made, tmp_path / "videos"))


@pytest.fixture
def films() -> Films:
    return {f"c{i}": f"film{i}.mp4" for i in range(5)} | {"still": "still.png"}
