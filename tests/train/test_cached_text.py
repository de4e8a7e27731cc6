"""A model on stored text features is the model with the frozen encoder: in training, evaluation and search."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from supportset.commands.main import cli
from supportset.extract.text.encoders import load_text_encoder
from supportset.extract.text.run import extract_text
from supportset.search.run import open_run, search
from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.card import Recipe
from supportset.store.format.dataset import Caption, open_dataset, write_dataset
from supportset.store.read.feature_set import FeatureSet
from supportset.train.data.cached_text import CachedText, TokenFeatures
from supportset.train.data.source import RunData, open_run_data
from supportset.train.encode import encode_tokens, read_text
from supportset.train.evaluate import evaluate
from supportset.train.loop.stop import TrainingInterrupted
from supportset.train.loop.training import make_loader, train
from supportset.train.model.model import SupportSetModel
from tests.extract.text_models import save_bert, save_t5
from tests.train.small_store import SmallStore, config, damage_features, plant

pytestmark = pytest.mark.slow

SAVE: dict[str, Callable[[Path], Any]] = {"hf": save_bert, "t5": save_t5}
STILL: dict[str, Any] = {"dropout": 0.0}  # no part of the model is random


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A BERT and a T5, by the names that training has for such encoders."""
    root = tmp_path_factory.mktemp("models")
    for name, save in SAVE.items():
        save(root / name)
    return {name: root / name for name in SAVE}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> SmallStore:
    """The planted clips, their captions' features by both encoders in float32, and BERT's mean in float16."""
    planted = plant(tmp_path_factory.mktemp("store"), missing=("clip03-2",))
    for folder in folders.values():
        extract(planted.root, folder, dtype="float32")
    extract(planted.root, folders["hf"], pooling="mean")
    return planted


def extract(root: Path, folder: Path, dtype: str = "float16", pooling: str | None = None, **options: Any) -> Path:
    dataset = open_dataset(root, options.pop("dataset", "small"))
    encoder = load_text_encoder(str(folder), 24, pooling)
    return Path(extract_text(dataset, root, encoder, dtype=dtype, device="cpu", progress=False, **options).path)


def setting(words: str = "small/hf-hf", **sections: Any) -> Any:
    text = {"features": words, "head": "gru", **sections.pop("text", {})}
    sections["text"] = {key: value for key, value in text.items() if value is not None}
    return config(**sections)


@pytest.fixture(scope="module", autouse=True)
def words(store: SmallStore) -> dict[str, str]:
    """Name of each set: BERT's token level and mean have the same words but for the hash."""
    found = {}
    for path in (store.root / "small" / "features").iterdir():
        recipe = FeatureSet.open(path).card.recipe
        if recipe.kind == "text":
            found[f"{recipe.weights}-{recipe.pooling}"] = f"small/{path.name}"
    return found


@pytest.fixture(scope="module")
def run(store: SmallStore, words: dict[str, str]) -> Path:
    path = store.root.parent / f"{store.root.name}-run"
    text = {"head": "mean"}
    train(setting(words["hf-none"], text=text, optim={"epochs": 6}), store.root, path, device="cpu")
    return path


