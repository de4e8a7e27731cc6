"""The tiny CLIP: what the example writes is an encoder pair by its name, and learns."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from supportset.extract.backbones import load_backbone
from supportset.extract.text.encoders import load_text_encoder
from supportset.train.ablation.grid import load_grid
from supportset.train.config import load_config
from tests.extract.plugin import ROOT

EXAMPLE = ROOT / "examples" / "tiny_clip.py"


@pytest.mark.slow
def test_it_writes_an_encoder_pair(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLE, tmp_path / "tiny-clip", "--pictures", "12", "--steps", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", done.stderr)]
    assert losses[-1] < 2.2  # of 12 pictures; chance is 2.5
    name = f"open_clip:{tmp_path / 'tiny-clip'}"
    dim = load_config(ROOT / "configs" / "ablations" / "base" / "demo-tiny-clip.toml").dim
    assert (load_backbone(name).dim, load_text_encoder(name).dim) == (dim, dim)
    again = subprocess.run(command, capture_output=True, text=True)
    assert (again.returncode, "is not empty: name a new folder" in again.stderr) == (2, True)


def test_what_its_docstring_names_is_there() -> None:
    for path in re.findall(r"(?:configs|examples|docs)/[\w./-]+\w", EXAMPLE.read_text("utf-8")):
        assert (ROOT / path).is_file(), path
    assert "zero-shot" in {variant.name for variant in load_grid("start-demo").variants}
