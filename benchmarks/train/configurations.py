"""The configurations that are measured: those that are shipped, on the made-up data and with random T5 weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration
from transformers.utils import logging as transformers_logging

from benchmarks.train.made_up import IMAGES, PROTOCOL, VIDEOS, WORDS, set_names
from benchmarks.train.plan import Sizes
from supportset.train.config import Config, load_config
from supportset.train.model.weights.tokenizers import fit_tokenizer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PAPER = CONFIGS / "paper-msrvtt.toml"
STUDY = CONFIGS / "ablations" / "base" / "flickr8k-frozen.toml"

_TOKENIZER = "t5_tokenizer"


def write_t5(folder: Path, shape: dict[str, int], vocabulary: int, texts: Sequence[str], real: Path) -> Path:
    """A T5 of random weights as a folder, with T5's own tokenizer where it is here, else one fitted on the captions."""
    there = real / _TOKENIZER
    own = there.is_dir() and vocabulary >= 32128
    tokenizer: Any = AutoTokenizer.from_pretrained(there) if own else fit_tokenizer(texts, vocabulary)
    transformers_logging.disable_progress_bar()
    config = T5Config(vocab_size=vocabulary, num_decoder_layers=shape["num_layers"], decoder_start_token_id=0, **shape)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def paper(t5: Path, sizes: Sizes, **sections: dict[str, Any]) -> Config:
    """``configs/paper-msrvtt.toml`` with this T5 in the place of T5-base; nothing is held out."""
    given: dict[str, dict[str, Any]] = {
        "data": {"dataset": VIDEOS, "features": set_names(VIDEOS), "protocol": PROTOCOL, "holdout": 0.0},
        "text": {"name": str(t5)},
        "decoder": {"name": str(t5)},
        "optim": {"batch_size": sizes.batch, "select_by": "last"},
    }
    if sizes.narrow:
        given |= {"video": {"width": 32}, "text": {"name": str(t5), "width": 32}}
    return load_config(PAPER, [*(["dim=32"] if sizes.narrow else []), *_overrides(given, sections)])


def study(sizes: Sizes, **sections: dict[str, Any]) -> Config:
    """The base of the Flickr8k studies on two cores, as it is shipped but for the data's names."""
    given: dict[str, dict[str, Any]] = {
        "data": {"dataset": IMAGES, "features": set_names(IMAGES), "protocol": PROTOCOL, "holdout": 0.0},
        "text": {"features": WORDS},
        "optim": {"select_by": "last"} | ({"batch_size": sizes.batch} if sizes.narrow else {}),
    }
    return load_config(STUDY, _overrides(given, sections))


def _overrides(*trees: dict[str, dict[str, Any]]) -> list[str]:
    merged: dict[str, Any] = {}
    for tree in trees:
        for section, values in tree.items():
            merged |= {f"{section}.{key}": value for key, value in values.items()}
    return [f"{key}={_toml(value)}" for key, value in merged.items()]


def _toml(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
