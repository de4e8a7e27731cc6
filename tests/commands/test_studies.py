"""The verbs ablate, caption and report: what they print, what they leave, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from supportset.commands.main import cli
from supportset.train.ablation.results import StudyFolder
from supportset.train.run_folder import to_toml
from tests.train.small_store import config, plant

GRID = """
base = "base.toml"
seeds = [0]
[overrides]
optim.max_steps = 2
[variants.none]
support.captioning = "none"
[variants.identity]
support.captioning = "identity"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    plant(folder / "features")
    (folder / "base.toml").write_text(to_toml(config()))
    (folder / "grid.toml").write_text(GRID)
    return folder


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def study(place: Path) -> Result:
    return run(
        "ablate", place / "grid.toml", "--store", place / "features", "--out", place / "study", "--keep-models",
        "--device", "cpu",
    )  # fmt: skip


def test_ablate_prints_the_table_and_tells_of_the_runs_apart(place: Path, study: Result) -> None:
    assert study.exit_code == 0, study.output
    assert study.stdout.startswith("# grid\n")
    assert study.stdout.strip() == (place / "study" / "table.md").read_text().strip()
    assert "identity-seed0: R@1 " in study.stderr
    assert "plot.png" in study.stderr


def test_tables_alone_need_no_store(place: Path, study: Result) -> None:
    again = run(
        "ablate", place / "grid.toml", "--store", place / "nowhere", "--out", place / "study", "--tables-only", "--json"
    )
    assert again.exit_code == 0, again.output
    table = json.loads(again.stdout)
    assert [row["name"] for row in table["variants"]] == ["none", "identity"]
    assert len(table["files"]) == 3
    assert "## Paired difference to `none`" in study.stdout
    nothing = run("ablate", place / "grid.toml", "--out", place / "other", "--tables-only")
    assert nothing.exit_code == 2
    assert "no run of study 'grid' is finished there" in nothing.stderr


def test_a_failed_run_gives_exit_code_1(place: Path, study: Result) -> None:
    whole, part = StudyFolder(place / "study"), StudyFolder(place / "part")
    for record in ("runs/identity-seed0.json", "runs/none-seed0.json"):
        result = whole.read(record)
        assert result is not None
        items = f"items/{result['ranks']['items']}.json"
        part.write(items, whole.read(items) or {})
        if "none" in record:
            part.write("failed/none-seed0.json", result | {"error": "out of memory"})
        else:
            part.write(record, result)
    again = run("ablate", place / "grid.toml", "--out", place / "part", "--tables-only")
    assert not (place / "part" / "runs.jsonl.xz").exists(), "an unfinished study stays in files"
    assert again.exit_code == 1
    assert "1 runs failed; --retry-failed tries them again" in again.stderr


def test_caption_prints_or_writes(place: Path, study: Result) -> None:
    trained = place / "study" / "work" / "identity-seed0"
    words = (
        "caption",
        trained,
        "--store",
        place / "features",
        "--clips",
        "clip03-0",
        "--clips",
        "clip00-2",
        "--beams",
        "2",
    )
    shown = run(*words)
    assert shown.exit_code == 0, shown.output
    assert [line.split()[1] for line in shown.stdout.splitlines()] == ["clip03-0", "clip00-2"]
    found = json.loads(run(*words, "--json").stdout)
    assert (found["beams"], found["missing"]) == (2, [])
    written = run(*words, "--out", place / "captions.jsonl")
    assert written.stdout == ""
    assert [json.loads(line) for line in (place / "captions.jsonl").read_text().splitlines()] == found["captions"]
    refused = run("caption", place / "study" / "work" / "none-seed0", "--store", place / "features")
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1


def test_report_prints_the_card_or_the_attention(place: Path, study: Result) -> None:
    trained = place / "study" / "work" / "identity-seed0"
    before = (trained / "README.md").read_text()
    assert run("eval", trained, "--store", place / "features", "--device", "cpu").exit_code == 0
    card = run("report", trained, "--card")
    assert card.stdout.strip() == (trained / "README.md").read_text().strip()
    assert card.stdout != before
    told = run("report", trained, "--support", "--store", place / "features")
    assert told.exit_code == 0, told.output
    assert "of a caption's content words are also said" in told.stdout
    assert json.loads(run("report", trained, "--card", "--json").stdout)["card"] == (trained / "README.md").read_text()
    assert run("report", place).exit_code == 2
