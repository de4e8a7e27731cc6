"""A trained model's folder: weights as safetensors, ``config.json``, and a folder for each tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from supportset.store.errors import SupportsetError, UsageError
from supportset.train.config import Config, parse_config

FORMAT, FORMAT_VERSION = "supportset-model", 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
# Each holds the tokenizer, and the configuration of the transformers model (word vectors have none).
TEXT_FOLDER, DECODER_FOLDER = "text_encoder", "decoder"


def write_weights(model: nn.Module, folder: Path) -> None:
    """Write all parameters and buffers; tied ones once."""
    _write(folder / WEIGHTS, lambda path: save_model(model, str(path), metadata={"format": "pt"}))


def read_weights(model: nn.Module, folder: Path) -> None:
    """Read all parameters and buffers; an absent or a superfluous one is an error (RuntimeError)."""
    load_model(model, str(folder / WEIGHTS))


def weight_names(folder: Path) -> set[str]:
    """Names in the weights' file; of tied ones only one is there."""
    with safe_open(str(folder / WEIGHTS), "pt") as content:
        return set(content.keys())


def write_config(config: Config, feature_dim: int, folder: Path) -> None:
    """Write ``config.json``, which completes the folder."""
    tree = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "feature_dim": feature_dim,
        "config": config.model_dump(mode="json"),
    }
    text = json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    _write(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def read_config(folder: Path) -> tuple[Config, int]:
    """Read the run's configuration and the features' dimension."""
    path = folder / CONFIG
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: no trained model here ({CONFIG} is absent); name a finished run's folder"
        ) from None
    except (OSError, ValueError) as error:
        raise SupportsetError(f"{path}: not readable as JSON: {error}; copy the folder again, or train again") from None
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise UsageError(f"{path}: not a model of this project (its format is not {FORMAT!r}); name a run's folder")
    if tree.get("format_version") != FORMAT_VERSION:
        raise UsageError(
            f"{path}: format version {tree.get('format_version')!r}, this program reads {FORMAT_VERSION}: update it"
        )
    if not isinstance(tree.get("feature_dim"), int):
        raise SupportsetError(f"{path}: damaged, feature_dim is absent; copy the folder again, or train again")
    return parse_config(tree.get("config", {}), str(path)), tree["feature_dim"]


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Say in one line what keeps a model from loading."""
    try:
        yield
    # Absent or unreadable files; sizes or names that don't fit the configuration; a cut or damaged weights file.
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise SupportsetError(
            f"{folder}: the model does not load ({reason}); copy the folder whole, or train again"
        ) from None


def _write(path: Path, write: Callable[[Path], object]) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    write(unfinished)
    os.replace(unfinished, path)
