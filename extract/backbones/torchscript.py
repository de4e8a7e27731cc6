"""Tensors of a TorchScript archive, read without running it.

``torch.jit.load`` runs code of the archive (``__setstate__`` of its classes), so it is never called. An archive is a
zip file with one pickle, ``data.pkl``, and one file a storage. This unpickler creates tensors, and plain nodes for
modules, and refuses every other global.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    f"{name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Char": torch.int8, "Byte": torch.uint8, "Short": torch.int16, "Int": torch.int32, "Long": torch.int64,
        "Bool": torch.bool,
    }.items()
}  # fmt: skip
_DAMAGE = (pickle.UnpicklingError, RuntimeError, KeyError, EOFError, TypeError, IndexError, AttributeError)
_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip file with ``constants.pkl``."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read all tensors of an archive by the names that they have in the module, as a state dict.

    Raises
    ------
    ValueError
        If the archive is damaged or holds anything but modules, tensors and plain values.
    """
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).rpartition("/")[0]
        try:
            with archive.open(f"{root}/data.pkl") as file:
                module = _TensorUnpickler(file, archive, root).load()
        except _DAMAGE as error:
            raise ValueError(f"its data.pkl cannot be read as tensors ({error})") from error
    return dict(_tensors(module, ""))


class _Node:
    """A module of the archive: its attributes, nothing else."""

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


class _TensorUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file)
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Node
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return _rebuild
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _first
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" and name in _LISTS:
            return _first
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not run")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it refers to a {kind!r}")
        if key not in self._storages:
            entry = self._archive.getinfo(f"{self._root}/data/{key}")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise pickle.UnpicklingError("its tensors are compressed, as PyTorch never writes them")
            content = bytearray(self._archive.read(entry))
            empty = torch.empty(0, dtype=dtype)
            self._storages[key] = torch.frombuffer(content, dtype=dtype) if content else empty
        return self._storages[key]


def _rebuild(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset)  # which refuses to read beyond the storage


def _first(value: Any, *_: Any) -> Any:
    return value


def _tensors(node: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in getattr(node, "state", {}).items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Node):
            yield from _tensors(value, f"{prefix}{name}.")
