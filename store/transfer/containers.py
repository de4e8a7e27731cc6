"""Files of one array a clip: HDF5, ``.npz``, ``.safetensors``, and dicts of tensors in ``.pt``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

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
    open_npz,
    reading,
    tensor_array,
)
from supportset.store.transfer.hdf5_arrays import Hdf5Arrays
from supportset.store.transfer.sources import ClipArrays, Naming, OneFile, OneTable

# Names of the ids of a table's rows, and of what may be beside them, at the top of a file.
ID_KEYS = ("ids", "clip_ids", "video_ids", "caption_ids", "names", "keys")
BESIDE = ("offsets", "timestamps", "times", "lengths")
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


def _opened(path: Path, names: list[str], naming: Naming, get: Callable[[str], Array], form: str) -> ClipArrays:
    """One table with the ids of its rows, or one array a clip."""
    at_top = {name for name in names if "/" not in name}
    usual = next((name for name in USUAL_KEYS if name in at_top), None)
    value = naming.key if naming.key in at_top else usual
    ids = next((name for name in ID_KEYS if name in at_top), None)
    if value is None or at_top - {value, ids, *BESIDE} or len(names) > len(at_top):
        return Container(path, names, naming, get, form)
    if ids is None and naming.only is None:
        raise UsageError(
            f"{path}: one array, {value!r}, of all clips needs their ids, one a row: add them to the file as "
            f"{ID_KEYS[0]!r}, or name a list with --id-list"
        )
    rows = _text_ids(get(ids), path) if ids is not None else None
    offsets = get("offsets") if "offsets" in at_top else None
    return OneTable(path, get(value), naming, rows, offsets)


def _text_ids(array: Array, path: Path) -> list[str]:
    """Ids from an array of strings, of bytes or of numbers."""
    if array.ndim != 1 or array.dtype.kind not in "SUOiu":
        raise Fault("unreadable", f"its ids are {array.dtype} {array.shape}, not (N,) strings")
    try:
        return [each.decode() if isinstance(each, bytes) else str(each) for each in array.tolist()]
    except UnicodeDecodeError as error:
        raise Fault("unreadable", f"its ids are not UTF-8 ({error.reason})") from None


def _open_npz(path: Path, naming: Naming) -> ClipArrays:
    file = reading(lambda: open_npz(path))
    if isinstance(file, np.ndarray):
        raise Fault("unreadable", "is one .npy array by its content: rename it to .npy")
    form = "an .npz file of one array a clip"
    return _opened(path, file.files, naming, lambda name: reading(lambda: np.asarray(file[name])), form)


def _open_hdf5(path: Path, naming: Naming) -> ClipArrays:
    try:
        arrays = Hdf5Arrays(path, naming.follow_links)
    except DAMAGE as error:
        raise SupportsetError(f"{path}: not readable as HDF5 ({one_line(error)}): write it anew") from None
    source = _opened(path, arrays.names, naming, arrays.read, "an HDF5 file of one dataset a clip")
    source.others = arrays.others
    return source


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
        return OneTable(path, tensor_array(loaded), naming)
    tensors = dict(_flat(loaded))
    form = "a .pt file with a dict of one tensor a clip"
    return _opened(path, list(tensors), naming, lambda name: _tensor_or_ids(tensors[name]), form)


def _tensor_or_ids(value: Any) -> Array:
    """A tensor as an array, and a list of ids too."""
    return np.array(value, object) if isinstance(value, list | tuple) else tensor_array(value)


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
