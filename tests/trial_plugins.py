"""One addition of each kind, as another package would bring it: `tests/test_plugins.py` uses them by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supportset.extract.readers.base import Reader
from supportset.extract.readers.builder import Builder
from supportset.extract.text.encoders.base import TextEncoder, Tokens
from supportset.store.format.shards.hdf5 import Hdf5Format
from supportset.train.config import LossConfig, VideoConfig
from supportset.train.model.losses import ContrastiveLoss
from supportset.train.model.support import Captioning, Support
from tests.extract.fakes import MeanColour

ABOUT = {"pattern": "trial:SCALE", "what": "the mean colour, scaled", "needs": "no weights"}


class TrialReader(Reader):
    """Lines of a picture's name, a tab and a caption; every fourth picture is a test clip."""

    name, summary, expects = "trial", "Coloured pictures", "pictures.tsv and the pictures"
    protocols: Mapping[str, Mapping[str, int | None]] = {"trial": {"train": None, "test": None}}

    def fill(self, build: Builder) -> None:
        path = build.annotation("pictures.tsv", form="lines 'NAME<tab>caption'")
        origin = build.read_from(path)
        captions = dict(line.split("\t") for line in path.read_text().splitlines())
        found = build.find_files(captions.keys(), images=True)
        for number, (clip, text) in enumerate(captions.items()):
            build.clip(clip, found.get(clip), origin=origin)
            build.captions(clip, [text], origin=origin)
            build.split("trial", "train" if number % 4 else "test", clip, origin=origin)


class TrialFormat(Hdf5Format):
    """HDF5 by another name."""

    name, suffix = "trial", ".trial"


class TrialText(TextEncoder):
    """A random vector a letter."""

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        ids = [[min(ord(letter), 127) for letter in text] for text in texts]
        return [Tokens(each[: self.max_tokens], len(each)) for each in ids]

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        vectors: Tensor = self.model(ids)
        return vectors


class TrialAggregation(nn.Module):
    """The first step."""

    added_positions = 0

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return values[:, 0], values, mask


def load_backbone(model: str, path: Path | None) -> MeanColour:
    return MeanColour(scale=float(model))


def load_text(model: str, path: Path | None, max_tokens: int | None, pooling: Any) -> TrialText:
    vectors = nn.Embedding.from_pretrained(torch.randn(128, int(model), generator=torch.Generator().manual_seed(0)))
    return TrialText(
        vectors,
        name=f"trial:{model}",
        weights="seed 0",
        dim=int(model),
        layer="letters",
        pooling=pooling or "none",
        tokenizer={"hash": "code points"},
        max_tokens=max_tokens or 32,
        pad_id=0,
    )


def nearest_other(logits: Tensor, is_positive: Tensor, candidates: Tensor) -> Support:
    """All the weight is on the most similar other clip."""
    members = candidates & ~is_positive
    best = logits.masked_fill(~members, -torch.inf).argmax(1, keepdim=True)
    members = torch.zeros_like(members).scatter(1, best, members.any(1, keepdim=True))
    return Support(torch.zeros_like(logits) + 0 * logits, members)


def softplus(positive: Tensor, candidates: Tensor, is_negative: Tensor, config: LossConfig) -> Tensor:
    return nn.functional.softplus(candidates - positive).masked_fill(~is_negative, 0.0).sum(1)


READER = TrialReader()
FORMAT = TrialFormat()
CAPTIONING = Captioning("captioning from the nearest other clip", nearest_other, own=False)
LOSS = ContrastiveLoss("softplus of differences", softplus)

ENTRY_POINTS = {
    "supportset.readers": "READER",
    "supportset.shard_formats": "FORMAT",
    "supportset.backbones": "load_backbone",
    "supportset.text_encoders": "load_text",
    "supportset.aggregations": "TrialAggregation",
    "supportset.captioning": "CAPTIONING",
    "supportset.losses": "LOSS",
}
