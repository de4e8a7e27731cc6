"""Features as other programs leave them, for the tests of import; each writer takes {clip id: array}."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.numpy import save_file

Arrays = Mapping[str, np.ndarray[Any, Any]]


def folder(suffix: str, save: Callable[[Path, np.ndarray[Any, Any]], Any]) -> Callable[[Path, Arrays], Path]:
    """Writer of one file a clip."""

    def write(root: Path, arrays: Arrays) -> Path:
        for clip_id, array in arrays.items():
            path = root / f"{clip_id}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, array)
        return root

    return write


npy_folder = folder(".npy", np.save)
npz_folder = folder(".npz", lambda path, array: np.savez(path, anything=array))
npz_compressed = folder(".npz", lambda path, array: np.savez_compressed(path, features=array, other=array * 0))
pt_folder = folder(".pt", lambda path, array: torch.save(torch.from_numpy(array.copy()), path))
pt_dicts = folder(".pth", lambda path, array: torch.save({"features": torch.from_numpy(array.copy()), "n": 3}, path))


def hdf5(root: Path, arrays: Arrays, inner: str = "", **options: Any) -> Path:
    """One file of one dataset a clip, or of one group a clip with a dataset ``inner``."""
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "all.h5", "w") as file:
        for clip_id, array in arrays.items():
            file.create_dataset(f"{clip_id}/{inner}" if inner else clip_id, data=array, **options)
    return root / "all.h5"


def hdf5_groups(root: Path, arrays: Arrays) -> Path:
    """One group a clip, always with the same name inside."""
    return hdf5(root, arrays, "embedding", chunks=True, compression="gzip")


def npz_file(root: Path, arrays: Arrays) -> Path:
    """One .npz with an entry a clip."""
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "all.npz", **arrays)
    return root / "all.npz"


def safetensors_file(root: Path, arrays: Arrays) -> Path:
    """One .safetensors with an entry a clip."""
    root.mkdir(parents=True, exist_ok=True)
    save_file({clip_id: np.ascontiguousarray(array) for clip_id, array in arrays.items()}, root / "all.safetensors")
    return root / "all.safetensors"


def pt_file(root: Path, arrays: Arrays) -> Path:
    """One .pt with a dict of tensors."""
    root.mkdir(parents=True, exist_ok=True)
    torch.save({clip_id: torch.from_numpy(array.copy()) for clip_id, array in arrays.items()}, root / "all.pt")
    return root / "all.pt"


def ragged_table(root: Path, arrays: Arrays) -> Path:
    """(ΣT, D) with offsets and an id list."""
    root.mkdir(parents=True, exist_ok=True)
    np.save(root / "values.npy", np.concatenate(list(arrays.values())))
    np.save(root / "offsets.npy", np.cumsum([0, *(len(array) for array in arrays.values())]))
    (root / "ids.txt").write_text("\n".join(arrays), encoding="utf-8")
    return root


# Forms that hold clips of any length.
WRITERS: dict[str, Callable[[Path, Arrays], Path]] = {
    "npy": npy_folder,
    "npz": npz_folder,
    "npz compressed": npz_compressed,
    "pt": pt_folder,
    "pt dicts": pt_dicts,
    "hdf5": hdf5,
    "hdf5 groups": hdf5_groups,
    "npz file": npz_file,
    "safetensors": safetensors_file,
    "pt file": pt_file,
    "ragged table": ragged_table,
}


def arrays(count: int = 7, dim: int = 5, dtype: str = "float32", seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Clips of different lengths, with negative zeros, subnormals and extremes among their values."""
    rng = np.random.default_rng(seed)
    odd = np.array([-0.0, np.finfo(dtype).tiny / 4, np.finfo(dtype).max, np.finfo(dtype).min, 1.0], dtype)
    found = {}
    for i in range(count):
        found[f"clip{i}"] = rng.standard_normal((int(rng.integers(1, 9)), dim)).astype(dtype)
        found[f"clip{i}"][0] = np.resize(odd, dim)
    return found
