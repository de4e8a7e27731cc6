"""The report of a run: gathered from a run folder and its store, written by the command, uploaded to a hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from supportset.commands.main import cli
from supportset.evaluate.evaluation import Evaluation
from supportset.evaluate.report.page import render
from supportset.evaluate.splits import Split
from supportset.search.run_report import run_report
from supportset.search.zero_shot import open_zero_shot
from supportset.store.errors import UsageError
from supportset.store.format.dataset import Caption
from supportset.train.evaluate import evaluate
from supportset.train.loop.training import train
from tests.extract.pairs import save_pair
from tests.hub_server import TOKEN, HubServer
from tests.search.untrained import plant as plant_pair
from tests.train.small_store import config, plant

pytest.importorskip("matplotlib", reason="reports need the extra `report`")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("store"), missing=("clip05-2",)).root


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    train(config(optim={"epochs": 2}), root, path, device="cpu")
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_report_has_what_the_run_and_its_store_know(run: Path, root: Path) -> None:
    report = run_report(run, root, examples=3, device="cpu")
    result = json.loads((run / "eval" / "planted-test.json").read_text())  # evaluated, as it was not before
    assert [score.facts["t2v"] for score in report.scores] == [result["t2v"]]
    assert report.title == "small"
    assert any("1 clips have no features" in line for line in report.warnings)
    assert any("word for word" in line for line in report.warnings)
    assert [section.title for section in report.sections] == [
        "Queries", "The support set", "Training", "Data", "Configuration",
    ]  # fmt: skip
    ranks = report.scores[0].ways["t2v"].ranks
    queries, support, training = report.sections[:3]
    worst = queries.queries["Missed furthest"]
    told = [int(re.search(r"rank (\d+) of 64", query.note)[1]) for query in worst]  # type: ignore[index]
    assert told == sorted(told, reverse=True)
    assert told[0] == ranks[np.isfinite(ranks)].max()
    for query in [*worst, *queries.queries["Found with the widest margin"]]:
        assert [clip.right for clip in query.clips].count(True) == 1
        assert len(query.clips) == 4
    for query in support.queries["Captions and the clips they are written from"]:
        weights = [clip.weight for clip in query.clips]
        assert weights == sorted(weights, reverse=True)
        assert sum(weights) <= 1 + 1e-6
        assert not any(clip.right for clip in query.clips), "cross: never the caption's own clip"
    assert [chart.title for chart in support.charts] == ["Entropy of the support weights in training"]
    assert [chart.title for chart in training.charts] == ["Loss", "R@1 on validation clips"]
    page = render(report)
    assert f"{result['t2v']['R@1']:.1f}" in page
    assert "captioning = &#34;cross&#34;" in page


def test_without_the_store_it_has_what_the_run_folder_holds(run: Path, root: Path, tmp_path: Path) -> None:
    evaluate(run, store=root, device="cpu")
    evaluate(run, split="holdout", store=root, device="cpu")
    report = run_report(run, tmp_path / "nowhere", device="cpu")
    assert [section.title for section in report.sections] == ["Training", "Data", "Configuration"]
    assert [score.facts["split"] for score in report.scores] == ["test", "holdout"]
    assert any("feature store could not be opened" in line for line in report.warnings)
    assert "Recall over K" in render(report)


def test_without_captioning_there_is_no_support_set(root: Path, tmp_path: Path) -> None:
    train(config(support={"captioning": "none"}, optim={"max_steps": 2}), root, tmp_path / "run", device="cpu")
    report = run_report(tmp_path / "run", root, device="cpu")
    assert "The support set" not in [section.title for section in report.sections]
    assert "Entropy" not in render(report)


def test_frames_are_shown_where_videos_are(run: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    for number in range(64):
        Image.new("RGB", (64, 48), (4 * number, 80, 80)).save(tmp_path / "films" / f"clip{number:02d}-2.png")
        (tmp_path / "films" / f"clip{number:02d}-2.png").rename(tmp_path / "films" / f"clip{number:02d}-2.mp4")
    (tmp_path / "films" / "clip00-2.mp4").write_bytes(b"no video")
    report = run_report(run, root, videos=tmp_path, examples=64, device="cpu")
    shown = [clip for section in report.sections for queries in section.queries.values() for query in queries
             for clip in query.clips]  # fmt: skip
    assert {clip.clip_id for clip in shown if not clip.picture} == {"clip00-2"}
    assert "1 of the clips shown have no readable video" in " ".join(report.warnings)
    assert all(clip.picture.startswith("data:image/webp;base64,") for clip in shown if clip.picture)
    with pytest.raises(UsageError, match="--videos names the folder"):
        run_report(run, root, videos=tmp_path / "nowhere", device="cpu")


def test_zero_shot_scores_of_the_same_split_stand_beside(run: Path, root: Path, tmp_path: Path) -> None:
    save_pair("clip", tmp_path / "tiny")
    plant_pair(tmp_path / "features", f"hf:{tmp_path / 'tiny'}")
    data = {"dataset": "films", "features": ["hf-tiny"], "protocol": "films", "train_split": "test", "holdout": 0.0}
    chosen = config(data=data, support={"captioning": "none"}, optim={"max_steps": 1, "select_by": "last"})
    train(chosen, tmp_path / "features", tmp_path / "other", device="cpu")
    evaluate(tmp_path / "other", split="test", store=tmp_path / "features", device="cpu")
    report = run_report(tmp_path / "other", tmp_path / "features", zero_shot="films/hf-tiny", device="cpu")
    ours, theirs = report.scores
    expected = open_zero_shot("films/hf-tiny", tmp_path / "features", device="cpu").evaluate()
    assert (ours.name, theirs.name.partition(",")[0]) == ("small, trained", "zero-shot")
    assert theirs.facts["t2v"] == expected["t2v"]
    assert theirs.name in unescape(render(report))
    with pytest.raises(UsageError, match="name features of that dataset"):
        run_report(run, merged(root, tmp_path), zero_shot="films/hf-tiny", device="cpu")


def merged(root: Path, tmp_path: Path) -> Path:
    """A store with both datasets."""
    shutil.copytree(root / "small", tmp_path / "features" / "small")
    return tmp_path / "features"


def test_command(run: Path, root: Path) -> None:
    words = ["report", str(run), "--store", str(root), "--device", "cpu", "--examples", "1"]
    told = CliRunner().invoke(cli, [*words, "--json"])
    assert told.exit_code == 0, told.output
    result = json.loads(told.stdout)
    assert result["files"] == [str(run / "README.md"), str(run / "report.html")]
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert result["card"] == (run / "README.md").read_text()
    refused = CliRunner().invoke(cli, [*words, "--videos", str(run), "--push", "me/run"])
    assert refused.exit_code == 2
    assert "--push uploads no frames" in refused.stderr


def test_scores_of_any_model_have_a_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    split = Split("test", ("a", "b", "c"), tuple(Caption(f"{c}1", c, "x") for c in "abc"), frozenset("c"))
    found = Evaluation.of_embeddings(
        split, rng.normal(size=(2, 4)), rng.normal(size=(3, 4)), protocol="theirs", dataset="<b>", expected=3
    )
    found.write(tmp_path / "foreign")
    for given in (tmp_path / "foreign", next((tmp_path / "foreign").glob("*.json"))):
        done = CliRunner().invoke(cli, ["report", str(given)])
        assert done.exit_code == 0, done.output
        page = tmp_path / "foreign" / "report.html"
        assert "1 clips have no features" in page.read_text()
        page.unlink()
    refused = CliRunner().invoke(cli, ["report", str(tmp_path / "foreign"), "--push", "me/run"])
    assert (refused.exit_code, "is not a run folder" in refused.stderr) == (2, True)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    server = HubServer()
    yield server
    server.stop()


def push(run: Path, hub: str, token: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The hub's library reads its settings when it is imported: a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    settings = {"HF_ENDPOINT": hub, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(run / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "supportset", "report", str(run), "--push", "me/run", *words],
        capture_output=True, text=True, env=clean | settings, timeout=250,
    )  # fmt: skip


def test_a_run_is_uploaded_to_a_hub(run: Path, root: Path, hub: HubServer) -> None:
    (run / "private.txt").write_text("not for others")
    (run / "report.html").write_text("a page with frames of videos, made earlier")
    done = push(run, hub.url, TOKEN, "--card", "--private")
    assert done.returncode == 0, done.stderr
    assert f"uploaded: {hub.url}/me/run/commit/1" in done.stderr
    assert hub.repos["me/run"]["private"]
    files = hub.repos["me/run"]["files"]
    top = {"README.md", "config.toml", "data.json", "best.json", "metrics.jsonl", "config.json", "model.safetensors"}
    assert {name for name in files if "/" not in name} == top
    assert {name.partition("/")[0] for name in files if "/" in name} <= {"text_encoder", "decoder"}
    assert all(content == (run / name).read_bytes() for name, content in files.items())
    again = push(run, hub.url, TOKEN, "--store", str(root), "--device", "cpu")
    assert again.returncode == 0, again.stderr
    page = hub.repos["me/run"]["files"]["report.html"]
    assert b"Recall over K" in page
    assert b"data:image/" not in page, "frames of videos stay here"


def test_a_hub_that_refuses_or_is_absent_is_one_line(run: Path, hub: HubServer) -> None:
    refused = push(run, hub.url, "hf_wrong", "--card")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
    assert "hf auth login" in refused.stderr
    hub.stop()
    absent = push(run, hub.url, TOKEN, "--card")
    assert (absent.returncode, absent.stderr.count("\n")) == (1, 1), absent.stderr
    assert "cannot be reached" in absent.stderr
    assert not hub.repos
