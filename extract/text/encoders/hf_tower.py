"""Text towers of transformers' encoder pairs: what ``get_text_features`` gives, before normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supportset.extract.backbones.encoder import hash_state
from supportset.extract.backbones.hf_types import TYPES, load_network, strip, visual_state
from supportset.extract.backbones.weights import refuse_missing
from supportset.extract.text.encoders.base import TextTower, Tokens
from supportset.extract.text.encoders.hf_tokenizer import (
    check_vocabulary,
    describe_tokenizer,
    load_tokenizer,
    read_ids,
)


def _text_features(network: Any, inputs: dict[str, Tensor]) -> Tensor:
    """A tensor before transformers 5, an output object since."""
    output = network.get_text_features(**inputs)
    embedding: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return embedding


def _first_token(network: Any, inputs: dict[str, Tensor]) -> Tensor:
    """What PE-video's own forward compares with the video: ``get_text_features`` is not reachable in transformers 5."""
    output = network.text_model(**inputs, output_hidden_states=True)
    embedding: Tensor = network.text_video_head(output.hidden_states[-1][:, 0])
    return embedding


@dataclass(frozen=True)
class _Pair:
    """How the text tower of one type of model is read."""

    keep: tuple[str, ...] = ("text_model", "text_projection")  # parts that the embedding depends on
    full: bool = False  # whether texts are padded to the full length, as the model was trained
    embed: Callable[[Any, dict[str, Tensor]], Tensor] = _text_features
    prefix: str = ""  # of logit_scale and logit_bias
    exponential: bool = True  # whether the parameter is the logarithm of the scale


_PE_VIDEO = _Pair(("text_model", "text_video_head"), embed=_first_token, prefix="text_video_", exponential=False)
PAIRS = {
    "clip": _Pair(),
    "metaclip_2": _Pair(),
    "xclip": _Pair(),  # its own forward also conditions the text on each video; the stored features have no such text
    "siglip": _Pair(("text_model",), full=True),
    "siglip2": _Pair(("text_model",), full=True),
    "videoprism": _Pair(("text_model",), full=True),
    "pe_video": _PE_VIDEO,
    "pe_audio_video": _PE_VIDEO,  # as published: with an audio tower
}


class HfTextTower(TextTower):
    """The text embedding of a pair, padded and masked as its own tokenizer and processor do."""

    def __init__(self, model: nn.Module, *, pair: _Pair, reader: Any, **options: Any) -> None:
        super().__init__(model, pad_id=int(reader.pad_token_id or 0), **options)
        self._pair, self._reader = pair, reader
        self._left = reader.padding_side == "left"
        self._masked = "attention_mask" in reader.model_input_names
        self._special = len(read_ids(reader, [""])[0])

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self._reader.save_pretrained(folder)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids with the special tokens of the tokenizer; a cut text keeps its final one."""
        cut = read_ids(self._reader, texts, self.max_tokens)
        full = [number for number, ids in enumerate(cut) if len(ids) == self.max_tokens]
        lengths = dict(zip(full, map(len, read_ids(self._reader, [texts[i] for i in full])), strict=True))
        return [Tokens(ids if len(ids) > self._special else [], lengths.get(i, len(ids))) for i, ids in enumerate(cut)]

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map (N, L) ids to (N, dim)."""
        width = self.max_tokens if self._pair.full else ids.shape[1]
        place, length = torch.arange(width, device=ids.device), mask.sum(1, keepdim=True)
        real = place >= width - length if self._left else place < length
        padded = ids.new_full(real.shape, self.pad_id)
        padded[real] = ids[mask]
        inputs = {"input_ids": padded} | ({"attention_mask": real.long()} if self._masked else {})
        return self._pair.embed(self.model, inputs)


def read_tower(name: str, weights: str, source: str, config: Any) -> TextTower | None:
    """Load a pair from a folder or by hub name, and keep its text tower; None where its type has none."""
    pair = PAIRS.get(config.model_type)
    if pair is None:
        return None
    network, missing = load_network(source, config)
    network.eval()
    visual_hash = hash_state(visual_state(network, config.model_type))
    scale, bias = (getattr(network, f"{pair.prefix}{each}", None) for each in ("logit_scale", "logit_bias"))
    strip(network, pair.keep)
    refuse_missing(missing & set(network.state_dict()))
    reader, text = load_tokenizer(source), TYPES[config.model_type].config(config).text_config
    check_vocabulary(name, reader, int(text.vocab_size))
    most = min(int(text.max_position_embeddings), reader.model_max_length)
    with torch.inference_mode():
        dim = pair.embed(network, {"input_ids": torch.zeros(1, most if pair.full else 2, dtype=torch.long)}).shape[-1]
    return HfTextTower(
        network,
        pair=pair,
        reader=reader,
        visual_hash=visual_hash,
        logit_scale=None if scale is None else (scale.exp() if pair.exponential else scale).item(),
        logit_bias=None if bias is None else bias.item(),
        name=name,
        weights=weights,
        dim=int(dim),
        tokenizer=describe_tokenizer(reader) | {"padding": "to the full length" if pair.full else "to the longest"},
        max_tokens=most,
    )
