"""The caption decoder: how well a caption can be written from mixed video codes. Not needed at test time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers  # imports a class when it is first used
from torch import Tensor, nn

from supportset.store.errors import UsageError
from supportset.train.config import DecoderConfig
from supportset.train.model.ops.packed_t5 import decode_packed, open_rows
from supportset.train.model.ops.padding import Positions
from supportset.train.model.ops.vocabulary_loss import vocabulary_loss
from supportset.train.model.sequence_head import FEED_FORWARD
from supportset.train.model.weights.pretrained import load_config, load_tokenizer, load_weights, locate

_KEY = "decoder.name"
IGNORED = -100  # label of a padded position


class CaptionDecoder(nn.Module):
    """T5 decoder that reads video codes through a linear map.

    Parameters
    ----------
    t5 : Any
        T5 with an encoder of no layers, so that only the decoder and the vocabulary projection are held.
    code_width : int
        D_e, of the video codes.

    Notes
    -----
    T5 1.0 scales the decoder's output before it meets the (tied) embeddings, T5 1.1 does not and has a projection of
    its own; which of them a model is, its configuration tells, and the tests compare with the library's loss.
    """

    def __init__(self, t5: Any, code_width: int) -> None:
        super().__init__()
        self.t5 = t5
        self.connect = nn.Linear(code_width, t5.config.d_model)
        # What is left of the encoder is never run: without this, distributed training waits for its gradient.
        t5.encoder.final_layer_norm.requires_grad_(False)
        self.pad = int(t5.config.pad_token_id or 0)
        self.end = int(t5.config.eos_token_id)
        start = getattr(t5.config, "decoder_start_token_id", None)
        self.start = self.pad if start is None else int(start)
        # Older releases of transformers tell it by the tying of the embeddings alone.
        scaled = getattr(t5.config, "scale_decoder_outputs", t5.config.tie_word_embeddings)
        self.scale = float(t5.config.d_model**-0.5) if scaled else 1.0

    def forward(self, codes: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood of captions under teacher forcing.

        Parameters
        ----------
        codes : Tensor
            (N, M, d_e) float, what each caption is to be written from.
        mask : Tensor
            (N, M) bool, positions that are there; a caption with none reads zeros.
        labels : Tensor
            (N, L) long, the caption with its end token, -100 where padded after it.

        Returns
        -------
        Tensor
            (N,) float, in nats, mean over each caption's tokens.
        """
        return self.token_losses(codes, mask, labels).sum(1) / (labels != IGNORED).sum(1).clamp(min=1)

    def token_losses(self, codes: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """(N, L) the same of each token, zero where padded."""
        real = labels != IGNORED
        rows = real.flatten().nonzero().squeeze(1)
        read = F.pad(labels[:, :-1], (1, 0), value=self.start)
        hidden = decode_packed(self.t5.decoder, read, Positions(rows, real), self.connect(codes), open_rows(mask))
        losses = vocabulary_loss(hidden * self.scale, self.t5.lm_head.weight, labels.flatten()[rows])
        return losses.new_zeros(real.numel()).index_copy(0, rows, losses).view_as(real)

    @torch.no_grad()
    def generate(self, codes: Tensor, mask: Tensor, max_tokens: int = 32, beams: int = 1) -> Tensor:
        """Write captions by beam search, of which one beam is the likeliest token each time.

        Of the finished beams the one with the highest mean log-likelihood of its tokens wins.

        Returns
        -------
        Tensor
            (N, at most max_tokens + 1) token ids, the start token first, padded after the end token.
        """
        written: Tensor = self.t5.generate(
            encoder_outputs=transformers.modeling_outputs.BaseModelOutput(last_hidden_state=self.connect(codes)),
            attention_mask=open_rows(mask).long(),
            decoder_start_token_id=self.start,
            pad_token_id=self.pad,
            max_new_tokens=max_tokens,
            num_beams=beams,
            do_sample=False,
        )
        return written

    def untie(self) -> None:
        """Give the vocabulary projection weights of its own, apart from the embeddings."""
        self.t5.lm_head.weight = nn.Parameter(self.t5.lm_head.weight.detach().clone())

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Write the configuration and the tokenizer: all but the weights."""
        folder.mkdir(parents=True, exist_ok=True)
        self.t5.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def build_decoder(config: DecoderConfig, code_width: int, fitted: Any) -> tuple[CaptionDecoder, Any]:
    """Make the decoder with pretrained or fresh weights, and its tokenizer.

    Parameters
    ----------
    config : DecoderConfig
        The decoder section.
    code_width : int
        D_e, of the video codes.
    fitted : Any
        Function (vocabulary, units) that gives a tokenizer fitted on the training captions.

    Raises
    ------
    UsageError
        Pretrained weights that can't be had, or are not a T5 with a decoder.
    """
    if config.kind == "scratch":
        tokenizer = fitted(config.vocabulary, "subwords")
        sizes = transformers.T5Config(
            vocab_size=len(tokenizer),
            d_model=config.width,
            d_kv=config.width // config.heads,
            d_ff=FEED_FORWARD * config.width,
            num_layers=0,
            num_decoder_layers=config.layers,
            num_heads=config.heads,
            dropout_rate=config.dropout,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
        return CaptionDecoder(transformers.T5ForConditionalGeneration(sizes), code_width), tokenizer
    source = locate(config.name, _KEY)
    sizes = load_config(source, config.name, _KEY)
    if sizes.model_type != "t5":
        raise UsageError(f"{_KEY} = {config.name!r} is a {sizes.model_type!r} model: the caption decoder must be a T5")
    tokenizer = load_tokenizer(source, config.name, _KEY)
    sizes.num_layers = 0  # the encoder's; its weights stay in the file
    sizes.dropout_rate = config.dropout
    t5 = load_weights(transformers.T5ForConditionalGeneration, source, config.name, _KEY, sizes)
    if len(tokenizer) > sizes.vocab_size:
        raise UsageError(
            f"{_KEY} = {config.name!r}: its tokenizer has {len(tokenizer)} tokens, the model {sizes.vocab_size}: "
            "they don't belong together"
        )
    return CaptionDecoder(t5, code_width), tokenizer


def restore_decoder(config: DecoderConfig, code_width: int, folder: Path) -> tuple[CaptionDecoder, Any]:
    """Rebuild what `CaptionDecoder.save` wrote, with weights yet to be loaded."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return CaptionDecoder(
        transformers.T5ForConditionalGeneration(transformers.T5Config.from_pretrained(folder)), code_width
    ), tokenizer
