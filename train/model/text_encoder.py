"""From caption tokens to the text embedding: a backbone that reads words, and a head that sums them up.

Or the text tower of the pair whose visual half made the features, which has an embedding of its own to start from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers  # imports a class when it is first used
from torch import Tensor, nn

from supportset.store.errors import UsageError
from supportset.store.format.card import FeatureCard, Recipe
from supportset.train.config import TextConfig
from supportset.train.model.ops.dropout import Dropout
from supportset.train.model.ops.packed_t5 import encode_packed
from supportset.train.model.ops.padding import Positions
from supportset.train.model.sequence_head import FEED_FORWARD, InputProjection, SequenceHead, masked_mean
from supportset.train.model.video_encoder import start_at_zero
from supportset.train.model.weights.lora import add_lora
from supportset.train.model.weights.pretrained import load_config, load_tokenizer, load_weights, locate
from supportset.train.model.weights.tower import Tower, load_pair_tower, restore_tower

_KEY = "text.name"
RECIPE = "features.json"  # of the text features that a model reads


class TextEncoder(nn.Module):
    """Backbone (T5 encoder, any Hugging Face encoder, or word vectors) and head; or the head alone, on stored features.

    Parameters
    ----------
    config : TextConfig
        Which backbone and head.
    backbone : nn.Module, optional
        ``nn.Embedding`` for word vectors, a `Tower`, or a transformers encoder; None where a frozen one has run before.
    dim : int
        D of the joint space.
    recipe : Recipe, optional
        Of the text features that take the place of a backbone.

    Notes
    -----
    Heads: ``gru`` is the video head with a GRU in place of the convolution, its learned token first; ``mean`` is
    the mean over the caption's tokens, mapped linearly; ``none`` maps the first token's output (the class token of
    models that have one).

    With ``encoder = "tower"`` the embedding is the tower's, and a head adds to it; its last layer starts at zero. With
    the head ``none`` it is the tower's alone.

    A frozen backbone stays in evaluation mode and gets no gradient. ``encoder_dropout = false`` keeps a fine-tuned
    one in evaluation mode too: it learns without its own dropout.
    """

    def __init__(self, config: TextConfig, backbone: nn.Module | None, dim: int, recipe: Recipe | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.recipe = recipe
        self.pretrained = backbone is not None and config.encoder in ("t5", "hf", "tower")
        self.frozen = self.pretrained and not config.finetune
        if backbone is not None:
            if self.frozen:
                backbone.requires_grad_(False)
            hidden = self._hidden_size(backbone)
        elif recipe is not None:
            hidden = recipe.dim
        else:
            raise ValueError("a text encoder needs a backbone, or the recipe of the features that it reads instead")
        self.project: InputProjection | None = None
        self.head: SequenceHead | None = None
        if config.head == "gru":
            self.project = InputProjection(hidden, config.width, config.norm, config.dropout)
            self.head = SequenceHead(
                config.width, config.layers, config.heads, config.norm, config.dropout, local="gru"
            )
        self.dropout = Dropout(config.dropout)  # of the pooled vector, where no head has its own
        self.tower = config.encoder == "tower"
        self.embed: nn.Linear | None = None
        if not (self.tower and config.head == "none"):
            self.embed = nn.Linear(config.width if config.head == "gru" else hidden, dim)
            if self.tower:
                start_at_zero(self.embed)
        self.train(self.training)

    def train(self, mode: bool = True) -> TextEncoder:
        """Set training mode; the backbone follows only where its dropout is wanted."""
        super().train(mode)
        if self.backbone is not None and (self.frozen or (self.pretrained and not self.config.encoder_dropout)):
            self.backbone.eval()
        return self

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embed captions: (N, L) long ids, or (N, L, h) stored features, and their bool mask give (N, d)."""
        vectors = self.read(ids, mask)
        return self.pool(vectors, mask[:, : vectors.shape[1]])

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Contextual token vectors (N, L, h) of the backbone alone; what stands in padding is without meaning.

        A tower gives one vector a caption, (N, 1, h).

        Without a backbone ``ids`` are the vectors already, as stored; they are widened to the head's dtype.
        """
        if self.backbone is None:
            return ids.float() if self.embed is None else ids.to(self.embed.weight.dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if isinstance(self.backbone, nn.Embedding):
                vectors: Tensor = self.backbone(ids)
            elif isinstance(self.backbone, Tower):
                vectors = self.backbone(ids, mask)[:, None]
            elif isinstance(self.backbone, transformers.T5EncoderModel):
                positions = Positions.of(mask)
                vectors = positions.pad(encode_packed(self.backbone.encoder, ids, positions, mask))
            else:
                vectors = self.backbone(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return vectors

    def pool(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Head over token vectors (N, L, h): the embeddings (N, d)."""
        if self.embed is None:
            return masked_mean(vectors, mask)
        if self.project is not None and self.head is not None:
            pooled, _, _ = self.head(self.project(vectors, mask), mask)
        elif self.config.head == "mean":
            pooled = self.dropout(masked_mean(vectors, mask))
        else:
            pooled = self.dropout(vectors[:, 0])
        embedded: Tensor = self.embed(pooled)
        if self.tower:
            with torch.autocast(vectors.device.type, enabled=False):
                base = masked_mean(vectors, mask)
                base = F.normalize(base.to(torch.promote_types(base.dtype, torch.float32)), dim=-1)
            embedded = embedded + base
        return embedded

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Write the backbone's configuration and the tokenizer: all but the weights; or the features' recipe."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.recipe is not None:
            text = json.dumps(self.recipe.to_json(), indent=2, sort_keys=True) + "\n"
            (folder / RECIPE).write_text(text, encoding="utf-8")
            return
        if isinstance(self.backbone, Tower):
            self.backbone.save(folder)
            return
        sizes: Any = getattr(self.backbone, "config", None)  # word vectors have none
        if sizes is not None:
            sizes.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def _hidden_size(self, backbone: nn.Module) -> int:
        if isinstance(backbone, Tower):
            return backbone.dim
        # Asked of the model itself: configurations name it differently, and some models put out another width.
        training = backbone.training
        backbone.eval()
        with torch.no_grad():
            ids = torch.zeros(1, 2, dtype=torch.long)
            try:
                size = self.read(ids, torch.ones_like(ids, dtype=torch.bool)).shape[-1]
            except (AttributeError, TypeError, ValueError) as error:
                raise UsageError(
                    f"{_KEY} = {self.config.name!r}: a {type(backbone).__name__} is no plain text encoder "
                    f"({error}); name one that turns token ids into one vector a token"
                ) from None
        backbone.train(training)
        return size


