"""The whole model: both encoders, the contrastive loss and captioning from the support set."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supportset.store.errors import UsageError
from supportset.store.format.card import FeatureCard, Recipe
from supportset.train.config import Config, LossConfig, OptimConfig
from supportset.train.model.batch import Batch
from supportset.train.model.decoder import CaptionDecoder, build_decoder, restore_decoder
from supportset.train.model.memory_bank import MemoryBank
from supportset.train.model.objective import Losses, objective
from supportset.train.model.ops.micro_batches import in_micro_batches
from supportset.train.model.ranks import gather_codes, objective_over_ranks, shared_statistics
from supportset.train.model.text_encoder import TextEncoder, build_text_encoder, restore_text_encoder
from supportset.train.model.video_encoder import VideoCodes, VideoEncoder
from supportset.train.model.weights.lora import is_adapter, merged_state
from supportset.train.model.weights.model_folder import (
    DECODER_FOLDER,
    TEXT_FOLDER,
    loading,
    read_config,
    read_weights,
    weight_names,
    write_config,
    write_weights,
)
from supportset.train.model.weights.tokenizers import encode, fit_tokenizer, places
from supportset.train.model.weights.tower import Tower, load_pair_tower

_LOWEST_TEMPERATURE = 0.005  # of those that are learned; published pairs have 0.0085 and more
_VOCABULARY = {f"decoder.t5.{name}.weight" for name in ("shared", "decoder.embed_tokens", "lm_head")}


class SupportSetModel(nn.Module):
    """Video-text model with a support-set bottleneck; make one with `build` or `from_pretrained`.

    Attributes
    ----------
    config, feature_dim : Config, int
        What it was made for.
    video : VideoEncoder
    text : TextEncoder
    decoder : CaptionDecoder, or None where ``support.captioning`` is ``none``
    log_scale : Parameter, or None where the temperature of the loss is not learned
        Scalar, minus the logarithm of the temperature.
    """

    def __init__(
        self,
        config: Config,
        feature_dim: int,
        text: TextEncoder,
        text_tokenizer: Any,
        decoder: CaptionDecoder | None = None,
        label_tokenizer: Any = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.feature_dim = feature_dim
        self.video = VideoEncoder(config.video, feature_dim, config.dim)
        self.text = text
        self.decoder = decoder
        self._text_tokenizer = text_tokenizer
        self._label_tokenizer = label_tokenizer
        self.log_scale = nn.Parameter(torch.zeros(())) if config.loss.temperature == "tower" else None

    @classmethod
    def build(
        cls,
        config: Config,
        feature_dim: int,
        captions: list[str],
        text_recipe: Recipe | None = None,
        visual: FeatureCard | None = None,
    ) -> SupportSetModel:
        """Make a model to train: pretrained weights where the configuration names them, fresh ones elsewhere.

        Parameters
        ----------
        config : Config
            The run's configuration.
        feature_dim : int
            D of the stored features.
        captions : list of str
            Training captions, which tokenizers are fitted on where the configuration asks for it.
        text_recipe : Recipe, optional
            Of the text features, where ``text.features`` names some.
        visual : FeatureCard, optional
            Of the first feature set, which an encoder pair's ``tower`` belongs to.

        Raises
        ------
        UsageError
            Pretrained weights that can't be had, or settings that contradict each other.
        """

        @cache  # a text encoder and a decoder of one vocabulary share the work
        def fitted(vocabulary: int, units: Any) -> Any:
            return fit_tokenizer(captions, vocabulary, units)

        if (text_recipe is None) == bool(config.text.features):
            raise ValueError(f"text.features = {config.text.features!r}, and the recipe given is {text_recipe}")
        text, text_tokenizer = build_text_encoder(config.text, config.dim, fitted, text_recipe, visual)
        first_dim = feature_dim if visual is None else visual.recipe.dim
        if config.video.init == "identity" and config.dim != first_dim:
            raise UsageError(
                f"video.init = 'identity' starts at features of length {first_dim}: set dim = {first_dim}, not "
                f"{config.dim}"
            )
        limit = getattr(getattr(text.backbone, "config", None), "max_position_embeddings", None)
        if limit is not None and config.data.max_tokens > limit:
            raise UsageError(
                f"data.max_tokens = {config.data.max_tokens}: {config.text.name!r} reads at most {limit} tokens"
            )
        decoder, label_tokenizer = None, None
        if config.captions:
            decoder, label_tokenizer = build_decoder(config.decoder, config.video.width, fitted)
        model = cls(config, feature_dim, text, text_tokenizer, decoder, label_tokenizer)
        if model.log_scale is not None:
            model.log_scale.data.fill_(_log_scale(text.backbone, visual, config))
        return model

    @property
    def text_pad_id(self) -> int:
        """Token that fills the end of shorter captions for the text encoder."""
        if isinstance(self.text.backbone, Tower):
            return self.text.backbone.pad_id
        pad = getattr(self._text_tokenizer, "pad_token_id", None)
        return 0 if pad is None else int(pad)

    @property
    def text_recipe(self) -> Recipe | None:
        """What the text features are that the model reads; None where it reads tokens."""
        return self.text.recipe

    def tokenize_text(self, texts: list[str], max_tokens: int) -> list[list[int]]:
        """Tokens for the text encoder, its special tokens included, at most ``max_tokens`` each, without padding.

        A tower cuts at its own length, as it does without training.
        """
        if isinstance(self.text.backbone, Tower):
            return self.text.backbone.tokenize(texts)
        if self._text_tokenizer is None:
            raise ValueError("a model that reads text features has no text tokenizer")
        return encode(self._text_tokenizer, texts, max_tokens)

    def tokenize_labels(self, texts: list[str], max_tokens: int) -> list[list[int]]:
        """Tokens for the caption decoder, the end token included, at most ``max_tokens`` each, without padding."""
        if self._label_tokenizer is None:
            raise ValueError("a model without captioning has no label tokenizer")
        return encode(self._label_tokenizer, texts, max_tokens)

    def label_places(self, texts: list[str], max_tokens: int) -> list[list[tuple[int, int]]]:
        """Where each token of `tokenize_labels` stands in its text: first character and the one after the last."""
        if self._label_tokenizer is None:
            raise ValueError("a model without captioning has no label tokenizer")
        return places(self._label_tokenizer, texts, max_tokens)

    def detokenize(self, tokens: list[list[int]]) -> list[str]:
        """Words of the decoder's tokens, special tokens left out."""
        if self._label_tokenizer is None:
            raise ValueError("a model without captioning has no label tokenizer")
        return [str(text).strip() for text in self._label_tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def encode_video(self, features: Tensor, mask: Tensor) -> VideoCodes:
        """Encode (C, T, D) features with their (C, T) bool mask; the embedding (C, d) has unit length."""
        codes = self.video(features, mask)
        return VideoCodes(_unit(codes.embedding), codes.sequence, codes.mask)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embed captions: (N, L) long ids, or (N, L, h) text features, and a bool mask give (N, d) of unit length."""
        return _unit(self.text(ids, mask))

    def forward(
        self, batch: Batch, *, loss: LossConfig | None = None, bank: MemoryBank | None = None, step: int = 0
    ) -> Losses:
        """Compute the losses of a batch.

        Parameters
        ----------
        batch : Batch
            Captions and their clips. Where it has a shard, every process must call this with its own.
        loss : LossConfig, optional
            Replaces the configured ``loss`` section, for a warm-up.
        bank : MemoryBank, optional
            Codes of clips of earlier batches. It is only read: the caller adds ``codes`` after the backward pass.
        step : int
            Of the training, for the age of the bank's entries.
        """
        loss, learned = loss or self.config.loss, {}
        if self.log_scale is not None:
            temperature = (-self.log_scale).exp().clamp(min=_LOWEST_TEMPERATURE)
            loss = loss.model_copy(update={"temperature": temperature})
            learned = {"temperature": temperature.detach()}
        shard = batch.shard
        compute: Callable[..., Losses] = objective
        if shard is None:
            video, c_t = self._encode(batch)
        else:
            clips, captions = shard.clips[shard.rank] > 0, shard.captions[shard.rank] > 0
            with shared_statistics(self.video, clips), shared_statistics(self.text, captions):
                video, c_t = self._encode(batch)
            positions = None if self.decoder is None else self.video.positions(shard.steps)
            video, c_t = gather_codes(video, c_t, shard, positions)
            compute = partial(objective_over_ranks, shard=shard)
        losses = compute(
            self.config,
            None if self.decoder is None else self._decode,
            c_t,
            video,
            batch.caption_clip,
            batch.labels,
            loss,
            may_support=batch.may_support(),
            entries=None if bank is None else bank.entries(batch.clip_ids, step, batch.sources),
        )
        losses.stats |= learned
        if self.decoder is not None:
            losses.codes = VideoCodes(video.embedding.detach(), video.sequence.detach(), video.mask)
        return losses

    def _encode(self, batch: Batch) -> tuple[VideoCodes, Tensor]:
        parts = self.config.optim.micro_batches
        video = VideoCodes(*in_micro_batches(self.encode_video, parts, batch.features, batch.feature_mask))
        (c_t,) = in_micro_batches(lambda *each: (self.encode_text(*each),), parts, batch.text_ids, batch.text_mask)
        return video, c_t

    def _decode(self, mixture: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        decoder = self.decoder
        assert decoder is not None
        parts = self.config.optim.micro_batches
        (nll,) = in_micro_batches(lambda *each: (decoder(*each),), parts, mixture, mask, labels)
        return nll

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Groups for an optimiser: pretrained parameters and fresh ones, each with and without weight decay.

        Fresh ones, adapters among them, learn at ``head_learning_rate`` where it is set. Biases, normalisations and
        other vectors do not decay. A group without parameters is left out; frozen parameters are in none. Each
        group has a ``name``.
        """
        pretrained: set[int] = set()
        if self.text.pretrained and self.text.backbone is not None:
            named = self.text.backbone.named_parameters()
            pretrained |= {id(parameter) for name, parameter in named if not is_adapter(name)}
        if self.decoder is not None and self.config.decoder.kind == "t5":
            pretrained |= {id(parameter) for parameter in self.decoder.t5.parameters()}
        groups: dict[str, dict[str, Any]] = {}
        for parameter in self.parameters():
            if not parameter.requires_grad:
                continue
            old, decays = id(parameter) in pretrained, parameter.ndim > 1
            name = ("pretrained" if old else "fresh") + ("" if decays else ", no decay")
            rate = optim.learning_rate if old else (optim.head_learning_rate or optim.learning_rate)
            group = groups.setdefault(
                name, {"name": name, "params": [], "lr": rate, "weight_decay": optim.weight_decay if decays else 0.0}
            )
            group["params"].append(parameter)
        return list(groups.values())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, configuration and tokenizers; reading them back needs no hub and no pretrained weights.

        ``config.json`` is written last, each file under another name first, so an unfinished folder never loads.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.text.save(folder / TEXT_FOLDER, self._text_tokenizer)
        if self.decoder is not None:
            self.decoder.save(folder / DECODER_FOLDER, self._label_tokenizer)
        write_weights(merged_state(self), folder)
        write_config(self.config, self.feature_dim, folder)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str | torch.device = "cpu", *, decoder: bool = True
    ) -> SupportSetModel:
        """Load what `save_pretrained` wrote, in evaluation mode; without the decoder if only embeddings are wanted.

        Raises
        ------
        UsageError
            The folder holds no such model.
        SupportsetError
            Its files can't be read or don't fit each other.
        """
        folder = Path(folder)
        config, feature_dim = read_config(folder)
        writer, label_tokenizer = None, None
        with loading(folder):
            with torch.random.fork_rng(devices=[]):  # the weights it starts with are replaced: leave no trace of them
                text, text_tokenizer = restore_text_encoder(config.text, config.dim, folder / TEXT_FOLDER)
                if config.captions and decoder:
                    writer, label_tokenizer = restore_decoder(
                        config.decoder, config.video.width, folder / DECODER_FOLDER
                    )
                model = cls(config, feature_dim, text, text_tokenizer, writer, label_tokenizer)
            if writer is not None and len(_VOCABULARY & weight_names(folder)) > 1:  # of tied weights only one is there
                writer.untie()
            read_weights(model, folder, without=None if decoder else "decoder")
        return model.to(device).eval()


def _unit(vectors: Tensor) -> Tensor:
    with torch.autocast(vectors.device.type, enabled=False):
        return F.normalize(vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors, dim=-1)


def _log_scale(backbone: nn.Module | None, visual: FeatureCard | None, config: Config) -> float:
    """Logarithm of an encoder pair's scale, from the tower that the model has, or else from the pair's files."""
    if not isinstance(backbone, Tower):
        if visual is None:
            raise ValueError("loss.temperature = 'tower' belongs to a feature set: give its card")
        backbone = load_pair_tower(visual, config.text.name)
    if backbone.logit_scale is None:
        raise UsageError("loss.temperature = 'tower': this encoder pair has no temperature; give a number, as 0.01")
    return math.log(backbone.logit_scale)
