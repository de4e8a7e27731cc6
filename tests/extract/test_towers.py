"""Text towers: each gives what its library gives for the text, and belongs to the visual weights of a card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from supportset.commands.main import cli
from supportset.extract.backbones import load_backbone
from supportset.extract.decode.sampling import Sampling
from supportset.extract.pipeline.recipe import fit_sampling, make_card, make_recipe
from supportset.extract.text.encoders import live_features, load_recorded, load_text_encoder, load_tower
from supportset.extract.text.recipe import make_text_recipe
from supportset.store.errors import UsageError
from supportset.store.format.card import Recipe
from supportset.store.read.catalog import feature_set_path, list_feature_sets
from supportset.store.write.writer import FeatureWriter
from tests.extract.backbones.hf_models import MODELS
from tests.extract.pairs import PAIRS, TOKENS, library_texts, save_pair
from tests.extract.text_models import CAPTIONS, captions_of, save_bert

pytestmark = pytest.mark.slow

DIM = MODELS["clip"].dim
TEXTS = [text for text in CAPTIONS if text.strip()]


def recipe_of(name: str) -> Recipe:
    """The recipe of features that a backbone would make now."""
    backbone = load_backbone(name)
    return make_recipe(backbone, fit_sampling(Sampling(fps=1.0), backbone), "float32")


@pytest.mark.parametrize("kind", PAIRS)
def test_a_tower_gives_what_its_library_gives(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "pair"
    model = save_pair(kind, folder)
    tower = load_text_encoder(f"hf:{folder}")
    expected = library_texts(kind, folder, model, TEXTS)
    found = np.concatenate(live_features(tower)(TEXTS))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert np.ptp(found, axis=0).min() > 1e-3  # texts differ
    one = np.concatenate([live_features(tower)([text])[0] for text in TEXTS])
    np.testing.assert_allclose(one, expected, atol=1e-5 * np.abs(expected).max())
    assert (tower.dim, tower.max_tokens, tower.pooled) == (MODELS[kind].dim, TOKENS, True)
    _check_temperature(kind, model, tower)


def _check_temperature(kind: str, model: Any, tower: Any) -> None:
    if kind == "videoprism":
        assert (tower.logit_scale, tower.logit_bias) == (None, None)
        return
    if kind.startswith("pe_"):
        model = getattr(model, "video_model", model)
        wanted = (model.text_video_logit_scale, model.text_video_logit_bias)
    else:
        wanted = (model.logit_scale.exp(), getattr(model, "logit_bias", None))
    assert tower.logit_scale == pytest.approx(wanted[0].item())
    assert tower.logit_bias == (None if wanted[1] is None else pytest.approx(wanted[1].item()))


@pytest.mark.parametrize("kind", PAIRS)
def test_the_tower_of_a_card_is_that_of_the_same_weights(kind: str, tmp_path: Path) -> None:
    save_pair(kind, tmp_path / "pair")
    recipe = recipe_of(f"hf:{tmp_path / 'pair'}")
    tower = load_tower(recipe, f"hf:{tmp_path / 'pair'}")
    assert tower.visual_hash == recipe.weights_hash
    assert tower.weights_hash != recipe.weights_hash
    text = make_text_recipe(tower, "float32")
    assert load_recorded(text, tower.given).weights_hash == tower.weights_hash
    save_pair(kind, tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match=r"is not the one that made the features .*: its visual weights are xxh3"):
        load_tower(recipe, f"hf:{tmp_path / 'other'}")


def test_extract_text_takes_the_tower_of_features(tmp_path: Path) -> None:
    model = save_pair("clip", tmp_path / "pair")
    recipe = recipe_of(f"hf:{tmp_path / 'pair'}")
    dataset = captions_of(tmp_path, name="said")
    card = make_card(recipe, "cpu", "fp32", f"hf:{tmp_path / 'pair'}")
    with FeatureWriter(feature_set_path(tmp_path, "said", recipe), card) as writer:
        writer.add("clip0", np.ones((1, DIM)), np.array([[0.0, 1.0]]))
    command = ["extract-text", "said", "--store", str(tmp_path), "--device", "cpu", "--dtype", "float32", "--encoder"]
    done = CliRunner().invoke(cli, [*command, "tower:hf-pair"])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(cli, [*command, f"hf:{tmp_path / 'pair'}"]).exit_code == 0
    found = [info for info in list_feature_sets(tmp_path, dataset.name) if info.card.recipe.kind == "text"]
    assert len(found) == 1  # by either name it is one feature set
    expected = library_texts("clip", tmp_path / "pair", model, TEXTS)
    numbers = [number for number, text in enumerate(CAPTIONS) if text.strip()]
    np.testing.assert_allclose(found[0].open().read([f"cap{n}" for n in numbers])[0], expected, atol=1e-5)
    refused = CliRunner().invoke(cli, [*command, "tower:hf-pair", "--pooling", "mean"])
    assert refused.exit_code == 2
    assert "it gives one embedding a text: leave it out" in refused.output


def test_features_without_a_text_tower_say_so(tmp_path: Path) -> None:
    recipe = Recipe("video", "timm:resnet18", "resnet18", "xxh3-128:0", {}, {"fps": 1}, "pool", "mean", DIM, "float32")
    with pytest.raises(UsageError, match=r"made with timm:resnet18, which has no text tower.*as open_clip:ViT-B-32"):
        load_tower(recipe)
    save_bert(tmp_path / "dino")
    config = json.loads((tmp_path / "dino" / "config.json").read_text())
    (tmp_path / "dino" / "config.json").write_text(json.dumps(config | {"model_type": "dinov2"}))
    with pytest.raises(UsageError, match="which has no text tower"):
        load_tower(replace(recipe, backbone="hf:dino"), f"hf:{tmp_path / 'dino'}")
    with pytest.raises(UsageError, match="--encoder names its path on this machine"):
        load_tower(replace(recipe, backbone="hf:dino"), f"hf:{tmp_path / 'absent'}")


def test_only_the_embedding_of_a_pair_is_compared_with_text(tmp_path: Path) -> None:
    save_pair("clip", tmp_path / "pair")
    recipe = replace(recipe_of(f"hf:{tmp_path / 'pair'}"), layer="patch tokens")
    with pytest.raises(UsageError, match=r"hold the patch tokens of hf:pair, which no text is compared with"):
        load_tower(recipe, f"hf:{tmp_path / 'pair'}")


def test_imported_features_need_the_name_and_the_length_of_a_pair(tmp_path: Path) -> None:
    save_pair("clip", tmp_path / "pair")
    recipe = Recipe("video", "imported:mine", "mine", "unknown", {}, {"fps": 1}, "unknown", "unknown", DIM, "float32")
    with pytest.raises(UsageError, match=r"were imported, so their text tower is not known.*--encoder"):
        load_tower(recipe)
    assert load_tower(recipe, f"hf:{tmp_path / 'pair'}").dim == DIM
    with pytest.raises(UsageError, match=f"its text embeddings have length {DIM}, features .* {DIM + 1}"):
        load_tower(replace(recipe, dim=DIM + 1), f"hf:{tmp_path / 'pair'}")


def test_a_tokenizer_without_its_settings_is_one_line(tmp_path: Path) -> None:
    save_pair("clip", tmp_path / "pair")
    (tmp_path / "pair" / "tokenizer_config.json").unlink()
    with pytest.raises(UsageError, match="its tokenizer's files do not belong together") as told:
        load_text_encoder(f"hf:{tmp_path / 'pair'}")
    assert "\n" not in str(told.value)