def build_text_encoder(
    config: TextConfig, dim: int, fitted: Any, recipe: Recipe | None = None, visual: FeatureCard | None = None
) -> tuple[TextEncoder, Any]:
    """Make the text encoder with pretrained or fresh weights, and its tokenizer.

    Parameters
    ----------
    config : TextConfig
        The text section.
    dim : int
        D of the joint space.
    fitted : Any
        Function (vocabulary, units) that gives a tokenizer fitted on the training captions.
    recipe : Recipe, optional
        Of the text features that are read instead; there is no tokenizer then.
    visual : FeatureCard, optional
        Of the first feature set, whose pair a ``tower`` belongs to; a tower has its tokenizer inside.

    Raises
    ------
    UsageError
        Pretrained weights that can't be had or don't fit, or settings that contradict each other.
    """
    if recipe is not None:
        if config.encoder == "tower":
            _check_pair(config, dim, recipe, visual)
        return TextEncoder(config, None, dim, recipe), None
    if config.encoder == "tower":
        if visual is None:
            raise ValueError("text.encoder = 'tower' belongs to a feature set: give its card")
        tower = load_pair_tower(visual, config.name)
        _check_dim(dim, tower.dim)
        if config.lora:
            add_lora(tower.network, config.lora)
        else:
            tower.requires_grad_(config.finetune)
        return TextEncoder(config, tower, dim), None
    if config.encoder in ("t5", "hf"):
        backbone, tokenizer = _load_backbone(config)
        return TextEncoder(config, backbone, dim), tokenizer
    if not config.finetune:
        raise UsageError(
            f"text.finetune = false needs pretrained weights, but text.encoder = {config.encoder!r} has none: "
            "set it to true, or choose the encoder 't5' or 'hf'"
        )
    if config.encoder == "words":
        if config.head == "none":
            raise UsageError(
                "text.head = 'none' would read the first word alone: with word vectors use 'mean' or 'gru'"
            )
        tokenizer = fitted(config.vocabulary, "words")
        return TextEncoder(config, _word_vectors(config, len(tokenizer)), dim), tokenizer
    tokenizer = fitted(config.vocabulary, "subwords")
    sizes = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=config.width,
        d_kv=config.width // config.heads,
        d_ff=FEED_FORWARD * config.width,
        num_layers=config.layers,
        num_heads=config.heads,
        dropout_rate=config.dropout,
        use_cache=False,
    )
    return TextEncoder(config, transformers.T5EncoderModel(sizes), dim), tokenizer


