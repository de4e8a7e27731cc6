"""Finished runs stay finished when the configuration gets new keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supportset.train.ablation.results import config_hash
from supportset.train.config import parse_config
from tests.train.small_store import config

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results"


@pytest.mark.parametrize("study", sorted(path.parent.parent.name for path in RESULTS.glob("*/runs/none-seed0*.json")))
def test_a_committed_run_has_the_hash_of_its_configuration(study: str) -> None:
    run = json.loads(min((RESULTS / study / "runs").glob("*.json")).read_text())
    assert config_hash(parse_config(run["config"], study)) == run["config_hash"]


def test_what_decides_the_numbers_changes_the_hash() -> None:
    plain = config_hash(config(support={"captioning": "cross"}))
    assert config_hash(config(support={"captioning": "cross", "top_k": None, "video_gradient": True})) == plain
    assert config_hash(config(support={"captioning": "cross", "top_k": 8})) != plain
    assert config_hash(config(support={"captioning": "cross", "text_gradient": False})) != plain
    assert config_hash(config(support={"captioning": "cross", "video_gradient": False})) != plain
    assert config_hash(config(support={"captioning": "cross"}, optim={"log_every": 7})) == plain
