"""The model card: written when a run ends, told anew with its scores, and never with another model's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from supportset.store.errors import UsageError
from supportset.train.data.folds import open_fold
from supportset.train.evaluate import evaluate
from supportset.train.loop.training import train
from supportset.train.model_card import model_card, write_card
from supportset.train.run_folder import RunFolder
from tests.train.small_store import config, plant


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("store"), missing=("clip05-2", "clip07-0")).root


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    train(config(optim={"epochs": 1}), root, path, device="cpu")
    return path


def test_a_run_leaves_its_card(run: Path, root: Path) -> None:
    card = (run / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: supportset\n")
    record = json.loads((run / "data.json").read_text())
    for words in (
        "# small\n",
        "hinge, hardest negatives",
        "captioning from the other clips of the batch, weight 0.5",
        f"protocol `planted`, split `train`: {record['train']['clips']} clips, {record['train']['captions']} captions",
        "left out, without features: 1 training clips",
        f"validation: {record['validation']['clips']} clips, {record['validation']['captions']} captions, held out by",
        f"| planted:concepts (video) | `{record['features'][0]['hash']}` | seed 0 (`xxh3-128:0`) | fps 1 | 24 |",
        "Not evaluated yet",
        "The model is of epoch 1 (step 8), the best by rsum on validation.",
        'captioning = "cross"',
        "the features' backbone planted:concepts, and from the captions and videos of small",
    ):
        assert words in card, words


def test_its_commands_name_the_held_out_clips_where_there_is_no_test_split(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert "supportset eval run\n" in model_card(RunFolder(copy))
    record = json.loads((copy / "data.json").read_text())
    del record["hash"]
    record["leakage"] = {"holdout": record["leakage"]["test"]}
    (copy / "data.json").write_text(json.dumps(record))
    assert "supportset eval run --split holdout\n" in model_card(RunFolder(copy))


def test_the_card_tells_every_evaluation_of_this_model(run: Path, root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    test = evaluate(copy, store=root, device="cpu")
    evaluate(copy, split="holdout", store=root, device="cpu")
    card = write_card(RunFolder(copy))
    assert card == (copy / "README.md").read_text()
    low, high = test["intervals"]["t2v"]["R@1"]
    for words in (
        f"| small `planted`, test | 64 | 128 | text to video | {test['t2v']['R@1']:.1f} ({low:.1f}-{high:.1f}) |",
        f"| clips | video to text | {test['v2t']['R@1']:.1f} (",
        "| small `planted`, holdout | 12 |",
        "- small `planted`, test: 1 clips have no features",
        "queries are word for word captions trained on",
    ):
        assert words in card, words
    assert "Not evaluated yet" not in card
    path = copy / "eval" / "planted-test.json"
    path.write_text(path.read_text().replace(test["model"], "another"))
    card = write_card(RunFolder(copy))
    assert "1 scores in `eval/` are of an earlier model" in card
    assert "`planted`, test |" not in card


def test_a_fold_and_an_unusual_gallery_are_told(root: Path, tmp_path: Path) -> None:
    setting = config(support={"captioning": "none"}, optim={"max_steps": 1})
    data, _ = open_fold(setting, root, 1, 4)
    train(setting, root, tmp_path / "run", device="cpu", data=data)
    card = model_card(RunFolder(tmp_path / "run"))
    assert "fold 2 of 4 of a cross-validation: 32 clips held out" in card
    assert "no captioning loss" in card
    assert "weight" not in card.split("## Use")[0]
    result = evaluate(tmp_path / "run", store=root, device="cpu")
    path = tmp_path / "run" / "eval" / "planted-test.json"
    path.write_text(json.dumps(result | {"expected_gallery": 100}))
    assert "64 (the protocol asks for 100: not comparable)" in model_card(RunFolder(tmp_path / "run"))


def test_no_run_and_no_model_are_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder"):
        model_card(RunFolder(tmp_path))
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"no model\.safetensors yet"):
        model_card(RunFolder(tmp_path / "run"))