@pytest.mark.parametrize("head", ["gru", "mean", "none"])
@pytest.mark.parametrize("kind", SAVE)
def test_stored_features_give_what_the_frozen_encoder_gives(
    kind: str, head: str, store: SmallStore, folders: dict[str, Path], words: dict[str, str]
) -> None:
    sections: dict[str, Any] = {
        "video": STILL,
        "decoder": STILL,
        "data": {"max_tokens": 24},
        "loss": {"caption_weight": 1.0},
    }
    live_setting = config(
        **sections, text={"encoder": kind, "name": str(folders[kind]), "finetune": False, "head": head, **STILL}
    )
    cached_setting = setting(words[f"{kind}-none"], **sections, text={"head": head, **STILL})
    made = {}
    for name, each in (("live", live_setting), ("cached", cached_setting)):
        data = open_run_data(each, store.root)
        texts = [caption.text for caption in data.train.captions]
        recipe = data.text.recipe if data.text is not None else None
        torch.manual_seed(0)
        made[name] = SupportSetModel.build(each, data.features.dim, texts, recipe), data
    (live, live_data), (cached, cached_data) = made["live"], made["cached"]
    missing, extra = cached.load_state_dict(live.state_dict(), strict=False)
    assert not missing
    assert {name.split(".")[1] for name in extra} == {"backbone"}, "the encoder is absent from the run"

    captions = live_data.train.captions[:50]
    embeddings = [
        encode_tokens(model, read_text(model, captions, 24, data.text), 16)
        for model, data in ((live, live_data), (cached, cached_data))
    ]
    np.testing.assert_allclose(embeddings[1], embeddings[0], atol=1e-5)
    assert np.abs(embeddings[0][0] - embeddings[0][20]).max() > 1e-3

    losses = []
    for model, data, each in ((live, live_data, live_setting), (cached, cached_data, cached_setting)):
        loader = make_loader(each, data, model, [caption.text for caption in data.train.captions])
        model.train()
        found = model(loader.batch(np.arange(0, 60, 3)))
        found.total.backward()
        heads = model.text.embed.weight.grad
        losses.append((found, heads))
    for part in ("total", "contrastive", "captioning"):
        assert getattr(losses[1][0], part).item() == pytest.approx(getattr(losses[0][0], part).item(), rel=1e-5)
    torch.testing.assert_close(losses[1][1], losses[0][1], atol=1e-5, rtol=1e-4)


def test_padded_features_are_the_captions_own(store: SmallStore, words: dict[str, str]) -> None:
    stored = FeatureSet.open(store.root / "small" / "features" / words["hf-none"].partition("/")[2])
    captions = store.dataset.split_captions("planted", "train")
    captions[3] = Caption(captions[3].caption_id, captions[3].clip_id, "  ")  # now blank: what is stored is not its own
    table = CachedText(stored, "small", store.root).read(captions)
    assert len(table) == len(captions)
    rows = np.array([7, 3, 3, 0, 11, 7])
    values, mask = table.pad(rows)
    expected = [np.zeros((0, 12)) if row == 3 else stored.read([captions[row].caption_id])[0] for row in rows]
    assert values.shape == (6, max(map(len, expected)), 12)
    for row, own in enumerate(expected):
        np.testing.assert_array_equal(values[row][mask[row]], own)
        assert not values[row][~mask[row]].any()
        assert int(mask[row].sum()) == len(own)
    blank, mask = table.pad(np.array([3]))
    assert blank.shape == (1, 1, 12)
    assert not mask.any()
    packed = TokenFeatures.of([np.ones((2, 3), np.float32), np.zeros((0, 3), np.float32)], 3)
    assert packed.pad(np.array([1, 0]))[1].tolist() == [[False, False], [True, True]]


def test_training_and_evaluation_read_both_sides_from_the_store(store: SmallStore, run: Path) -> None:
    weights = load_file(run / "model.safetensors")
    assert not [name for name in weights if "backbone" in name]
    recipe = Recipe.from_json(json.loads((run / "text_encoder" / "features.json").read_text()))
    record = json.loads((run / "data.json").read_text())["text_features"]
    assert (recipe.hash, recipe.weights_hash) == (record["hash"], record["recipe"]["weights_hash"])
    result = evaluate(run, "planted", "test", store.root, device="cpu")
    assert result["text_features"] == recipe.folder
    assert result["t2v"]["R@1"] > 12.0, "chance is 1.6"
    held = evaluate(run, "planted", "holdout", store.root, device="cpu")
    best = json.loads((run / "best.json").read_text())["validation"]
    assert held["rsum"] == pytest.approx(best["rsum"])
    restored = SupportSetModel.from_pretrained(run)
    assert restored.text_recipe == recipe
    with pytest.raises(ValueError, match="no text tokenizer"):
        restored.tokenize_text(["a ball"], 8)


def test_one_vector_a_caption_trains_too(store: SmallStore, words: dict[str, str], tmp_path: Path) -> None:
    train(setting(words["hf-mean"], optim={"epochs": 1}), store.root, tmp_path / "run", device="cpu")
    assert evaluate(tmp_path / "run", store=store.root, device="cpu")["queries"] == 128


