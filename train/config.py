"""Configuration of one training run: TOML in, validated, every default in one place.

Values marked ``(*)`` are our best reading of the paper and not confirmed by
its text; the ``configs/paper-*.toml`` files state them all in full. ``docs/configuration.md`` is generated from here.
"""

from __future__ import annotations

import math
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from supportset.store.errors import UsageError
from supportset.train.known_configs import find_config
from supportset.train.registry import AGGREGATION, CAPTIONING, CONTRASTIVE

_NAME = re.compile(r"[^\W_][\w .,=+()-]*")  # of a run: it names a folder

# Keys of earlier versions, which still load.
RENAMED = {
    "data.max_words": "data.max_tokens",
    "loss.weight": "loss.caption_weight",
    "optim.accumulate": "optim.micro_batches",
    "optim.clip_norm": "optim.max_grad_norm",
}
_hinted: set[str] = set()


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values are not coerced across kinds."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


SectionT = TypeVar("SectionT", bound=Section)


def _plain_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"name = {name!r} names a folder: use letters, digits, spaces and .,_-+=() only, a letter or digit first"
        )
    return name


def _warmup(name: str) -> str:
    try:
        return name if name in ("none", "summed") else CONTRASTIVE.check(name)
    except ValueError as error:
        raise ValueError(str(error).replace("loss.contrastive", "loss.warmup", 1) + ", none, summed") from None


