"""Another package adds a reader, a shard format, two encoders, a head, a captioning variant and a loss, by name alone.

Every addition is an entry point of an installed distribution. Nothing of ours is edited.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from supportset.commands.main import cli
from supportset.train.run_folder import to_toml
from tests import trial_plugins
from tests.train.small_store import config

COLOURS = {"red": (220, 30, 30), "green": (30, 190, 60), "blue": (40, 60, 230), "white": (240, 240, 240)}
TRIAL = ("support.captioning=trial", "loss.contrastive=trial", "video.aggregation=trial", "text.features=trial")

pytestmark = pytest.mark.slow


def run(*words: object) -> str:
    """Run a verb that succeeds; what it prints."""
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with pictures, while the distribution with the additions is installed."""
    place = tmp_path_factory.mktemp("trial")
    info = place / "site" / "trial_plugins-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trial-plugins\nVersion: 1.0\n")
    lines = [
        f"[{group}]\ntrial = {trial_plugins.__name__}:{name}" for group, name in trial_plugins.ENTRY_POINTS.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (place / "data").mkdir()
    with (place / "data" / "pictures.tsv").open("w") as file:
        for number in range(32):
            colour = list(COLOURS)[number % 4 - number // 4 % 4]
            Image.new("RGB", (32, 32), COLOURS[colour]).save(place / "data" / f"picture{number}.png")
            file.write(f"picture{number}\ta {colour} picture\n")
    small = config(data={"dataset": "trial", "features": ["fake:mean"], "protocol": "trial", "holdout": 0.0},
                   text={"finetune": False}, optim={"select_by": "last", "epochs": 2})  # fmt: skip
    (place / "small.toml").write_text(to_toml(small))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(info.parent))
        yield place


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """Features of both kinds in the new format, and a run on them."""
    store = ("--store", place / "store", "--device", "cpu")
    extracted = run("extract", "trial", "--data", place / "data", "--backbone", "trial:0.01", "--frames", 1,
                    "--format", "trial", *store, "--json")  # fmt: skip
    assert json.loads(extracted)["status"] == {"ok": 32}
    run("extract-text", "trial", "--encoder", "trial:24", *store)
    assert list((place / "store").rglob("*.trial"))
    run("train", place / "small.toml", *TRIAL, *store, "--out", place / "run")
    return place / "run"


def test_lists_name_them(place: Path) -> None:
    assert "Coloured pictures" in run("datasets")
    assert "trial" in run("protocols")
    assert "trial:SCALE" in run("backbones")
    assert "trial" in run("extract", "--help")


def test_the_model_card_describes_them(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    assert "softplus of differences" in card
    assert "captioning from the nearest other clip" in card
    assert 'aggregation = "trial"' in card


def test_the_run_is_evaluated_searched_and_analysed(place: Path, trained: Path) -> None:
    store = ("--store", place / "store", "--device", "cpu")
    scores = json.loads(run("eval", trained, *store, "--json"))
    assert (scores["gallery"], scores["missing"]) == (8, 0)
    hits = json.loads(run("search", trained, "a red picture", *store, "--json"))["hits"]
    assert len(hits) == 5
    run("report", trained, "--support", *store)


@pytest.mark.parametrize("override", [each.replace("=trial", "=trail") for each in TRIAL[:3]])
def test_a_mistyped_name_is_one_line_that_lists_them(place: Path, override: str) -> None:
    result = CliRunner().invoke(cli, ["train", str(place / "small.toml"), override, "--store", str(place / "store")])
    assert result.exit_code == 2
    assert "trial" in result.stderr
