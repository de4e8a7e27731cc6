"""A tower kept without its weights: built again from its folder, with the weights from elsewhere, it is the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from supportset.extract.text.encoders import live_features, load_text_encoder
from supportset.extract.text.encoders.tower_folder import read_tower_folder, save_tower
from tests.extract.pairs import OPEN_CLIP, PAIRS, save_open_clip, save_pair, save_tokenizer
from tests.extract.text_models import CAPTIONS, save_bert

pytestmark = pytest.mark.slow

TEXTS = [*CAPTIONS, "word " * 100, ""]


def save_open_clip_with_bert(folder: Path, bert: Path) -> None:
    """Save a pair of open_clip whose text half and tokenizer are of transformers."""
    save_bert(bert)
    text = {"hf_model_name": str(bert), "hf_tokenizer_name": str(bert), "hf_proj_type": "mlp",
            "hf_pooler_type": "mean_pooler", "context_length": 16}  # fmt: skip
    settings = OPEN_CLIP | {"text_cfg": text}
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(**settings)
    save_tokenizer(folder)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": {}}))


@pytest.mark.parametrize("kind", [*PAIRS, "open_clip", "open_clip, BERT"])
def test_a_tower_from_its_folder_is_the_same(kind: str, tmp_path: Path) -> None:
    source, kept = tmp_path / "source", tmp_path / "kept"
    if kind == "open_clip":
        save_open_clip(source)
    elif kind == "open_clip, BERT":
        save_open_clip_with_bert(source, tmp_path / "bert")
    else:
        save_pair(kind, source)
    tower = load_text_encoder(f"{'open_clip' if kind.startswith('open_clip') else 'hf'}:{source}")
    save_tower(tower, kept)
    for gone in (source, tmp_path / "bert"):
        if gone.exists():
            gone.rename(tmp_path / f"gone {gone.name}")
    again = read_tower_folder(kept)
    again.model.load_state_dict(tower.model.state_dict())
    for first, second in zip(live_features(tower)(TEXTS), live_features(again)(TEXTS), strict=True):
        np.testing.assert_array_equal(first, second)
    facts = ("name", "weights", "weights_hash", "tokenizer_json", "max_tokens", "pad_id", "visual_hash", "logit_scale")
    assert [getattr(again, fact) for fact in facts] == [getattr(tower, fact) for fact in facts]
    assert not [file for file in kept.iterdir() if str(tmp_path).encode() in file.read_bytes()]
    assert not [file for file in kept.iterdir() if file.suffix not in (".json", ".txt", ".jinja")]
