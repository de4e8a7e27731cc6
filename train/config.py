"""Configuration of one training run: TOML in, validated, every default in one place.

Values marked ``(*)`` are our best reading of the paper and not confirmed by
its text; the ``configs/paper-*.toml`` files state them all in full.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from supportset.store.errors import UsageError
from supportset.train.known_configs import find_config


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values are not coerced across kinds."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


SectionT = TypeVar("SectionT", bound=Section)


class DataConfig(Section):
    """Which dataset, features and protocol a run reads, and how batches are cut."""

    dataset: str
    features: list[str] = Field(min_length=1)
    protocol: str
    train_split: str = "train"
    # Where models are selected. Empty: a share `holdout` of the training clips, cut off by source
    # video so that no source stands on both sides. Never the test split.
    validation_split: str = ""
    holdout: float = Field(0.05, ge=0.0, lt=1.0)
    max_steps: int = Field(64, ge=1)  # longest feature sequence; longer ones are thinned evenly
    max_words: int = Field(32, ge=2)  # longest caption, in tokens; longer ones are cut
    captions_per_clip: Literal["one", "all"] = "all"  # an epoch: one random caption a clip, or every caption
    # Batches cut together, by length: less padding, so faster, but the negatives of a caption (or of a clip) are then
    # of about its length. 1: at random.
    bucket: int = Field(1, ge=1)
    bucket_by: Literal["caption", "clip"] = "caption"  # whose length: what the slower of the two towers reads
    # Where the training features lie: the GPU's memory, RAM, or the files of the store, read batch by batch; auto: the
    # first of these with room to spare. Nothing but speed depends on it.
    place: Literal["auto", "gpu", "ram", "disk"] = "auto"
    check: bool = True  # compare every clip that is read with its checksum


class VideoConfig(Section):
    """The video head (paper section 3.3)."""

    aggregation: Literal["transformer", "attention", "max", "mean"] = "transformer"
    width: int = Field(1024, ge=1)  # d_e, of the video codes
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)  # (*)
    kernel: int = Field(3, ge=1)  # temporal convolution (*)
    norm: Literal["batch", "layer"] = "batch"  # (*)
    dropout: float = Field(0.3, ge=0.0, lt=1.0)


class TextConfig(Section):
    """The text encoder and its head.

    ``encoder``: ``t5`` (a T5 encoder), ``hf`` (any Hugging Face encoder) or ``scratch`` (a T5 encoder of the
    sizes below, random weights, tokenizer fitted on the training captions) or ``words`` (trained word vectors).

    ``features`` names a text feature set, as ``data.features`` do those of the clips: a frozen encoder has run before
    (``extract-text``), and only the head is left. Then ``encoder``, ``name`` and ``vocabulary`` say nothing.
    """

    encoder: Literal["t5", "hf", "scratch", "words"] = "t5"
    name: str = "t5-base"  # local folder or hub name, for `t5` and `hf`
    features: str = ""  # words that name a text feature set; empty: the encoder is part of the model
    finetune: bool = True  # false is all that `features` can be, and what they make the default
    encoder_dropout: bool = True  # keep the pretrained encoder's own dropout while it is fine-tuned
    head: Literal["gru", "mean", "none"] = "gru"  # gru (*): the video head with a GRU in place of the convolution
    width: int = Field(512, ge=1)  # model width of `scratch` and `words`, and of the `gru` head
    layers: int = Field(2, ge=1)  # of `scratch`, and of the `gru` head
    heads: int = Field(4, ge=1)
    norm: Literal["batch", "layer"] = "batch"  # (*) of the head
    dropout: float = Field(0.3, ge=0.0, lt=1.0)
    vocabulary: int = Field(8000, ge=16)  # of the fitted tokenizer, for `scratch` and `words`

    @model_validator(mode="before")
    @classmethod
    def _features_are_frozen(cls, tree: Any) -> Any:
        return {"finetune": False, **tree} if isinstance(tree, dict) and tree.get("features") else tree

    @model_validator(mode="after")
    def _no_finetuning_of_features(self) -> TextConfig:
        if self.features and self.finetune:
            raise ValueError(
                f"text.features = {self.features!r} were made by a frozen encoder: set text.finetune = false"
            )
        return self


class DecoderConfig(Section):
    """The caption decoder, thrown away at test time."""

    kind: Literal["t5", "scratch"] = "t5"
    name: str = "t5-base"
    dropout: float = Field(0.1, ge=0.0, lt=1.0)  # of either kind; 0.1 is T5's own
    width: int = Field(512, ge=1)  # the rest: sizes of `scratch`
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    vocabulary: int = Field(8000, ge=16)


class SupportConfig(Section):
    """The support set (paper section 3.2)."""

    captioning: Literal["none", "identity", "full", "hybrid", "cross"] = "cross"
    temperature: float = Field(0.1, gt=0.0)  # (*)
    # Clips of a caption's support set, its own included where the variant has it, drawn at random from those it may
    # have; unset: all.
    size: int | None = Field(None, ge=1)
    # Clips of earlier batches that are kept to support captions, or "all": every training clip. See memory_bank.py.
    bank: int | str = 0
    max_age: int | None = Field(None, ge=1)  # of the bank's entries, in steps; unset: until their place is needed
    # Only the clips most similar to the caption, its own among them where the variant has it; unset: all. And whether
    # captioning teaches each side of the similarities that the weights are made of; with neither, the weights are the
    # contrastive loss's alone, and captioning teaches what is mixed. Why one would: docs/results.md.
    top_k: int | None = Field(None, ge=1)
    text_gradient: bool = True
    video_gradient: bool = True
    mask_sources: bool = False  # clips of the caption's source video support it no more than its own clip does

    @model_validator(mode="after")
    def _has_a_support_set(self) -> SupportConfig:
        if self.bank != "all" and (isinstance(self.bank, str) or self.bank < 0):
            raise ValueError(f"support.bank = {self.bank!r}: a number of clips, 0 for none, or 'all'")
        if self.captioning in ("none", "identity"):
            for key in ("size", "bank", "top_k", "text_gradient", "video_gradient"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(
                        f"support.{key} = {getattr(self, key)!r} changes nothing with support.captioning = "
                        f"{self.captioning!r}, which looks at no other clip: leave it out"
                    )
        if self.max_age is not None and not self.bank:
            raise ValueError(f"support.max_age = {self.max_age} is of the memory bank's entries: set support.bank too")
        return self


class LossConfig(Section):
    """The contrastive loss and the weight of captioning."""

    contrastive: Literal["hinge", "infonce"] = "hinge"
    intra: bool = False  # add the intra-modal term (ablation)
    margin: float = Field(0.2, gt=0.0)  # (*)
    negatives: Literal["hardest", "summed"] = "hardest"
    temperature: float = Field(0.05, gt=0.0)  # of infonce
    weight: float = Field(10.0, ge=0.0)  # λ (*)
    # The hinge loss with hardest negatives collapses when text is trained from scratch (it stays at 2α):
    # for the first epochs another kind of negatives is used. The paper has none.
    warmup: Literal["none", "summed", "infonce"] = "infonce"
    warmup_epochs: float = Field(1.0, ge=0.0)


class OptimConfig(Section):
    """Optimisation and the loop."""

    epochs: int = Field(20, ge=1)
    max_steps: int | None = Field(None, ge=1)  # stop early by steps, for trials
    batch_size: int = Field(64, ge=2)  # captions a step, of all processes together
    # Parts that a batch, or a process's share of it, is computed in, where it does not fit into memory whole; negatives
    # and support sets stay those of the whole batch. Costs one more forward pass; layer norm only.
    accumulate: int = Field(1, ge=1)
    learning_rate: float = Field(5e-5, gt=0.0)  # (*)
    head_learning_rate: float | None = Field(None, gt=0.0)  # of modules without pretrained weights; null: the same
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)  # of the learning rate
    weight_decay: float = Field(0.0, ge=0.0)
    clip_norm: float = Field(0.2, gt=0.0)  # (*)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    select_by: Literal["rsum", "t2v/R@1", "last"] = "rsum"  # on validation
    patience: int | None = Field(None, ge=1)  # epochs without a better validation score
    log_every: int = Field(20, ge=1)  # steps between records in metrics.jsonl
    checkpoint_every: int = Field(1000, ge=1)  # steps between checkpoints, besides one after each epoch


class Config(Section):
    """A whole run."""

    name: str = Field(min_length=1)
    seed: int = Field(0, ge=0, lt=2**63)
    dim: int = Field(1024, ge=1)  # d, the joint space (*)
    data: DataConfig
    video: VideoConfig = VideoConfig()
    text: TextConfig = TextConfig()
    decoder: DecoderConfig = DecoderConfig()
    support: SupportConfig = SupportConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()

    @model_validator(mode="after")
    def _heads_divide(self) -> Config:
        for section in ("video", "text", "decoder"):
            part = getattr(self, section)
            if part.width % part.heads:
                raise ValueError(f"{section}.width {part.width} is not a multiple of {section}.heads {part.heads}")
        if self.optim.accumulate > 1:
            for section in ("video", "text") if self.text.head == "gru" else ("video",):
                if getattr(self, section).norm == "batch":
                    raise ValueError(
                        f"optim.accumulate = {self.optim.accumulate} needs {section}.norm = 'layer': batch norm would "
                        "see one part of the batch at a time"
                    )
        if isinstance(self.support.bank, int) and 0 < self.support.bank < self.optim.batch_size:
            raise ValueError(
                f"support.bank = {self.support.bank} is smaller than a batch of {self.optim.batch_size}; to have fewer "
                "clips in a support set, use support.size"
            )
        return self


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read a TOML configuration and apply ``key=value`` overrides.

    Parameters
    ----------
    path : path of a TOML file, or the name of a configuration that comes with the package, such as ``demo``
    overrides : ``section.key=value`` strings; the value is read as TOML, or as a plain string where that fails

    Raises
    ------
    UsageError
        Absent or malformed file, unknown key (with the nearest known one), value of a wrong type or range.
    """
    path = find_config(path)
    tree = read_toml(path)
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree, str(path))


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file as a tree; UsageError where it is absent or malformed."""
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path}: not readable as TOML: {error}") from None


def parse_config(tree: dict[str, Any], source: str) -> Config:
    """Validate a configuration tree; ``source`` names it in errors."""
    return validated(Config, tree, source)


def validated(kind: type[SectionT], tree: dict[str, Any], source: str) -> SectionT:
    """Validate a tree of any kind of section; ``source`` names it in errors."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"{source}: " + "; ".join(_in_words(kind, problem) for problem in error.errors())) from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"override {override!r} is not of the form section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise UsageError(f"override {override!r}: {section} is a value, not a section")
    tree[last] = value


def _in_words(kind: type[Section], problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_nearest(kind, problem['loc'])}"
    if problem["type"] == "missing":
        return f"key {key!r} is missing"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return f"{key} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _nearest(kind: type[Section], location: tuple[Any, ...]) -> str:
    from difflib import get_close_matches

    section: Any = kind
    for part in location[:-1]:
        section = section.model_fields[part].annotation
        section = next((each for each in get_args(section) if each is not type(None)), section)  # of an optional one
    known = list(section.model_fields)
    close = get_close_matches(str(location[-1]), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"
