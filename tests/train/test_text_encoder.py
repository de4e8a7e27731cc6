"""Text encoders of every kind, their heads, and what frozen means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel, T5EncoderModel, ViTConfig, ViTModel

from supportset.store.errors import UsageError
from supportset.train.config import TextConfig
from supportset.train.model.text_encoder import TextEncoder, build_text_encoder
from supportset.train.model.weights.tokenizers import encode, fit_tokenizer
from tests.train.small_models import CAPTIONS, pad, save_small_t5

SMALL: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2, "norm": "layer", "dropout": 0.0, "vocabulary": 120}


def build(**keys: Any) -> tuple[TextEncoder, Any]:
    torch.manual_seed(0)
    config = TextConfig(**{**SMALL, **keys})
    return build_text_encoder(config, 7, lambda vocabulary, units: fit_tokenizer(CAPTIONS, vocabulary, units))


def save_small_bert(folder: Path) -> BertModel:
    torch.manual_seed(0)
    tokenizer = fit_tokenizer(CAPTIONS, 120)
    tokenizer.save_pretrained(folder)
    sizes = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=40,
    )
    model = BertModel(sizes).eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Local copies of a T5 and of a BERT."""
    root = tmp_path_factory.mktemp("models")
    save_small_t5(root / "t5")
    save_small_bert(root / "hf")
    return {"t5": str(root / "t5"), "hf": str(root / "hf"), "scratch": "", "words": ""}


def tokens(tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return pad(encode(tokenizer, CAPTIONS[:3], 20), tokenizer.pad_token_id)


@pytest.mark.parametrize(
    ("kind", "head"),
    [(kind, head) for kind in ("t5", "hf", "scratch") for head in ("gru", "mean", "none")]
    + [("words", "gru"), ("words", "mean")],
)
def test_a_caption_in_a_padded_batch_is_the_caption_alone(kind: str, head: str, folders: dict[str, str]) -> None:
    encoder, tokenizer = build(encoder=kind, name=folders[kind], head=head)
    encoder.eval()
    ids, mask = tokens(tokenizer)
    together = encoder(ids.masked_fill(~mask, 3), mask)
    assert together.shape == (3, 7)
    for index in range(3):
        length = int(mask[index].sum())
        alone = encoder(ids[index : index + 1, :length], mask[index : index + 1, :length])
        torch.testing.assert_close(together[index], alone[0], atol=1e-5, rtol=1e-4)
    assert (together[0] - together[2]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["t5", "hf"])
def test_backbone_gives_what_the_library_gives(kind: str, folders: dict[str, str]) -> None:
    encoder, tokenizer = build(encoder=kind, name=folders[kind])
    encoder.eval()
    library = (T5EncoderModel if kind == "t5" else AutoModel).from_pretrained(folders[kind]).eval()
    batch = tokenizer(CAPTIONS[:3], padding=True, return_tensors="pt")
    ids, mask = tokens(tokenizer)
    assert torch.equal(ids, batch["input_ids"])
    expected = library(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    torch.testing.assert_close(encoder.read(ids, mask)[mask], expected[mask])


def test_an_encoder_decoder_gives_its_encoder(folders: dict[str, str]) -> None:
    as_hf, tokenizer = build(encoder="hf", name=folders["t5"])
    as_t5, _ = build(encoder="t5", name=folders["t5"])
    as_hf.eval()
    as_t5.eval()
    ids, mask = tokens(tokenizer)
    torch.testing.assert_close(as_hf.read(ids, mask)[mask], as_t5.read(ids, mask)[mask])
    assert not any("decoder" in name for name, _ in as_hf.named_parameters())


def test_mean_and_first_token_are_what_they_say(folders: dict[str, str]) -> None:
    for head in ("mean", "none"):
        encoder, tokenizer = build(encoder="hf", name=folders["hf"], head=head)
        encoder.eval()
        ids, mask = tokens(tokenizer)
        vectors = encoder.read(ids, mask)
        for index in range(3):
            real = vectors[index][mask[index]]
            pooled = real.mean(0) if head == "mean" else real[0]
            torch.testing.assert_close(encoder(ids, mask)[index], encoder.embed(pooled))


@pytest.mark.parametrize("kind", ["t5", "hf"])
def test_frozen_backbone_gets_no_gradient_and_no_dropout(kind: str, folders: dict[str, str]) -> None:
    encoder, tokenizer = build(encoder=kind, name=folders[kind], finetune=False, head="mean")
    encoder.train()
    assert not encoder.backbone.training
    ids, mask = tokens(tokenizer)
    assert torch.equal(encoder(ids, mask), encoder(ids, mask))
    encoder(ids, mask).sum().backward()
    assert all(parameter.grad is None for parameter in encoder.backbone.parameters())
    assert not any(parameter.requires_grad for parameter in encoder.backbone.parameters())
    assert encoder.embed.weight.grad is not None


@pytest.mark.parametrize("kind", ["t5", "hf", "scratch", "words"])
def test_fine_tuning_reaches_every_parameter(kind: str, folders: dict[str, str]) -> None:
    encoder, tokenizer = build(encoder=kind, name=folders[kind], head="gru")
    encoder(*tokens(tokenizer)).square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_fine_tuning_without_the_encoders_own_dropout(folders: dict[str, str]) -> None:
    for dropout in (True, False):
        encoder, tokenizer = build(encoder="hf", name=folders["hf"], head="mean", encoder_dropout=dropout)
        encoder.train()
        ids, mask = tokens(tokenizer)
        assert torch.equal(encoder(ids, mask), encoder(ids, mask)) is not dropout
        encoder(ids, mask).sum().backward()
        assert encoder.backbone.get_input_embeddings().weight.grad is not None


def test_minilm_comes_from_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("all_minilm_l6_v2")
    monkeypatch.setenv("SUPPORTSET_CACHE", str(tmp_path))
    encoder, tokenizer = build(encoder="hf", name="all-MiniLM-L6-v2", head="mean", finetune=False)
    encoder.eval()
    sentences = ["a dog runs over the grass", "a puppy races across a lawn", "the stock market fell"]
    ids, mask = pad(encode(tokenizer, sentences, 20), tokenizer.pad_token_id)
    vectors = encoder.read(ids, mask)
    mean = torch.stack([vectors[index][mask[index]].mean(0) for index in range(3)])
    close, far = torch.nn.functional.cosine_similarity(mean[[0, 0]], mean[[1, 2]])
    assert close > far + 0.3


def test_contradictions_are_usage_errors(folders: dict[str, str], tmp_path: Path) -> None:
    for kind in ("scratch", "words"):
        with pytest.raises(UsageError, match=r"text\.finetune = false needs pretrained"):
            build(encoder=kind, finetune=False)
    with pytest.raises(UsageError, match="first word alone"):
        build(encoder="words", head="none")
    with pytest.raises(UsageError, match=r"'bert' model, not T5: set text\.encoder = 'hf'"):
        build(encoder="t5", name=folders["hf"])
    sizes = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=16)
    ViTModel(sizes).save_pretrained(tmp_path)
    fit_tokenizer(CAPTIONS, 50).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"text\.name.*ViTModel reads no text"):
        build(encoder="hf", name=str(tmp_path))
