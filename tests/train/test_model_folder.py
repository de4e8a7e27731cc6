"""A model comes back from its folder as it was, or says in one line why it does not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from supportset.store.errors import SupportsetError, UsageError
from supportset.train.config import OptimConfig
from supportset.train.model.model import SupportSetModel
from tests.train.small_models import CAPTIONS, save_small_t5, small_batch, small_config, small_model
from tests.train.test_text_encoder import save_small_bert

pytestmark = pytest.mark.slow

FOLDER_CASES: dict[str, dict[str, Any]] = {
    "scratch": {},
    "words": {"text": {"encoder": "words", "head": "mean"}, "support": {"captioning": "none"}},
    "t5": {"text": {"encoder": "t5"}, "decoder": {"kind": "t5"}},
    "t5-1.1": {"text": {"encoder": "t5"}, "decoder": {"kind": "t5"}},
    "hf": {"text": {"encoder": "hf", "head": "mean"}, "support": {"captioning": "hybrid"}},
    "encoder of an encoder-decoder": {"text": {"encoder": "hf"}, "support": {"captioning": "none"}},
}


@pytest.mark.parametrize("case", FOLDER_CASES)
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_saved_and_loaded_to_the_bit(case: str, norm: str, tmp_path: Path) -> None:
    sections = {name: dict(values) for name, values in FOLDER_CASES[case].items()}
    local = tmp_path / "pretrained"
    if case == "hf":
        save_small_bert(local)
    else:
        save_small_t5(local, "1.1" if case == "t5-1.1" else "1.0")
    for section in ("text", "decoder"):
        sections.setdefault(section, {})["name"] = str(local)
    sections["text"]["norm"] = norm
    sections["video"] = {"norm": norm, "dropout": 0.2}
    model = small_model(small_config(**sections))
    batch = small_batch(model)
    model.train()
    optimiser = torch.optim.Adam(model.parameter_groups(OptimConfig(learning_rate=1e-2)))
    for _ in range(2):  # so that neither weights nor running statistics are those it was made with
        model(batch).total.backward()
        optimiser.step()
    model.eval()
    model.save_pretrained(tmp_path / "model")
    for path in local.iterdir():
        path.unlink()  # what it came from is not needed

    torch.manual_seed(5)
    expected_draw = torch.rand(1)
    torch.manual_seed(5)
    again = SupportSetModel.from_pretrained(tmp_path / "model")
    assert torch.equal(torch.rand(1), expected_draw), "loading leaves the random state alone"
    assert not again.training
    assert again.config == model.config
    assert again.feature_dim == model.feature_dim
    assert again.text_pad_id == model.text_pad_id
    assert again.tokenize_text(CAPTIONS, 9) == model.tokenize_text(CAPTIONS, 9)
    if model.decoder is not None:
        assert again.tokenize_labels(CAPTIONS, 9) == model.tokenize_labels(CAPTIONS, 9)
    with torch.no_grad():
        before, after = model(batch), again(batch)
        assert torch.equal(before.total, after.total)
        codes = [each.encode_video(batch.features, batch.feature_mask) for each in (model, again)]
        assert torch.equal(codes[0].embedding, codes[1].embedding)
        assert torch.equal(codes[0].sequence, codes[1].sequence)
        assert torch.equal(
            model.encode_text(batch.text_ids, batch.text_mask), again.encode_text(batch.text_ids, batch.text_mask)
        )
        reader = SupportSetModel.from_pretrained(tmp_path / "model", decoder=False)  # for embeddings alone
        assert reader.decoder is None
        text = [each.encode_text(batch.text_ids, batch.text_mask) for each in (model, reader)]
        assert torch.equal(*text)
        assert torch.equal(reader.encode_video(batch.features, batch.feature_mask).embedding, codes[0].embedding)
    suffixes = {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json"}

    again.save_pretrained(tmp_path / "model")  # in place, as each better epoch does
    with torch.no_grad():
        assert torch.equal(SupportSetModel.from_pretrained(tmp_path / "model")(batch).total, before.total)


def test_equal_weights_give_equal_files_that_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        for name in ("one", "two"):
            small_model().save_pretrained(tmp_path / name)
    finally:
        os.umask(before)
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert {path.stat().st_mode & 0o777 for path in one.parent.rglob("*") if path.is_file()} == {0o644}


def test_every_damaged_byte_of_the_weights_is_noticed(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(0, header, 97), *range(header, len(whole), max(1, len(whole) // 40)), len(whole) - 1]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 7)
        weights.write_bytes(damaged)
        with pytest.raises(SupportsetError, match="does not load") as told:
            SupportSetModel.from_pretrained(tmp_path)
        assert "\n" not in str(told.value)


def test_a_model_of_an_earlier_version_loads(tmp_path: Path) -> None:
    """Weights without a hash, a configuration with the old names."""
    model = small_model().eval()
    model.save_pretrained(tmp_path)
    save_model(model, str(tmp_path / "model.safetensors"), metadata={"format": "pt"})
    tree = json.loads((tmp_path / "config.json").read_text())
    del tree["hash"], tree["files"]
    for section, new, old in (
        ("data", "max_tokens", "max_words"),
        ("loss", "caption_weight", "weight"),
        ("optim", "max_grad_norm", "clip_norm"),
        ("optim", "micro_batches", "accumulate"),
    ):
        tree["config"][section][old] = tree["config"][section].pop(new)
    (tmp_path / "config.json").write_text(json.dumps(tree))
    again = SupportSetModel.from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_real_t5_tokenizer(shared_data: Path, tmp_path: Path) -> None:
    sizes = T5Config(vocab_size=32128, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5ForConditionalGeneration(sizes).save_pretrained(tmp_path / "t5")
    real = AutoTokenizer.from_pretrained(shared_data / "t5_tokenizer")
    real.save_pretrained(tmp_path / "t5")
    config = small_config(
        text={"encoder": "t5", "name": str(tmp_path / "t5")}, decoder={"kind": "t5", "name": str(tmp_path / "t5")}
    )
    model = small_model(config)
    model.save_pretrained(tmp_path / "model")
    again = SupportSetModel.from_pretrained(tmp_path / "model")
    text = "A man is cooking, slowly."
    for each in (model, again):
        for tokens in (each.tokenize_text([text], 32)[0], each.tokenize_labels([text], 32)[0]):
            assert tokens == real(text).input_ids
            assert tokens[-1] == real.eos_token_id
            assert real.decode(tokens, skip_special_tokens=True) == text
        assert each.tokenize_labels([text], 3)[0] == [*real(text).input_ids[:2], real.eos_token_id]


def test_a_folder_that_does_not_load_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no trained model here"):
        SupportSetModel.from_pretrained(tmp_path)
    small_model().save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SupportsetError, match="does not load") as told:
        SupportSetModel.from_pretrained(tmp_path)
    assert "\n" not in str(told.value)
    weights.unlink()
    with pytest.raises(SupportsetError, match="does not load"):
        SupportSetModel.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    tree = json.loads(config.read_text())
    del tree["hash"]
    for change, message in (
        ({"format": "other"}, "not a model of this project"),
        ({"format_version": 99}, "format version 99"),
        ({"feature_dim": 7}, "does not load"),
        ({"feature_dim": None}, "feature_dim or files"),
        ({"files": []}, "feature_dim or files"),
        ({"hash": "xxh3-128:0"}, "is not what was written"),
        ({"config": {**tree["config"], "surprise": 1}}, "unknown key 'surprise'"),
    ):
        config.write_text(json.dumps({**tree, **change}))
        with pytest.raises(SupportsetError, match=message) as told:
            SupportSetModel.from_pretrained(tmp_path)
        assert "\n" not in str(told.value)
    config.write_text("[" * 100_000)
    with pytest.raises(SupportsetError, match="not readable as JSON"):
        SupportSetModel.from_pretrained(tmp_path)
    config.write_text("{")
    with pytest.raises(SupportsetError, match="not readable as JSON"):
        SupportSetModel.from_pretrained(tmp_path)