class DataConfig(Section):
    """Which dataset, features and protocol a run reads, and how batches are cut."""

    dataset: str = Field(description="Name of the dataset in the store.")
    features: list[str] = Field(
        min_length=1,
        description="Feature sets, each by words of its name; several are concatenated step by step. "
        "`store ls` lists them.",
    )
    protocol: str = Field(description="Name of the protocol, which defines the splits; `protocols` lists them.")
    train_split: str = Field("train", description="Split that is trained on.")
    validation_split: str = Field(
        "",
        description="Split on which models are selected, never the test split. Empty: a part `holdout` of the training "
        "clips, cut off by source video so that no source is on both sides.",
    )
    holdout: float = Field(
        0.05, ge=0.0, lt=1.0, description="Part of the training clips held out where `validation_split` is empty."
    )
    max_steps: int = Field(64, ge=1, description="Longest feature sequence; longer ones are thinned evenly.")
    max_tokens: int = Field(
        32, ge=2, description="Longest caption, in tokens; longer ones are cut. A tower cuts at its own."
    )
    captions_per_clip: Literal["one", "all"] = Field(
        "all", description="An epoch shows one random caption a clip, or every caption."
    )
    bucket: int = Field(
        1,
        ge=1,
        description="Number of batches that are cut together, by length. A larger number means less padding, so faster "
        "steps, but the negatives of a caption (or of a clip) are then of about its length. 1: at random.",
    )
    bucket_by: Literal["caption", "clip"] = Field(
        "caption", description="Whose length `bucket` sorts by: what the slower of the two encoders reads."
    )
    place: Literal["auto", "gpu", "ram", "disk"] = Field(
        "auto",
        description="Where the training features are kept: GPU memory, RAM, or the store's files, read batch by batch. "
        "`auto`: the first of these with enough space. Only speed depends on it.",
    )
    check: bool = Field(True, description="Compare every clip that is read with its checksum.")

    @field_validator("features", mode="before")
    @classmethod
    def _one_set(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value  # on the command line: data.features=NAME


class VideoConfig(Section):
    """The video head (paper section 3.3)."""

    aggregation: Annotated[str, AfterValidator(AGGREGATION.check)] = Field(
        "transformer", description="How a clip's steps become its embedding and its codes."
    )
    width: int = Field(1024, ge=1, description="d_e, width of the video codes. (*)")
    layers: int = Field(2, ge=1, description="Blocks of the head.")
    heads: int = Field(4, ge=1, description="Attention heads. (*)")
    kernel: int = Field(3, ge=1, description="Width of the temporal convolution, in steps. (*)")
    norm: Literal["batch", "layer"] = Field(
        "batch", description="Normalisation; batch statistics are over unpadded steps. (*)"
    )
    dropout: float = Field(0.3, ge=0.0, lt=1.0, description="Dropout of the head; 0 for ActivityNet. (*)")
    init: Literal["random", "identity"] = Field(
        "random",
        description="`identity`: the embedding is that of the first feature set without training (mean over the steps, "
        "each of unit length) plus the head, whose last layer starts at zero. `dim` must be that set's. `random`: the "
        "head alone.",
    )


class TextConfig(Section):
    """The text encoder and its head."""

    encoder: Literal["t5", "hf", "scratch", "words", "tower"] = Field(
        "t5",
        description="`t5`: a T5 encoder. `hf`: any Hugging Face encoder. `scratch`: a T5 encoder of the sizes below, "
        "with random weights and a tokenizer fitted on the training captions. `words`: trained word vectors. `tower`: "
        "the text tower of the pair that made the first feature set; its embedding is where training starts, and `dim` "
        "is its length. With `features` only the difference between `tower` and the others counts.",
    )
    name: str = Field(
        "t5-base",
        description="Local folder or hub name of the weights, for `t5` and `hf`. For `tower`, whose default is empty: "
        "the pair's name or path on this machine, as for `extract --backbone`, where it is not the one that the "
        "feature set records. Ignored with `features`.",
    )
    features: str = Field(
        "",
        description="Words that name a text feature set in the store (`extract-text`): a frozen encoder has run, "
        "and only the head is trained. Empty: the encoder is part of the model.",
    )
    finetune: bool = Field(True, description="Train the encoder's weights. With `features`: false.")
    lora: int = Field(
        0,
        ge=0,
        description="Rank of LoRA adapters in the linear layers of the `tower`, which `finetune` then trains in place "
        "of its weights (needs `peft`). 0: the weights themselves.",
    )
    encoder_dropout: bool = Field(True, description="Keep the encoder's own dropout while it is fine-tuned. (*)")
    head: Literal["gru", "mean", "none"] = Field(
        "gru",
        description="`gru`: the video head with a GRU in place of the convolution. `mean`: mean over the tokens. "
        "`none`: the first token. With `tower`, whose default is `none`, a head is added to the tower's embedding and "
        "its last layer starts at zero; `none`: no head, nothing is added. (*)",
    )
    width: int = Field(512, ge=1, description="Width of `scratch`, `words` and the `gru` head. (*)")
    layers: int = Field(2, ge=1, description="Layers of `scratch` and of the `gru` head.")
    heads: int = Field(4, ge=1, description="Attention heads of `scratch` and of the `gru` head. (*)")
    norm: Literal["batch", "layer"] = Field("batch", description="Normalisation of the head. (*)")
    dropout: float = Field(0.3, ge=0.0, lt=1.0, description="Dropout of the head, and of `scratch`.")
    vocabulary: int = Field(8000, ge=16, description="Size of the fitted tokenizer, for `scratch` and `words`.")

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        frozen = {"finetune": False} if tree.get("features") else {}
        return frozen | ({"name": "", "head": "none"} if tree.get("encoder") == "tower" else {}) | tree

    @model_validator(mode="after")
    def _no_finetuning_of_features(self) -> TextConfig:
        if self.features and self.finetune:
            raise ValueError(
                f"text.features = {self.features!r} were made by a frozen encoder: set text.finetune = false"
            )
        if self.lora and not (self.encoder == "tower" and self.finetune):
            raise ValueError(
                f"text.lora = {self.lora} adapts a tower that is part of the model: set text.encoder = 'tower' and "
                "text.finetune = true, without text.features"
            )
        return self


class DecoderConfig(Section):
    """The caption decoder, which is not used at test time."""

    kind: Literal["t5", "scratch"] = Field(
        "t5", description="`t5`: a pretrained T5 decoder. `scratch`: one of the sizes below with random weights."
    )
    name: str = Field("t5-base", description="Local folder or hub name of the weights, for `t5`.")
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="Dropout of either kind; 0.1 is T5's own. (*)")
    width: int = Field(512, ge=1, description="Width of `scratch`.")
    layers: int = Field(2, ge=1, description="Layers of `scratch`.")
    heads: int = Field(4, ge=1, description="Attention heads of `scratch`.")
    vocabulary: int = Field(8000, ge=16, description="Size of the fitted tokenizer of `scratch`.")


class SupportConfig(Section):
    """The support set (paper section 3.2)."""

    captioning: Annotated[str, AfterValidator(CAPTIONING.check)] = Field(
        "cross", description="Which clips a caption is reconstructed from, and with which weights."
    )
    temperature: float = Field(0.1, gt=0.0, description="T, of the softmax over the support set. (*)")
    size: int | None = Field(
        None,
        ge=1,
        description="Clips of a caption's support set, its own included where the variant uses it, drawn at random. "
        "Unset: all.",
    )
    bank: int | str = Field(
        0, description='Clips of earlier batches kept in the memory bank, or `"all"`: every training clip.'
    )
    max_age: int | None = Field(
        None,
        ge=1,
        description="Steps after which an entry of the bank is dropped. Unset: it stays until its place is needed.",
    )
    top_k: int | None = Field(
        None,
        ge=1,
        description="Only the clips most similar to the caption, its own included where the variant uses it. "
        "Unset: all.",
    )
    text_gradient: bool = Field(
        True, description="Whether the gradient of captioning flows through the weights into the text embeddings."
    )
    video_gradient: bool = Field(True, description="The same, into the video embeddings.")
    mask_sources: bool = Field(
        False, description="Exclude clips of the caption's source video from its support set, as its own clip is."
    )

    @model_validator(mode="after")
    def _has_a_support_set(self) -> SupportConfig:
        if self.bank != "all" and (isinstance(self.bank, str) or self.bank < 0):
            raise ValueError(f"support.bank = {self.bank!r}: a number of clips, 0 for none, or 'all'")
        keys = ("size", "bank", "top_k", "text_gradient", "video_gradient")
        changed = [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]
        if changed and not CAPTIONING.load(self.captioning).others:
            raise ValueError(
                f"support.{changed[0]} = {getattr(self, changed[0])!r} changes nothing with support.captioning = "
                f"{self.captioning!r}, which uses no other clip: leave it out"
            )
        if self.max_age is not None and not self.bank:
            raise ValueError(f"support.max_age = {self.max_age} is of the memory bank's entries: set support.bank too")
        return self


