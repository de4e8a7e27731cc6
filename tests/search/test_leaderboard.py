"""Runs and features without training in one table, on the same queries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from supportset.commands.main import cli
from supportset.search.leaderboard import leaderboard
from supportset.search.run_report import run_report
from supportset.search.zero_shot import open_zero_shot
from supportset.store.errors import UsageError
from supportset.store.format.dataset import write_dataset
from supportset.train.evaluate import evaluate
from supportset.train.loop.training import train
from tests.extract.pairs import save_pair
from tests.search.untrained import TEXTS, plant
from tests.train.small_store import config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of a tiny CLIP, of clips that are trained on and tested on, and two runs."""
    root = tmp_path_factory.mktemp("leaderboard")
    save_pair("clip", root / "tiny")
    tables = plant(root / "features", f"hf:{root / 'tiny'}")
    rows = [{"protocol": "films", "split": split, "clip_id": clip} for split in ("train", "test") for clip in TEXTS]
    write_dataset(
        root / "features",
        "films",
        clips=tables.clips,
        captions=tables.captions,
        splits=rows,
        protocols={"films": {"train": None, "test": len(TEXTS)}},
        sources=[],
    )
    data = {"dataset": "films", "protocol": "films", "features": "hf-tiny", "holdout": 0.0}
    for seed in (0, 1):
        optim = {"epochs": 1, "select_by": "last", "batch_size": 5}
        plan = config(seed=seed, data=data, support={"captioning": "none"}, optim=optim)
        train(plan, root / "features", root / f"run{seed}", device="cpu")
    return root


def test_features_without_training_come_first_and_all_are_asked_the_same(store: Path) -> None:
    runs = [store / "run0", store / "run1"]
    found = leaderboard(runs, ["films/hf-tiny"], store / "features", device="cpu", samples=50)
    first, *rest = found["rows"]
    assert first["name"] == "films/hf-tiny (zero-shot)"
    assert first["selected_by"] == "nothing: no training"
    assert {row["name"] for row in rest} == {"run0", "run1"}
    recalls = [row["scores"]["t2v/R@1"]["mean"] for row in rest]
    assert recalls == sorted(recalls, reverse=True)
    raw = open_zero_shot("films/hf-tiny", store / "features", device="cpu").evaluation().scores
    assert first["scores"]["rsum"]["mean"] == pytest.approx(raw.rsum)
    for row in rest:
        alone = evaluate(store / row["name"], store=store / "features", device="cpu")
        assert row["scores"]["rsum"]["mean"] == pytest.approx(alone["rsum"])
        difference = row["difference"]["scores"]["rsum"]["mean"]
        assert difference == pytest.approx(alone["rsum"] - raw.rsum)
        assert row["difference"]["to"] == first["name"]


def test_both_kinds_of_row_are_asked_what_a_run_held_out(store: Path) -> None:
    data = {"dataset": "films", "protocol": "films", "features": "hf-tiny", "holdout": 0.4}
    optim = {"epochs": 1, "batch_size": 2}
    plan = config(data=data, support={"captioning": "none"}, optim=optim)
    run = store / "held"
    train(plan, store / "features", run, device="cpu")
    held = json.loads((run / "data.json").read_text())["holdout"]
    found = leaderboard([run], ["films/hf-tiny"], store / "features", split="holdout", device="cpu", samples=20)
    without = open_zero_shot("films/hf-tiny", store / "features", device="cpu")
    alone = without.evaluation(None, "train", only=("holdout", held))
    assert alone.to_json()["gallery"] == len(held) < len(TEXTS)
    assert found["rows"][0]["scores"]["rsum"]["mean"] == pytest.approx(alone.scores.rsum)
    page = run_report(run, store / "features", zero_shot="films/hf-tiny", device="cpu")
    assert [score.facts["gallery"] for score in page.scores] == [len(held)] * 2


def test_the_command_prints_each_form(store: Path) -> None:
    words = ["leaderboard", str(store / "run0"), "--zero-shot", "films/hf-tiny", "--store", str(store / "features")]
    printed = CliRunner().invoke(cli, [*words, "--device", "cpu"])
    assert printed.exit_code == 0, printed.output
    assert "## Leaderboard: films, films" in printed.stdout
    assert "## Paired difference to films/hf-tiny (zero-shot)" in printed.stdout
    latex = CliRunner().invoke(cli, [*words, "--format", "latex"])
    assert latex.stdout.count(r"\begin{tabular}") == 2
    told = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    assert [row["name"] for row in told["rows"]] == ["films/hf-tiny (zero-shot)", "run0"]


def test_one_row_is_no_table(store: Path) -> None:
    with pytest.raises(UsageError, match="give two or more RUNS"):
        leaderboard([store / "run0"], store=store / "features")
