"""Tokenizers of transformers: loaded without remote code, and read without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from supportset.extract.text.encoders.tokenizing import hash_tokenizer
from supportset.store.errors import UsageError


def load_tokenizer(source: str) -> Any:
    """Load the tokenizer beside a model.

    Raises
    ------
    ValueError
        It knows no word: the library silently makes such a tokenizer where the files are absent. Or it cannot read one.
    """
    reader = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    try:
        known = reader.decode(read_ids(reader, ["a man and a woman"])[0], skip_special_tokens=True)
    except Exception as error:  # the library raises no subclass
        raise ValueError(f"its tokenizer's files do not belong together: {error}") from None
    if not any(character.isalnum() for character in known):
        raise ValueError(
            "its tokenizer knows no word: put tokenizer.json, spiece.model or vocab.txt beside config.json"
        )
    return reader


def read_ids(reader: Any, texts: Sequence[str], limit: int | None = None) -> list[list[int]]:
    """Ids of each text, special ones included, cut to ``limit`` where it is given."""
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


def describe_tokenizer(reader: Any) -> dict[str, str]:
    """Describe for the card what decides the tokens."""
    return {
        "hash": hash_tokenizer(reader.get_vocab(), lambda texts: read_ids(reader, texts)),
        "special_tokens": "all that the tokenizer adds",
        "cut": f"{reader.truncation_side}, special tokens stay",
    }


def check_vocabulary(name: str, reader: Any, size: int) -> None:
    """Refuse a tokenizer with more tokens than the model has vectors, which are ``size``.

    Raises
    ------
    UsageError
        They do not match.
    """
    if len(reader) > size:
        raise UsageError(
            f"text encoder {name}: its tokenizer has {len(reader)} tokens, the model {size}: they do not match"
        )


@contextmanager
def without_bars(local: bool) -> Iterator[None]:
    """Keep the library's progress bar off the screen while it reads local files; a download keeps its own."""
    hidden = local and transformers_logging.is_progress_bar_enabled()
    if hidden:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if hidden:
            transformers_logging.enable_progress_bar()