class LossConfig(Section):
    """The contrastive loss and the weight of captioning."""

    contrastive: Annotated[str, AfterValidator(CONTRASTIVE.check)] = Field(
        "hinge", description="The contrastive loss, L_con."
    )
    intra: bool = Field(False, description="Add the negatives within a modality: captions, clips.")
    margin: float = Field(0.2, gt=0.0, description="Margin of `hinge`. (*)")
    negatives: Literal["hardest", "summed"] = Field("hardest", description="Negatives of `hinge`.")
    temperature: float | Literal["tower"] = Field(
        0.05,
        description="Temperature of `infonce`, above 0. `tower`: starts as that of the encoder pair and is learned, "
        "with `text.encoder = tower`.",
    )
    caption_weight: float = Field(10.0, ge=0.0, description="Weight λ of L_cap. (*)")
    warmup: Annotated[str, AfterValidator(_warmup)] = Field(
        "infonce",
        description="What replaces `hinge` with hardest negatives in the first epochs, because it collapses when text "
        "is trained from scratch (the loss stays at twice the margin): `none`, `summed` negatives, or another "
        "contrastive loss. The paper has none.",
    )
    warmup_epochs: float = Field(1.0, ge=0.0, description="Epochs of this warm-up.")

    @field_validator("temperature", mode="before")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value != "tower" and not (is_number and 0 < value < math.inf):
            shown = f"{value:g}" if is_number else repr(value)
            raise ValueError(f"loss.temperature = {shown}: give a number above 0, or 'tower'")
        return value


class OptimConfig(Section):
    """Optimisation and the loop."""

    epochs: int = Field(20, ge=0, description="Epochs; 28 on ActivityNet. 0: the model as it starts. (*)")
    max_steps: int | None = Field(None, ge=1, description="Stop after so many steps, for trials.")
    batch_size: int = Field(64, ge=2, description="Captions a step, of all processes together. (*)")
    micro_batches: int = Field(
        1,
        ge=1,
        description="Parts in which a process's batch is computed where it does not fit into memory. Negatives and "
        "support sets stay those of the whole batch. Costs one more forward pass; layer norm only.",
    )
    learning_rate: float = Field(5e-5, gt=0.0, description="Learning rate of Adam. (*)")
    head_learning_rate: float | None = Field(
        None, gt=0.0, description="Learning rate of modules without pretrained weights. Unset: the same."
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Learning rate after `warmup_steps`; the last two fall to 0. (*)"
    )
    warmup_steps: int = Field(0, ge=0, description="Steps of a linear rise of the learning rate.")
    weight_decay: float = Field(0.0, ge=0.0, description="Weight decay of matrices; vectors do not decay.")
    max_grad_norm: float = Field(0.2, gt=0.0, description="Norm at which gradients are clipped. (*)")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Precision of the forward pass. `fp16` needs a CUDA device."
    )
    select_by: Literal["rsum", "t2v/R@1", "last"] = Field(
        "rsum",
        description="Validation score by which the saved model is selected, or the last epoch. A run that starts at "
        "`video.init = identity` is scored before its first step, too, and keeps that model if training only harms.",
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after so many epochs without a better validation score. Unset: never."
    )
    log_every: int = Field(20, ge=1, description="Steps between records in metrics.jsonl.")
    checkpoint_every: int = Field(
        1000, ge=1, description="Steps between checkpoints, in addition to one after each epoch."
    )


