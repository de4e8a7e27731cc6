"""A trained model's folder: weights as safetensors, ``config.json``, and a folder for each tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import xxhash
from safetensors import safe_open
from safetensors.torch import load_model, save
from torch import Tensor, nn

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import hash_file
from supportset.train.config import Config, parse_config
from supportset.train.sealed import sealed, unsealed

FORMAT, FORMAT_VERSION = "supportset-model", 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
# Each holds the tokenizer, and the configuration of the transformers model (word vectors have none).
TEXT_FOLDER, DECODER_FOLDER = "text_encoder", "decoder"
_HASH, _NO_HASH = "xxh3_128", "0" * 32  # of the file's bytes, with the hash itself as zeros


def write_weights(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write the parameters and buffers of a model's state, tied ones once; equal weights give equal files.

    The header's metadata has a hash of the file, which `read_weights` checks.
    """
    tensors: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in sorted(state.items()):
        if (place := (tensor.data_ptr(), tensor.shape)) not in seen or not tensor.numel():
            tensors[name] = tensor.detach().contiguous().cpu()
        seen.add(place)
    content = memoryview(save(tensors))
    data = 8 + int.from_bytes(content[:8], "little")
    # The library orders what is in the header at random.
    header = json.loads(bytes(content[8:data])) | {"__metadata__": {"format": "pt", _HASH: _NO_HASH}}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    digest = xxhash.xxh3_128(head)
    digest.update(content[data:])
    head = head.replace(_NO_HASH.encode(), digest.hexdigest().encode(), 1)

    def put(path: Path) -> None:
        with open(path, "wb") as file:  # by ourselves, so that its mode follows the umask
            file.write(head)
            file.write(content[data:])

    _write(folder / WEIGHTS, put)


def read_weights(model: nn.Module, folder: Path, without: str | None = None) -> None:
    """Read all parameters and buffers; those of the part ``without`` may be in the file and not in the model.

    Raises
    ------
    RuntimeError
        If one is absent or superfluous, or the file is not the one that was written.
    """
    _check(folder / WEIGHTS)
    absent, superfluous = load_model(model, str(folder / WEIGHTS), strict=without is None)
    if wrong := [*absent, *(name for name in superfluous if not name.startswith(f"{without}."))]:
        raise RuntimeError(f"its weights do not fit the model: {wrong[0]}")


def _check(path: Path) -> None:
    """Compare the file with its hash, where it has one: models of earlier versions have none."""
    with open(path, "rb") as file:
        size = file.read(8)
        text = file.read(min(int.from_bytes(size, "little"), path.stat().st_size))
        header = json.loads(text)
        # By its value, so that damage to its name does not hide it. Earlier versions had names of tied weights there.
        others = [each for each in header.get("__metadata__", {}).items() if each[1] not in header]
        known = next((value for name, value in others if (name, value) != ("format", "pt")), None)
        if known is None:
            return
        digest = xxhash.xxh3_128(size + text.replace(known.encode(), _NO_HASH.encode(), 1))
        while piece := file.read(1 << 22):
            digest.update(piece)
    if digest.hexdigest() != known:
        raise RuntimeError(f"{WEIGHTS} is damaged: its hash is another than the one it was written with")


def weight_names(folder: Path) -> set[str]:
    """Return the names in the weights' file; of tied weights it has only one."""
    with safe_open(str(folder / WEIGHTS), "pt") as content:
        return set(content.keys())


def write_config(config: Config, feature_dim: int, folder: Path) -> None:
    """Write ``config.json``, which completes the folder: it has the hashes of the tokenizers' files, and its own."""
    tree = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "feature_dim": feature_dim,
        "config": config.model_dump(mode="json"),
        "files": _beside(folder),
    }
    text = json.dumps(sealed(tree), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    _write(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def read_config(folder: Path) -> tuple[Config, int]:
    """Read the run's configuration and D of its features.

    Raises
    ------
    UsageError
        If the folder has no model, or one of another format.
    SupportsetError
        If the file is damaged, or one of the tokenizers' files.
    """
    path = folder / CONFIG
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: no trained model here ({CONFIG} is absent); name a finished run's folder"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise SupportsetError(f"{path}: not readable as JSON: {error}; copy the folder again, or train again") from None
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise UsageError(f"{path}: not a model of this project (its format is not {FORMAT!r}); name a run's folder")
    if tree.get("format_version") != FORMAT_VERSION:
        raise UsageError(
            f"{path}: format version {tree.get('format_version')!r}, this program reads {FORMAT_VERSION}: update it"
        )
    tree = unsealed(tree, path)
    if not isinstance(tree.get("feature_dim"), int) or not isinstance(tree.get("files", {}), dict):
        raise SupportsetError(f"{path}: damaged at feature_dim or files; copy the folder again, or train again")
    there = _beside(folder)
    for name, written in tree.get("files", {}).items():
        if there.get(name) != written:
            raise SupportsetError(f"{folder / name}: missing, or not the file that was written; copy the folder again")
    return parse_config(tree.get("config", {}), str(path)), tree["feature_dim"]


def check_model(folder: Path) -> None:
    """Compare the files of a model with their hashes.

    Raises
    ------
    SupportsetError
        One is damaged or missing.
    """
    read_config(folder)
    with loading(folder):
        _check(folder / WEIGHTS)


def _beside(folder: Path) -> dict[str, str]:
    """Hashes of the tokenizers' files."""
    files = [file for name in (TEXT_FOLDER, DECODER_FOLDER) for file in sorted((folder / name).rglob("*"))]
    return {file.relative_to(folder).as_posix(): hash_file(file) for file in files if file.is_file()}


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Turn what keeps a model from loading into one line."""
    try:
        yield
    except SupportsetError:
        raise
    # Absent or unreadable files; sizes or names that don't fit the configuration; a cut or damaged weights file; of a
    # damaged tokenizer its library raises a plain Exception.
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise SupportsetError(
            f"{folder}: the model does not load ({reason}); copy the complete folder again, or train again"
        ) from None


def _write(path: Path, write: Callable[[Path], object]) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    write(unfinished)
    os.replace(unfinished, path)
