"""Text towers of open_clip models: one embedding a text, in the space of the visual tower's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
from torch import Tensor, nn

from supportset.extract.backbones.encoder import hash_state
from supportset.extract.backbones.families.open_clip import load_model
from supportset.extract.backbones.weights import UNREADABLE, first_line, no_remote_code, quiet_libraries
from supportset.extract.text.encoders.base import TextEncoder, TextTower, Tokens
from supportset.extract.text.encoders.tokenizing import hash_tokenizer
from supportset.store.errors import UsageError

ABOUT = {
    "pattern": "open_clip:ARCH/WEIGHTS",
    "what": "text tower of any open_clip model: one text embedding a caption, not normalised",
    "needs": "as the visual tower of the same name",
    "presets": {},
}
_NOT_TEXT = ("visual", "text_decoder", "logit_scale", "logit_bias")
_NO_LIMIT = 2048  # tokens; no caption is longer


class OpenClipTextTower(TextTower):
    """The text embedding as ``encode_text`` gives it, before normalisation; ``config`` is open_clip's of the pair."""

    def __init__(self, model: nn.Module, *, reader: _Reader, config: dict[str, Any], **options: Any) -> None:
        super().__init__(model, max_tokens=reader.length, pad_id=reader.filler, **options)
        self._reader, self.config = reader, config

    def save_tokenizer(self, folder: Path) -> None:
        """Write the files of a tokenizer of transformers; open_clip's own has none, it comes with the library."""
        self._reader.save(folder)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids without the padding."""
        cut = self._reader.read(texts)
        full = [number for number, ids in enumerate(cut) if len(ids) == self.max_tokens]
        lengths = dict(zip(full, map(len, self._reader.read([texts[i] for i in full], _NO_LIMIT)), strict=True))
        return [
            Tokens(ids if len(ids) > self._reader.own else [], lengths.get(i, len(ids))) for i, ids in enumerate(cut)
        ]

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map (N, L) ids to (N, dim). The tower needs its full length, and recognises padding by its token."""
        ids = nn.functional.pad(ids, (0, self.max_tokens - ids.shape[1]), value=self.pad_id)
        network: Any = self.model
        embedding: Tensor = network.encode_text(ids)
        return embedding


class _Reader:
    """One of open_clip's tokenizers, without the padding that they all add."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.length = int(tokenizer.context_length)
        empty = tokenizer([""], context_length=self.length)[0]
        self.filler = int(empty[-1])
        self.own = len(self._trimmed(empty))  # tokens of an empty text

    def read(self, texts: Sequence[str], limit: int | None = None) -> list[list[int]]:
        """Ids of each text, special ones included."""
        if not texts:
            return []
        return [self._trimmed(ids) for ids in self._tokenizer(list(texts), context_length=limit or self.length)]

    def save(self, folder: Path) -> None:
        """Write the files that the tokenizer has, if any."""
        if not hasattr(self._tokenizer, "encoder"):
            self._tokenizer.tokenizer.save_pretrained(folder)

    def vocabulary(self) -> dict[str, int]:
        """Ids by token, of open_clip's own tokenizer or of one of transformers that it wraps."""
        if hasattr(self._tokenizer, "encoder"):
            return dict(self._tokenizer.encoder)
        return dict(self._tokenizer.tokenizer.get_vocab())

    def _trimmed(self, ids: Tensor) -> list[int]:
        real = (ids != self.filler).nonzero()
        return ids[: int(real[-1]) + 1 if len(real) else 0].tolist()


def load(model: str, path: Path | None, max_tokens: int | None, pooling: str | None) -> TextEncoder:
    """Load the text tower of a model, by the names that ``extract --backbone open_clip:...`` takes.

    Raises
    ------
    UsageError
        If it cannot be found or read, or another length or pooling than the tower's own is requested.
    """
    tower = load_tower(model, path)
    tower.check_options(max_tokens, pooling)
    return tower


def load_tower(model: str, path: Path | None) -> TextTower:
    """Load the text tower of a model, without options; raises as :func:`load`."""
    loaded = load_model(model, path, "text encoder")
    network = loaded.network
    try:
        with quiet_libraries(), no_remote_code():
            reader, config = read_tokenizer(loaded.tokenizer), open_clip.get_model_config(loaded.tokenizer)
    except UNREADABLE as error:
        raise UsageError(
            f"text encoder {loaded.name}: its tokenizer cannot be loaded ({first_line(error)}): run it once with a "
            "network, or name a folder that has the tokenizer's files"
        ) from None
    visual_hash = hash_state(network.visual.state_dict())
    scale, bias = getattr(network, "logit_scale", None), getattr(network, "logit_bias", None)
    strip_to_text(network)
    return OpenClipTextTower(
        network,
        reader=reader,
        config=config,
        visual_hash=visual_hash,
        logit_scale=None if scale is None else scale.exp().item(),
        logit_bias=None if bias is None else bias.item(),
        name=loaded.name,
        weights=loaded.weights,
        dim=loaded.dim,
        tokenizer={
            "hash": hash_tokenizer(reader.vocabulary(), lambda texts: reader.read(texts, _NO_LIMIT)),
            "special_tokens": "all that the tokenizer adds",
            "cut": "right, special tokens stay",
        },
    )


def read_tokenizer(place: str) -> _Reader:
    """Load a tokenizer by the name for ``open_clip.get_tokenizer``."""
    return _Reader(open_clip.get_tokenizer(place))


def strip_to_text(network: Any) -> None:
    """Remove what no text embedding depends on: it is neither kept nor hashed."""
    for part in _NOT_TEXT:
        if getattr(network, part, None) is not None:
            setattr(network, part, None)
