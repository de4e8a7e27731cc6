"""The additions that CONTRIBUTING.md shows work as printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from supportset.train.config import LossConfig, VideoConfig

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def block(name: str) -> dict[str, Any]:
    """Run the code block that begins with the path of a module of this name."""
    (code,) = re.findall(rf"```python\n# \S+/{name}\.py\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, f"CONTRIBUTING.md:{name}", "exec"), names)
    return names


def test_a_captioning_variant() -> None:
    is_positive = torch.eye(3, dtype=torch.bool)
    found = block("uniform")["CAPTIONING"].support(torch.randn(3, 3), is_positive, torch.ones(3, 3, dtype=torch.bool))
    weights = torch.where(found.members, found.log_weights.exp(), 0.0)
    assert torch.allclose(weights, (1 - torch.eye(3)) / 2)


def test_a_contrastive_loss() -> None:
    contrast = block("logistic")["LOSS"].contrast
    candidates = torch.tensor([[0.1, 0.4], [0.2, 0.3]])
    is_negative = torch.tensor([[False, True], [True, False]])
    losses = contrast(torch.tensor([[0.1], [0.3]]), candidates, is_negative, LossConfig(temperature=0.1))
    expected = [torch.log1p(torch.exp(torch.tensor(3.0))), torch.log1p(torch.exp(torch.tensor(-1.0)))]
    assert losses.tolist() == pytest.approx([value.item() for value in expected])


def test_an_aggregation() -> None:
    values = torch.randn(2, 5, 4)
    pooled, codes, mask = block("first")["Aggregation"](VideoConfig())(values, torch.ones(2, 5, dtype=torch.bool))
    assert torch.equal(pooled, values[:, 0])
    assert torch.equal(codes, values)
    assert mask.all()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:train|extract|store|tests)/[\w/]+(?:\.py)?/?)`", TEXT))))
def test_every_path_exists(path: str) -> None:
    assert (ROOT / path).exists()