def test_a_stopped_run_goes_on_to_the_same_bits(
    store: SmallStore, words: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = setting(words["hf-none"], optim={"epochs": 2}, data={"bucket": 2})
    train(each, store.root, tmp_path / "whole", device="cpu")
    original, steps = SupportSetModel.forward, []

    def forward(self: SupportSetModel, *args: Any, **options: Any) -> Any:
        steps.append(1)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args, **options)

    monkeypatch.setattr(SupportSetModel, "forward", forward)
    with pytest.raises(TrainingInterrupted):
        train(each, store.root, tmp_path / "parts", device="cpu")
    monkeypatch.undo()
    train(each, store.root, tmp_path / "parts", resume=True, device="cpu")
    whole, parts = (torch.load(tmp_path / name / "checkpoint" / "state.pt")["model"] for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_changed_text_features_are_not_resumed_from(
    store: SmallStore, folders: dict[str, Path], tmp_path: Path
) -> None:
    root = Path(shutil.copytree(store.root, tmp_path / "features"))
    each = setting("small/hf-t5", optim={"epochs": 1})
    train(each, root, tmp_path / "run", device="cpu")
    (path,) = (root / "small" / "features").glob("hf-t5-*")
    recipe = FeatureSet.open(path).card.recipe
    shutil.rmtree(path)
    encoder = load_text_encoder(str(folders["t5"]), 24)
    with torch.no_grad():
        encoder.model.encoder.final_layer_norm.weight.mul_(1.5)  # type: ignore[union-attr, operator]
    encoder._hash = recipe.weights_hash  # features of another encoder, smuggled in under this one's name
    extract_text(open_dataset(root, "small"), root, encoder, dtype="float32", device="cpu", progress=False)
    with pytest.raises(SupportsetError, match="have changed since the run began"):
        train(each, root, tmp_path / "run", resume=True, device="cpu")


def test_captions_without_features_of_their_text_are_named_with_the_command(
    store: SmallStore, folders: dict[str, Path], tmp_path: Path
) -> None:
    root = Path(shutil.copytree(store.root, tmp_path / "features"))
    (path,) = (root / "small" / "features").glob("hf-t5-*")
    shutil.rmtree(path)
    command = f"extract-text small --encoder t5 --max-tokens 24 --pooling none --dtype float32 --store {root}"
    extract(root, folders["t5"], dtype="float32", split="test")
    with pytest.raises(UsageError, match=r"256 of 256 captions have no text features \(.*, \.\.\.\)") as told:
        train(setting("small/t5"), root, tmp_path / "run", device="cpu")
    assert command in str(told.value)
    assert "\n" not in str(told.value)
    extract(root, folders["t5"], dtype="float32", split="train")
    open_run_data(setting("small/t5"), root)

    tables = store.dataset
    captions = tables.captions.to_pylist()
    captions[0]["text"] = "a red ball rolls away"
    captions[1]["text"] = " "
    write_dataset(
        root, "small", clips=tables.clips, captions=captions, splits=tables.splits,
        protocols=tables.info["protocols"], sources=[],
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"1 of 255 captions have text features of another text \(clip00-0#0\)"):
        open_run_data(setting("small/t5"), root)
    extract(root, folders["t5"], dtype="float32")
    data = open_run_data(setting("small/t5"), root)
    assert "clip00-0#1" not in {caption.caption_id for caption in data.train.captions}, "blank captions train nothing"
    assert not (tmp_path / "run").exists()


def test_each_side_refuses_the_others_features(store: SmallStore, words: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"data\.features names 'small/hf-t5', .* is of kind 'text'.*text\.features"):
        open_run_data(config(data={"features": ["small/hf-t5"]}), store.root)
    with pytest.raises(UsageError, match=r"text\.features names 'planted', .* is of kind 'video'.*`extract-text`"):
        open_run_data(setting("planted"), store.root)
    with pytest.raises(UsageError, match=r"several feature sets fit 'small/hf-hf'"):
        open_run_data(setting("small/hf-hf"), store.root)
    assert open_run_data(setting(words["hf-none"], data={"features": ["small/"]}), store.root).text is not None
    with pytest.raises(UsageError, match=r"text\.features = 'small/t5' were made by a frozen encoder"):
        setting("small/t5", text={"finetune": True})
    assert setting("small/t5").text.finetune is False


def test_another_datasets_captions_are_asked_for(
    store: SmallStore, run: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    root = Path(shutil.copytree(store.root, tmp_path / "features"))
    plant(root, "other")
    with pytest.raises(UsageError, match=r"dataset 'other' has no text features.*extract-text other --encoder hf"):
        evaluate(run, "planted", "test", root, dataset="other", device="cpu")
    extract(root, folders["hf"], dtype="float32", dataset="other")
    assert evaluate(run, "planted", "test", root, dataset="other", device="cpu")["queries"] == 128


def test_a_blank_question_of_a_split_is_a_caption_without_words(
    store: SmallStore, run: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    root = Path(shutil.copytree(store.root, tmp_path / "features"))
    tables = store.dataset
    captions = tables.captions.to_pylist()
    blank = next(row for row in captions if row["clip_id"] == "clip00-2")
    blank["text"] = ""
    write_dataset(
        root, "small", clips=tables.clips, captions=captions, splits=tables.splits,
        protocols=tables.info["protocols"], sources=[],
    )  # fmt: skip
    result = evaluate(run, "planted", "test", root, device="cpu")
    assert result["queries"] == 128
    assert result["t2v"]["R@1"] > 12.0


def test_search_runs_the_encoder_and_finds_what_the_stored_captions_find(
    store: SmallStore, run: Path, folders: dict[str, Path]
) -> None:
    opened = open_run(run, "cpu", text_encoder=str(folders["hf"]))
    searcher = opened.open_gallery(store.root)
    captions = store.dataset.split_captions("planted", "test")[:6]
    hits = searcher.search([caption.text for caption in captions], 5)
    data: RunData = open_run_data(opened.config, store.root)
    assert data.text is not None
    assert searcher.embeddings is not None
    stored = encode_tokens(opened.model, read_text(opened.model, captions, 24, data.text))
    scores = (stored / np.linalg.norm(stored, axis=1, keepdims=True)) @ searcher.embeddings.T
    for found, row in zip(hits, scores, strict=True):
        assert [hit.score for hit in found] == pytest.approx(sorted(row, reverse=True)[:5], abs=1e-5)
    assert len(search(run, "\u200b", 3, store.root, device="cpu", text_encoder=str(folders["hf"]))) == 3


def test_search_refuses_another_encoder(store: SmallStore, run: Path, tmp_path: Path) -> None:
    save_bert(tmp_path / "hf", seed=1)
    with pytest.raises(UsageError, match="is not the one that made the text features"):
        search(run, "a ball", 3, store.root, device="cpu", text_encoder=str(tmp_path / "hf"))


def test_the_verb_finds_the_encoder_where_it_was_or_is(
    store: SmallStore, run: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    asked = ["search", str(run), "a red ball", "--store", str(store.root), "--device", "cpu", "--json"]
    told = CliRunner().invoke(cli, asked)
    assert told.exit_code == 0, told.output
    assert len(json.loads(told.stdout)["hits"]) == 5
    moved = Path(shutil.copytree(run, tmp_path / "run"))
    record = json.loads((moved / "data.json").read_text())
    record["text_features"]["encoder"] = "/gone/bert"
    del record["hash"]  # the change is meant
    (moved / "data.json").write_text(json.dumps(record))
    asked[1] = str(moved)
    lost = CliRunner().invoke(cli, asked)
    assert lost.exit_code == 2
    assert "/gone/bert" in lost.stderr
    assert "--encoder" in lost.stderr
    assert len(lost.stderr.strip().splitlines()) == 1
    found = CliRunner().invoke(cli, [*asked, "--encoder", str(folders["hf"])])
    assert json.loads(found.stdout)["hits"] == json.loads(told.stdout)["hits"]


def test_damaged_text_features_are_refused(store: SmallStore, words: dict[str, str], run: Path, tmp_path: Path) -> None:
    root = shutil.copytree(store.root, tmp_path / "store")
    damage_features(root, "text")
    with pytest.raises(SupportsetError, match="are not what was written"):
        train(setting(words["hf-none"], optim={"epochs": 1}), root, tmp_path / "run", device="cpu")
    with pytest.raises(SupportsetError, match="are not what was written"):
        evaluate(run, store=root, device="cpu")