def restore_text_encoder(config: TextConfig, dim: int, folder: Path) -> tuple[TextEncoder, Any]:
    """Rebuild what `TextEncoder.save` wrote, with weights yet to be loaded."""
    if config.features:
        recipe = Recipe.from_json(json.loads((folder / RECIPE).read_text(encoding="utf-8")))
        return TextEncoder(config, None, dim, recipe), None
    if config.encoder == "tower":
        return TextEncoder(config, restore_tower(folder), dim), None
    if config.encoder in ("words", "scratch"):
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if config.encoder == "words":
        backbone: Any = _word_vectors(config, len(tokenizer))
    elif config.encoder == "hf":
        backbone = _encoder_alone(transformers.AutoModel.from_config(load_config(str(folder), str(folder), _KEY)))
    else:
        backbone = transformers.T5EncoderModel(transformers.T5Config.from_pretrained(folder))
    return TextEncoder(config, backbone, dim), tokenizer


def _check_pair(config: TextConfig, dim: int, recipe: Recipe, visual: FeatureCard | None) -> None:
    """Refuse text features that are not the embeddings of the features' own text tower."""
    if recipe.pooling in ("none", "mean", "first"):
        raise UsageError(
            f"text.features = {config.features!r}: {recipe.folder} holds no text embeddings of an encoder pair, so "
            "text.encoder = 'tower' cannot start from it: leave text.encoder out, or name the pair's text features"
        )
    if visual is not None and recipe.backbone != visual.recipe.backbone:
        raise UsageError(
            f"text.features = {config.features!r} are of {recipe.backbone}, the clips' features of "
            f"{visual.recipe.backbone}: with text.encoder = 'tower' both must be of one pair"
        )
    _check_dim(dim, recipe.dim)


def _check_dim(dim: int, own: int) -> None:
    if dim != own:
        raise UsageError(f"text.encoder = 'tower' gives embeddings of length {own}: set dim = {own}, not {dim}")


def _load_backbone(config: TextConfig) -> tuple[Any, Any]:
    source = locate(config.name, _KEY)
    sizes = load_config(source, config.name, _KEY)
    tokenizer = load_tokenizer(source, config.name, _KEY)
    if config.encoder == "hf":
        # Poolers are taken off below, so their weights need not be there.
        model = load_weights(
            transformers.AutoModel,
            source,
            config.name,
            _KEY,
            sizes,
            needed=lambda weight: not weight.startswith("pooler."),
        )
        backbone = _encoder_alone(model)
    elif sizes.model_type != "t5":
        raise UsageError(f"{_KEY} = {config.name!r} is a {sizes.model_type!r} model, not T5: set text.encoder = 'hf'")
    else:
        backbone = load_weights(transformers.T5EncoderModel, source, config.name, _KEY, sizes)
    embeddings = backbone.get_input_embeddings()
    if not isinstance(embeddings, nn.Embedding):
        raise UsageError(f"{_KEY} = {config.name!r}: a {type(backbone).__name__} reads no text; name a text encoder")
    if len(tokenizer) > embeddings.num_embeddings:
        raise UsageError(
            f"{_KEY} = {config.name!r}: its tokenizer has {len(tokenizer)} tokens, "
            f"the model {embeddings.num_embeddings}: they don't belong together"
        )
    return backbone, tokenizer


def _encoder_alone(model: Any) -> Any:
    """Take the encoder of an encoder-decoder, and no pooler: its weights would never get a gradient."""
    encoder = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder


def _word_vectors(config: TextConfig, vocabulary: int) -> nn.Embedding:
    return nn.Embedding(vocabulary, config.width, padding_idx=0)