class Config(Section):
    """A training run."""

    name: Annotated[str, AfterValidator(_plain_name)] = Field(
        min_length=1, description="Name of the run; `runs/NAME` is its folder."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random numbers.")
    dim: int = Field(1024, ge=1, description="d, width of the joint space. (*)")
    data: DataConfig
    video: VideoConfig = VideoConfig()
    text: TextConfig = TextConfig()
    decoder: DecoderConfig = DecoderConfig()
    support: SupportConfig = SupportConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()

    @property
    def captions(self) -> bool:
        """Whether there is a captioning loss, and so a decoder."""
        return CAPTIONING.load(self.support.captioning).support is not None

    @model_validator(mode="after")
    def _heads_divide(self) -> Config:
        for section in ("video", "text", "decoder"):
            part = getattr(self, section)
            if part.width % part.heads:
                raise ValueError(f"{section}.width {part.width} is not a multiple of {section}.heads {part.heads}")
        if self.optim.micro_batches > 1:
            for section in ("video", "text") if self.text.head == "gru" else ("video",):
                if getattr(self, section).norm == "batch":
                    raise ValueError(
                        f"optim.micro_batches = {self.optim.micro_batches} needs {section}.norm = 'layer': batch norm "
                        "would see one part of the batch at a time"
                    )
        if self.loss.temperature == "tower":
            if self.text.encoder != "tower":
                raise ValueError("loss.temperature = 'tower' needs text.encoder = 'tower': set that, or a number")
            if "temperature" not in CONTRASTIVE.load(self.loss.contrastive).keys:
                raise ValueError(
                    f"loss.contrastive = {self.loss.contrastive!r} has no temperature: leave loss.temperature out"
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
    path : str or Path
        A TOML file, or the name of a configuration that comes with the package, such as ``demo``. Its ``base`` names
        another one, beside it or of the package, whose values it has where it gives none.
    overrides : sequence of str
        ``section.key=value``; the value is read as TOML, or as a plain string where that fails.

    Raises
    ------
    UsageError
        Absent or malformed file, unknown key (with the nearest known one), value of a wrong type or range.
    """
    path = find_config(path)
    tree = read_tree(path)
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree, str(path))


def read_tree(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a configuration as a tree, with the values of its ``base`` where it gives none; ``above`` names it."""
    tree = read_toml(path)
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UsageError(f"{path}: base = {base!r}: the name of another configuration, as 'msrvtt.toml'")
    above = (*above, path.resolve())
    below = find_config(base, beside=path.parent)
    if below.resolve() in above:
        raise UsageError(f"{path}: base = {base!r} leads back to this file")
    return merged(read_tree(below, above), tree)


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A tree with some values replaced, section by section."""
    result = dict(tree)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file as a tree, old keys by their new names; UsageError where it is absent or malformed."""
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such configuration file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path}: not readable as TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{path}: not readable as TOML: nested too deeply") from None
    return renewed(tree, str(path))


def parse_config(tree: dict[str, Any], source: str) -> Config:
    """Validate a configuration tree, which may have old keys; ``source`` names it in errors."""
    return validated(Config, renewed(tree, source), source)


def validated(kind: type[SectionT], tree: dict[str, Any], source: str) -> SectionT:
    """Validate a tree of any kind of section; ``source`` names it in errors."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"{source}: " + "; ".join(_in_words(kind, problem) for problem in error.errors())) from None


def renewed(tree: Mapping[str, Any], source: str, section: str = "") -> dict[str, Any]:
    """Rename the keys of earlier versions, at any depth: in ``[overrides]`` and ``[variants.x.search]`` of a grid, too.

    Each old key is mentioned once on standard error. ``section`` is the key that the tree is the value of.

    Raises
    ------
    UsageError
        If a key is there by both names.
    """
    result: dict[str, Any] = {}
    for key, value in tree.items():
        prefix = "" if "." in key else f"{section}."
        new = _new_name(prefix + key, source).removeprefix(prefix)
        if new != key and new in tree:
            raise UsageError(f"{source}: {prefix}{key} is the old name of {prefix}{new}: give one of them")
        result[new] = renewed(value, source, key) if isinstance(value, Mapping) else value
    return result


def _new_name(key: str, source: str) -> str:
    new = RENAMED.get(key, key)
    if new != key and key not in _hinted:
        _hinted.add(key)
        print(f"{source}: {key} is now called {new}; the old name still works", file=sys.stderr)
    return new


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a tree to ``section.key`` -> value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def without_effect(config: Config) -> set[str]:
    """Return the keys that change nothing of such a run, whatever their values."""
    variant = CAPTIONING.load(config.support.captioning)
    idle = {f"loss.{key}" for key in ("margin", "negatives", "temperature", "warmup", "warmup_epochs")}
    idle -= {f"loss.{key}" for key in CONTRASTIVE.load(config.loss.contrastive).keys}
    if not variant.others:
        idle.add("support.temperature")
    return idle if variant.support is not None else idle | {"loss.caption_weight"}


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"override {override!r} is not of the form section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    except RecursionError:
        raise UsageError(f"override of {key.strip()}: the value is nested too deeply") from None
    *sections, last = _new_name(key.strip(), "command line").split(".")
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
