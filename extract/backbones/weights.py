"""Where parameters come from: a hub that may be out of reach, or a file that may be the wrong one.

Libraries report both in many ways: retries in the log, a traceback, or a partly filled model and no word. Here each
becomes one line.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import pickle
import socket
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from supportset.extract.backbones.torchscript import is_torchscript, read_torchscript
from supportset.store.errors import UsageError

# What the libraries raise on files that are damaged or of another kind, configurations included
UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError,
               TypeError, AttributeError, AssertionError)  # fmt: skip

NO_DOWNLOAD = ", or use --backbone efficientnet_lite:0, which needs no download"  # ends the line on a hub out of reach


def first_line(error: BaseException, limit: int = 160) -> str:
    """Return the message of an exception as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in text:
        text = "it needs Python code beside the model, which is never run"
    elif isinstance(error, pickle.UnpicklingError) or "weights_only" in text:
        text = "it holds pickled objects other than tensors, which could run code: save a plain state dict"
    return text if len(text) <= limit else text[: limit - 1] + "…"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the model libraries from writing to the log and adding handlers to it while they load."""
    root, names = logging.getLogger(), ("huggingface_hub", "transformers", "timm", "open_clip")
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    # open_clip logs through the root logger itself, which adds a handler for good where there is none
    handler = None if root.handlers else logging.lastResort
    if handler:
        root.addHandler(handler)
    root.addFilter(_refuse)  # only what is logged to the root logger itself: our own warnings still arrive
    try:
        for logger, _ in before:
            logger.setLevel(logging.CRITICAL)
        # some classes of transformers print to standard output when they are imported
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in before:
            logger.setLevel(level)
        root.removeFilter(_refuse)
        if handler:
            root.removeHandler(handler)


def _refuse(record: logging.LogRecord) -> bool:
    return False


@contextmanager
def from_hub(name: str, fix: str, kind: str = "backbone", what: str = "") -> Iterator[None]:
    """Turn failures of calls that may download into a UsageError that names the fix, and ``what`` is to be fetched.

    If the hub's name does not resolve, only its local cache is used, without retries.
    """
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    resolves = _resolves(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = offline or not resolves
    try:
        with quiet_libraries(), no_remote_code():
            yield
    except UNREADABLE + _network_errors() as error:
        cause = first_line(error) if resolves and not offline else f"no network: {constants.ENDPOINT} does not resolve"
        if offline:
            cause = "HF_HUB_OFFLINE is set"
        without = NO_DOWNLOAD if kind == "backbone" else ""
        raise UsageError(
            f"{kind} {name}: its weights are not a local path and cannot be downloaded from the hub "
            f"({cause}): download them{what and f', {what},'} where there is a network and name them by path, "
            f"{fix}{without}"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline


@contextmanager
def from_file(name: str, path: Path, kind: str = "backbone") -> Iterator[None]:
    """Turn failures of calls that read ``path`` into a UsageError that names the file."""
    try:
        with quiet_libraries(), no_remote_code(), _no_progress_bars():
            yield
    except UNREADABLE as error:
        raise UsageError(
            f"{path}: cannot be loaded as the weights of {kind} {name} ({first_line(error)}): "
            "give a file or folder that was saved from this model"
        ) from error


@contextmanager
def no_remote_code() -> Iterator[None]:
    """Let transformers refuse code beside a model, in every library that calls it, instead of asking on the terminal.

    Also where a configuration beside the model says that its code is to be trusted, as open_clip's can.
    """
    if "transformers" not in sys.modules:
        yield
        return
    from transformers import dynamic_module_utils as remote

    before = remote.TIME_OUT_REMOTE_CODE, remote.get_class_in_module
    remote.TIME_OUT_REMOTE_CODE = 0  # no time for an answer: a call that does not say trust_remote_code is refused
    remote.get_class_in_module = _refuse_code  # what imports the file
    try:
        yield
    finally:
        remote.TIME_OUT_REMOTE_CODE, remote.get_class_in_module = before


def _refuse_code(*args: object, **options: object) -> type:
    raise ValueError("trust_remote_code: it needs Python code beside the model, which is never run")


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars while it reads a file; bars of downloads are left alone."""
    shown = "transformers" in sys.modules
    if shown:
        from transformers.utils import logging as bars

        shown = bars.is_progress_bar_enabled()
    if not shown:
        yield
        return
    bars.disable_progress_bar()
    try:
        yield
    finally:
        bars.enable_progress_bar()


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a ``.safetensors`` file, a file of ``torch.save``, or TorchScript; nothing of it is run.

    A dict under ``state_dict`` or ``model`` is unwrapped, averaged weights first, and a prefix of all names that
    ``DataParallel`` or ``torch.compile`` adds is removed.
    """
    loaded: Any
    if path.suffix == ".safetensors":
        loaded = load_file(path)
    elif is_torchscript(path):
        loaded = read_torchscript(path)
    else:
        with torch.serialization.safe_globals([argparse.Namespace]):  # options that training scripts store
            loaded = torch.load(path, "cpu", weights_only=True)
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError("it holds no state dict")
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in loaded):
            loaded = {name.removeprefix(prefix): value for name, value in loaded.items()}
    return dict(loaded)


def fill(model: nn.Module, state: Mapping[str, Tensor], *, ignore: tuple[str, ...] = ()) -> None:
    """Load ``state`` into ``model``, every entry of both; names that start with one of ``ignore`` may remain unused.

    Raises
    ------
    ValueError
        If an entry is missing, unused, or of another shape.
    """
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(state) - {name for name in wanted if name.endswith("num_batches_tracked")})
    extra = sorted(name for name in set(state) - set(wanted) if not name.startswith(ignore or ("\0",)))
    wrong = sorted(name for name in set(state) & set(wanted) if state[name].shape != wanted[name].shape)
    for problem, names in (("lacks", missing), ("does not know", extra), ("has another shape for", wrong)):
        if names:
            of_all = f" and {len(names) - 1} more" if len(names) > 1 else ""
            subject = "the model" if problem == "does not know" else "it"
            raise ValueError(f"{subject} {problem} {names[0]}{of_all}")
    model.load_state_dict({name: value for name, value in state.items() if name in wanted}, strict=False)


def only_file(folder: Path) -> Path:
    """Return the one weights file of a folder, preferring safetensors; ValueError if there is none or more than one."""
    for suffixes in ((".safetensors",), (".bin", ".pt", ".pth")):
        found = sorted(path for path in folder.iterdir() if path.suffix in suffixes)
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"it holds several weights files: {', '.join(path.name for path in found)}")
    raise ValueError("it holds no .safetensors, .bin, .pt or .pth file")


def split_folder(model: str, path: Path | None) -> tuple[str, Path | None]:
    """Read ``FAMILY:FOLDER``: a model name that is a folder becomes the path, with an empty model name."""
    folder = Path(model).expanduser()
    return ("", folder) if path is None and model and folder.is_dir() else (model, path)


def refuse_missing(names: Iterable[str]) -> None:
    """Raise ValueError if a library filled a model only partly: ``names`` are the parameters that the file lacks."""
    if missing := sorted(names):
        raise ValueError(f"the weights lack {missing[0]}" + f" and {len(missing) - 1} more" * (len(missing) > 1))


def _resolves(address: str) -> bool:
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # the proxy resolves names
    try:
        socket.getaddrinfo(urlsplit(address).hostname, 443)
    except OSError:
        return False
    return True


def _network_errors() -> tuple[type[Exception], ...]:
    """The errors of the HTTP library that huggingface_hub uses, which differs between its releases."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
