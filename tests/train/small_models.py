"""Models, batches and T5 folders small enough to be made in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from supportset.train.config import Config, load_config, parse_config
from supportset.train.model.batch import Batch
from supportset.train.model.model import SupportSetModel
from supportset.train.model.weights.tokenizers import fit_tokenizer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

CAPTIONS = [
    "A red ball rolls to the left.",
    "the ball, which is red, goes left",
    "two green squares spin",
    "A pair of green squares is turning.",
    "a blue star falls slowly",
    "the small blue star drops down",
    "nothing moves on a grey ground",
    "Three yellow rings jump over a line.",
]


def small_config(**sections: Any) -> Config:
    """A whole model from scratch, a few thousand parameters; ``sections`` replace keys, section by section."""
    tree: dict[str, Any] = {
        "name": "small",
        "dim": 16,
        "data": {"dataset": "none", "features": ["none/none"], "protocol": "none"},
        "video": {"width": 16, "layers": 1, "heads": 2, "norm": "layer", "dropout": 0.0},
        "text": {
            "encoder": "scratch",
            "width": 16,
            "layers": 1,
            "heads": 2,
            "norm": "layer",
            "dropout": 0.0,
            "vocabulary": 120,
        },
        "decoder": {"kind": "scratch", "width": 16, "layers": 1, "heads": 2, "dropout": 0.0, "vocabulary": 120},
    }
    for section, values in sections.items():
        if isinstance(values, dict):
            tree.setdefault(section, {}).update(values)
        else:
            tree[section] = values
    return parse_config(tree, "test")


def small_model(config: Config | None = None, feature_dim: int = 6, seed: int = 0) -> SupportSetModel:
    """Build the model of a configuration, always with the same weights."""
    torch.manual_seed(seed)
    return SupportSetModel.build(config or small_config(), feature_dim, CAPTIONS)


def small_batch(
    model: SupportSetModel,
    texts: list[str] | None = None,
    caption_clip: list[int] | None = None,
    lengths: list[int] | None = None,
    seed: int = 0,
) -> Batch:
    """Random clips, the captions above; captions 0 and 1, 2 and 3, 4 and 5 describe the same clip."""
    texts = CAPTIONS[:6] if texts is None else texts
    caption_clip = [0, 0, 1, 1, 2, 2] if caption_clip is None else caption_clip
    lengths = [5, 2, 3] if lengths is None else lengths
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(lengths), max(lengths), model.feature_dim, generator=generator)
    feature_mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    text_ids, text_mask = pad(model.tokenize_text(texts, 32), model.text_pad_id)
    labels = None
    if model.decoder is not None:
        labels, real = pad(model.tokenize_labels(texts, 32), 0)
        labels = labels.masked_fill(~real, -100)
    return Batch(
        features=features * feature_mask[..., None],
        feature_mask=feature_mask,
        text_ids=text_ids,
        text_mask=text_mask,
        labels=labels,
        caption_clip=torch.tensor(caption_clip),
        clip_ids=[f"clip{index}" for index in range(len(lengths))],
        caption_ids=[f"caption{index}" for index in range(len(texts))],
    )


def pad(sequences: list[list[int]], filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token lists as one (N, L) tensor and its mask."""
    longest = max(map(len, sequences))
    ids = torch.tensor([tokens + [filler] * (longest - len(tokens)) for tokens in sequences])
    mask = torch.arange(longest)[None] < torch.tensor([len(tokens) for tokens in sequences])[:, None]
    return ids, mask


def save_small_t5(folder: Path, version: str = "1.0", seed: int = 0) -> T5ForConditionalGeneration:
    """Write a T5 of a few thousand random weights with its tokenizer, as a user's local copy would lie there."""
    torch.manual_seed(seed)
    tokenizer = fit_tokenizer(CAPTIONS, 120)
    new = version == "1.1"
    config = T5Config(
        vocab_size=len(tokenizer) + 4,  # real ones are larger than their tokenizer, too
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_decoder_layers=3,
        num_heads=2,
        decoder_start_token_id=0,
        feed_forward_proj="gated-gelu" if new else "relu",
        tie_word_embeddings=not new,
    )
    model = T5ForConditionalGeneration(config)
    if new:  # 1.1 has a vocabulary projection of its own
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()


def reduced_paper_config(t5_folder: Path, name: str = "paper-msrvtt", overrides: tuple[str, ...] = ()) -> Config:
    """The paper's configuration as it is shipped, every choice kept and every size made small."""
    path = CONFIGS / f"{name}.toml"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in configs/")
    sizes = (
        f"text.name={str(t5_folder)!r}",
        f"decoder.name={str(t5_folder)!r}",
        "dim=32",
        "video.width=32",
        "text.width=16",
        "optim.batch_size=6",
        "optim.precision='fp32'",
    )
    return load_config(path, (*sizes, *overrides))
