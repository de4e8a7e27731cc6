"""Files of one array a clip: HDF5, ``.npz``, ``.safetensors``, and dicts of tensors in ``.pt``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.format.shard import Array
from supportset.store.transfer.arrays import (
    DAMAGE,
    TORCH_FILES,
    USUAL_KEYS,
    Fault,
    load_torch,
    one_line,
    reading,
    tensor_array,
)
from supportset.store.transfer.sources import ClipArrays, Naming, OneFile, OneTable

HDF5_FILES = (".h5", ".hdf5", ".hdf")


class Container(OneFile):
    """A file of named arrays.

    Parameters
    ----------
    path : Path
        Of the file.
    names : iterable of str
        Names of its arrays, with ``/`` between the parts.
    naming : Naming
        Rule from names to clip ids.
    get : callable
        Reads an array by name; raises Fault.
    """

    def __init__(
        self, path: Path, names: Iterable[str], naming: Naming, get: Callable[[str], Array], form: str
    ) -> None:
        self.form = form
        self._get = get
        self._names = naming.by_id(clip_names(list(names), naming, path), path)
        super().__init__(path, self._names, naming)

    def _place(self, clip_id: str) -> str:
        return self._names[clip_id]

    def _array(self, clip_id: str) -> Array:
        return self._get(self._names[clip_id])


def clip_names(names: list[str], naming: Naming, path: Path) -> Iterator[tuple[str, str]]:
    """Return pairs (name of the clip, name of the array).

    An array has the name of its clip (``video1``, ``train/video1``), or its group has (``video1/features``). The second
    is assumed if ``key`` is given, if every group holds one array of the same name, or if every group holds
    ``features``. With ``id_from = path`` and without ``key``, the full name is the clip's.
    """
    inner = naming.key or (_inner_name(names) if naming.id_from == "stem" else None)
    if inner is None:
        return ((name, name) for name in names)
    inside = [name for name in names if name.endswith(f"/{inner}")]
    if not inside:
        there = ", ".join(sorted({name.rpartition("/")[2] for name in names})[:5])
        raise UsageError(f"{path}: no array is named {inner!r} inside a clip's group; there are {there}: change --key")
    return ((name.rpartition("/")[0], name) for name in inside)


def _inner_name(names: list[str]) -> str | None:
    groups: dict[str, set[str]] = {}
    for name in names:
        group, _, leaf = name.rpartition("/")
        groups.setdefault(group, set()).add(leaf)
    if "" in groups or not groups:
        return None
    for usual in USUAL_KEYS:
        if all(usual in leaves for leaves in groups.values()):
            return usual
    first = next(iter(groups.values()))
    alike = len(groups) > 1 and len(first) == 1 and all(leaves == first for leaves in groups.values())
    return next(iter(first)) if alike else None


def _open_npz(path: Path, naming: Naming) -> ClipArrays:
    file = reading(lambda: np.load(path, allow_pickle=False))
    if isinstance(file, np.ndarray):
        raise Fault("unreadable", "is a .npy file by its content: rename it to .npy")
    return Container(
        path,
        file.files,
        naming,
        lambda name: reading(lambda: np.asarray(file[name])),
        "an .npz file of one array a clip",
    )


def _open_hdf5(path: Path, naming: Naming) -> ClipArrays:
    names: list[str] = []

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            names.append(name)

    try:
        file = h5py.File(path, "r")
        file.visititems(note)
    except DAMAGE as error:
        raise SupportsetError(f"{path}: not readable as HDF5 ({one_line(error)}): write it anew") from None
    return Container(
        path,
        names,
        naming,
        lambda name: reading(lambda: np.asarray(file[name][()])),
        "an HDF5 file of one dataset a clip",
    )


def _open_safetensors(path: Path, naming: Naming) -> ClipArrays:
    from safetensors import SafetensorError, safe_open

    damage = (*DAMAGE, SafetensorError)

    def get(name: str) -> Array:
        if stored_dtype(name) != "BF16":
            array: Array = reading(lambda: file.get_tensor(name), damage)
            return array
        with safe_open(path, framework="pt") as tensors:  # NumPy has no bfloat16
            return tensor_array(reading(lambda: tensors.get_tensor(name), damage))

    def stored_dtype(name: str) -> str:
        return str(reading(lambda: file.get_slice(name).get_dtype(), damage))

    file = reading(lambda: safe_open(path, framework="numpy"), damage)
    return Container(path, list(file.keys()), naming, get, "a .safetensors file of one array a clip")


def _open_torch(path: Path, naming: Naming) -> ClipArrays:
    loaded = load_torch(path)
    if not isinstance(loaded, dict):
        if naming.only is None:
            raise UsageError(f"{path}: one tensor needs a list of its clips, one a line: name it with --id-list")
        return OneTable(path, tensor_array(loaded), naming.only, None)
    tensors = dict(_flat(loaded))
    return Container(
        path, tensors, naming, lambda name: tensor_array(tensors[name]), "a .pt file with a dict of one tensor a clip"
    )


def _flat(tree: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


CONTAINERS: dict[str, Callable[[Path, Naming], ClipArrays]] = {
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
    **dict.fromkeys(HDF5_FILES, _open_hdf5),
    **dict.fromkeys(TORCH_FILES, _open_torch),
}
