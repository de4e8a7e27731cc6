"""The caption decoder beside the library's own loss, from a T5 folder as a user has it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, T5EncoderModel
from transformers.modeling_outputs import BaseModelOutput

from supportset.store.errors import UsageError
from supportset.train.config import DecoderConfig
from supportset.train.model.decoder import CaptionDecoder, build_decoder
from supportset.train.model.weights.tokenizers import encode, fit_tokenizer
from tests.train.small_models import CAPTIONS, pad, save_small_t5


def no_fitting(vocabulary: int, units: str) -> object:
    raise AssertionError("a pretrained decoder brings its tokenizer")


def case(width: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(3, 4, width, generator=generator)
    mask = torch.arange(4)[None] < torch.tensor([4, 2, 1])[:, None]
    tokens, real = pad(encode(fit_tokenizer(CAPTIONS, 120), [CAPTIONS[1], CAPTIONS[4], "red"], 20), 0)
    return codes * mask[..., None], mask, tokens.masked_fill(~real, -100)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_likelihood_equals_the_librarys(version: str, tmp_path: Path) -> None:
    reference = save_small_t5(tmp_path, version)
    decoder, tokenizer = build_decoder(DecoderConfig(name=str(tmp_path)), 12, no_fitting)
    decoder.eval()
    codes, mask, labels = case()
    losses = decoder(codes, mask, labels)
    assert encode(tokenizer, CAPTIONS, 20) == encode(fit_tokenizer(CAPTIONS, 120), CAPTIONS, 20)
    for i in range(3):  # each caption alone: the library takes the mean over the tokens of the batch
        memory = BaseModelOutput(last_hidden_state=decoder.connect(codes[i : i + 1]))
        alone = reference(encoder_outputs=memory, attention_mask=mask[i : i + 1].long(), labels=labels[i : i + 1])
        torch.testing.assert_close(losses[i], alone.loss)


def test_no_encoder_is_held(tmp_path: Path) -> None:
    whole = save_small_t5(tmp_path)
    decoder, _ = build_decoder(DecoderConfig(name=str(tmp_path)), 12, no_fitting)
    of_decoder = sum(parameter.numel() for parameter in {*whole.decoder.parameters(), *whole.lm_head.parameters()})
    norm = whole.config.d_model
    assert sum(parameter.numel() for parameter in decoder.t5.parameters()) == of_decoder + norm
    decoder(*case()).sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters() if parameter.requires_grad)


def test_padding_and_neighbours_change_nothing(tmp_path: Path) -> None:
    save_small_t5(tmp_path)
    decoder = build_decoder(DecoderConfig(name=str(tmp_path)), 12, no_fitting)[0].eval()
    codes, mask, labels = case()
    together = decoder(codes, mask, labels)
    dirty = codes.masked_fill(~mask[..., None], 1e3)
    longer = torch.nn.functional.pad(labels, (0, 3), value=-100)
    torch.testing.assert_close(decoder(dirty, mask, longer), together)
    length = int((labels[2] != -100).sum())
    torch.testing.assert_close(decoder(codes[2:, :1], mask[2:, :1], labels[2:, :length]), together[2:])


def test_a_caption_without_codes_reads_zeros(tmp_path: Path) -> None:
    save_small_t5(tmp_path)
    decoder = build_decoder(DecoderConfig(name=str(tmp_path)), 12, no_fitting)[0].eval()
    codes, mask, labels = case()
    losses = decoder(torch.zeros_like(codes), torch.zeros_like(mask), labels)
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    torch.testing.assert_close(losses, decoder(torch.zeros_like(codes), mask, labels))


def test_scratch_starts_near_chance() -> None:
    torch.manual_seed(0)
    config = DecoderConfig(kind="scratch", width=32, layers=2, heads=2, dropout=0.0, vocabulary=120)
    decoder, tokenizer = build_decoder(config, 12, lambda vocabulary, units: fit_tokenizer(CAPTIONS, vocabulary, units))
    losses = decoder(*case())
    assert (losses - math.log(len(tokenizer))).abs().max() < 1.5


def test_generation_finds_the_caption_it_was_taught(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = DecoderConfig(kind="scratch", width=32, layers=1, heads=2, dropout=0.0, vocabulary=120)
    decoder, tokenizer = build_decoder(config, 12, lambda vocabulary, units: fit_tokenizer(CAPTIONS, vocabulary, units))
    codes, mask, labels = case()
    optimiser = torch.optim.Adam(decoder.parameters(), 5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        decoder(codes, mask, labels).mean().backward()
        optimiser.step()
    decoder.eval()
    for beams in (1, 2):
        written = decoder.generate(codes, mask, max_tokens=20, beams=beams)
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        assert texts == [CAPTIONS[1].lower(), CAPTIONS[4].lower(), "red"]


def test_gradients_reach_the_codes() -> None:
    torch.manual_seed(0)
    config = DecoderConfig(kind="scratch", width=4, layers=1, heads=1, dropout=0.0, vocabulary=60)
    decoder = build_decoder(config, 3, lambda vocabulary, units: fit_tokenizer(CAPTIONS, vocabulary, units))[0].double()
    mask = torch.tensor([[True, True]])
    labels = torch.tensor([[5, 1, -100]])
    codes = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    # T5's root mean square is taken in float32 by the library: that bounds the precision here.
    decoder(codes, mask, labels).sum().backward()
    step = 1e-2
    for index in range(codes.numel()):
        change = torch.zeros_like(codes).view(-1)
        change[index] = step
        change = change.view_as(codes)
        with torch.no_grad():
            slope = (decoder(codes + change, mask, labels) - decoder(codes - change, mask, labels)) / (2 * step)
        assert slope.item() == pytest.approx(codes.grad.view(-1)[index].item(), abs=2e-4)


def test_untied_projection_is_told_apart(tmp_path: Path) -> None:
    save_small_t5(tmp_path / "old", "1.0")
    save_small_t5(tmp_path / "new", "1.1")
    old: CaptionDecoder = build_decoder(DecoderConfig(name=str(tmp_path / "old")), 12, no_fitting)[0]
    new: CaptionDecoder = build_decoder(DecoderConfig(name=str(tmp_path / "new")), 12, no_fitting)[0]
    assert old.t5.lm_head.weight is old.t5.shared.weight
    assert new.t5.lm_head.weight is not new.t5.shared.weight
    assert (old.scale, new.scale) == (0.25, 1.0)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    sizes = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(sizes).save_pretrained(tmp_path / "bert")
    with pytest.raises(UsageError, match=r"decoder\.name.*'bert'.*must be a T5"):
        build_decoder(DecoderConfig(name=str(tmp_path / "bert")), 12, no_fitting)
    T5EncoderModel(save_small_t5(tmp_path / "t5").config).save_pretrained(tmp_path / "t5")
    with pytest.raises(UsageError, match=r"lacks \d+ weights"):
        build_decoder(DecoderConfig(name=str(tmp_path / "t5")), 12, no_fitting)


def test_a_tokenizer_too_large_for_the_model_is_refused(tmp_path: Path) -> None:
    save_small_t5(tmp_path)
    fit_tokenizer([*CAPTIONS, "quick foxes vex lazy dogs " * 3], 400).save_pretrained(tmp_path)
    size = json.loads((tmp_path / "config.json").read_text())["vocab_size"]
    with pytest.raises(UsageError, match=f"the model {size}"):
        build_decoder(DecoderConfig(name=str(tmp_path)), 12, no_fitting)
