"""Arrays of other programs: ``.npy``, ``.npz``, safetensors, Parquet, Arrow, HDF5. Nothing in a file is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supportset.store.errors import UsageError
from supportset.store.transfer.arrays import DAMAGE, Fault, one_line, open_npz, reading

CLIP_KEYS = ("clip_ids", "clip_id", "video_ids", "video_id")
CAPTION_KEYS = ("ids", "id", "caption_ids", "caption_id", "query_ids", "query_id", "names")
VALUE_KEYS = ("embeddings", "embedding", "features", "values", "vector", "scores", "emb")


Read = tuple[NDArray[Any], tuple[Any, ...]]  # values; ids of captions and of clips, or None


@dataclass(frozen=True, eq=False)
class Table:
    """An array of a file, and its ids where the file has them.

    Attributes
    ----------
    path : Path
    values : (N, d) float
        Mapped where the format allows it.
    ids : tuple of str, optional
        One a row.
    clips : tuple of str, optional
        The clip of each row, where the file names captions and clips.
    """

    path: Path
    values: NDArray[Any]
    ids: tuple[str, ...] | None = None
    clips: tuple[str, ...] | None = None


def read_table(path: str | Path, what: str = "embeddings") -> Table:
    """Read an array of N rows by the file's extension.

    Parameters
    ----------
    path : str or Path
        A file with one array of two dimensions: ``.npy``; ``.npz``, ``.safetensors``, ``.h5``, where a second array
        ``ids`` may name the rows; ``.parquet``, ``.arrow``, ``.feather`` with a column of lists and one of ids.
    what : str
        What it is, for messages.

    Raises
    ------
    UsageError
        No such file, an unknown extension, a damaged file, several arrays, pickles, or values that are no numbers.
    """
    path = Path(path)
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise UsageError(f"{path}: {path.suffix or 'no extension'} is not one of {', '.join(READERS)}: save it as .npy")
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        values, names = read(path)
    except Fault as fault:
        raise UsageError(f"{path}: {fault.message}") from None
    if values.dtype.kind not in "fiu" and values.dtype.name != "bfloat16":
        raise UsageError(f"{path}: holds {values.dtype}, not numbers: save {what} as float32")
    if values.ndim != 2 or not values.shape[0] or not values.shape[1]:
        mend = "pool the steps of each row to one vector first" if values.ndim == 3 else "one row an item is needed"
        raise UsageError(
            f"{path}: has the shape {values.shape}, not (rows, {'columns' if what == 'scores' else 'd'}): {mend}"
        )
    for ids in names:
        if ids is not None and len(ids) != len(values):
            raise UsageError(f"{path}: has {len(ids):,} ids and {len(values):,} rows")
    caption, clip = (None if ids is None else tuple(map(_text, ids)) for ids in names)
    return Table(path, values, clip if caption is None else caption, None if caption is None else clip)


def check_values(table: Table, of: str) -> tuple[str, ...]:
    """Notes on rows that are not finite, and on lengths other than 1.

    Rows that are not finite are misses, and count against all other rows; lengths mean nothing to a cosine.
    """
    lengths = np.concatenate([np.linalg.norm(np.asarray(part, np.float64), axis=1) for part in _parts(table.values)])
    broken = np.flatnonzero(~np.isfinite(lengths))
    notes = []
    if len(broken):
        name = table.ids[broken[0]] if table.ids else f"row {broken[0]}"
        notes.append(
            f"{table.path}: {len(broken):,} {of}, such as {name!r}, are not finite: never found, and before the right "
            "answer of others: omit them"
        )
    if len(zero := np.flatnonzero(lengths == 0)):
        name = table.ids[zero[0]] if table.ids else f"row {zero[0]}"
        notes.append(f"{table.path}: {len(zero):,} {of}, such as {name!r}, are zero: they tie with each other")
    rest = lengths[np.isfinite(lengths) & (lengths > 0)]
    if len(rest) and (abs(rest - 1) > 1e-2).any():
        notes.append(
            f"{table.path}: vectors have lengths from {rest.min():.3g} to {rest.max():.3g}, scaled to 1: scores are "
            "cosines (for inner products give the score matrix)"
        )
    return tuple(notes)


def _parts(values: NDArray[Any], rows: int = 65536) -> list[NDArray[Any]]:
    return [values[start : start + rows] for start in range(0, len(values), rows)]


def _npy(path: Path) -> Read:
    try:
        found = reading(lambda: np.load(path, mmap_mode="r", allow_pickle=False))
    except Fault as fault:
        if "Python objects" not in fault.message:
            raise
        found = reading(lambda: open_npz(path))  # says that pickles are refused
    if not isinstance(found, np.ndarray):
        raise Fault("unreadable", "is an .npz file by its content: rename it to .npz")
    return found, (None, None)


def _npz(path: Path) -> Read:
    file = reading(lambda: open_npz(path))
    if isinstance(file, np.ndarray):
        raise Fault("unreadable", "is one .npy array by its content: rename it to .npy")
    with file:
        return _chosen(file.files, lambda name: reading(lambda: np.asarray(file[name])))


def _safetensors(path: Path) -> Read:
    from safetensors import SafetensorError, safe_open

    damage = (*DAMAGE, SafetensorError)

    def get(name: str) -> NDArray[Any]:
        found: NDArray[Any] = reading(lambda: file.get_tensor(name), damage)
        return found

    file = reading(lambda: safe_open(path, framework="numpy"), damage)
    names = list(file.keys())
    for name in names:
        if file.get_slice(name).get_dtype() == "BF16":
            raise Fault("wrong_dtype", f"{name!r} is bfloat16, which NumPy has not: save it as float32")
    return _chosen(names, get)


def _hdf5(path: Path) -> Read:
    from supportset.store.transfer.hdf5_arrays import Hdf5Arrays

    try:
        arrays = Hdf5Arrays(path)
    except DAMAGE as error:
        raise Fault("unreadable", f"not readable as HDF5 ({one_line(error)})") from None
    return _chosen(arrays.names, arrays.read)


def _chosen(names: list[str], get: Callable[[str], NDArray[Any]]) -> Read:
    """The array of values and the ids, by name; else the only array besides the ids."""
    caption, clip = _id_names(names)
    others = [name for name in names if name not in (caption, clip)]
    value = next((name for name in VALUE_KEYS if name in others), None)
    if value is None:
        if len(others) != 1:
            shown = ", ".join(others[:5]) or "none"
            raise Fault("unreadable", f"holds the arrays {shown}: name the one to score {VALUE_KEYS[0]!r}")
        value = others[0]
    return get(value), tuple(None if name is None else get(name).tolist() for name in (caption, clip))


def _id_names(names: list[str]) -> list[str | None]:
    """Which of the names hold ids: of captions (or of whatever a row is), and of clips."""
    return [next((name for name in keys if name in names), None) for keys in (CAPTION_KEYS, CLIP_KEYS)]


def _parquet(path: Path) -> Read:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return _columns(reading(lambda: pq.read_table(path), (*DAMAGE, pa.ArrowException)))


def _arrow(path: Path) -> Read:
    import pyarrow as pa

    def read() -> Any:
        with pa.memory_map(str(path)) as file:
            try:
                return pa.ipc.open_file(file).read_all()
            except pa.ArrowInvalid:
                file.seek(0)
                return pa.ipc.open_stream(file).read_all()

    return _columns(reading(read, (*DAMAGE, pa.ArrowException)))


def _columns(table: Any) -> Read:
    """A column of lists of one length, or all columns of numbers; and the column of ids."""
    import pyarrow as pa

    ids = _id_names(table.column_names)
    others = [name for name in table.column_names if name not in ids]
    lists = [name for name in others if pa.types.is_list(table[name].type) or pa.types.is_large_list(table[name].type)]
    lists += [name for name in others if pa.types.is_fixed_size_list(table[name].type)]
    value = next((name for name in VALUE_KEYS if name in lists), lists[0] if len(lists) == 1 else None)
    names = tuple(None if name is None else table[name].to_pylist() for name in ids)
    if value is not None:
        column = table[value].combine_chunks()
        flat = column.flatten()
        if column.null_count or flat.null_count or not len(column) or len(flat) % len(column):
            raise Fault("wrong_shape", f"column {value!r} has rows of different lengths, or empty ones")
        if not pa.types.is_fixed_size_list(column.type) and len(set(np.diff(column.offsets.to_numpy()))) > 1:
            raise Fault("wrong_shape", f"column {value!r} has rows of different lengths")
        return flat.to_numpy(zero_copy_only=False).reshape(len(column), -1), names
    numbers = [
        name for name in others if pa.types.is_floating(table[name].type) or pa.types.is_integer(table[name].type)
    ]
    if lists or len(numbers) != len(others) or not numbers:
        raise Fault(
            "unreadable", f"has columns {', '.join(table.column_names[:6])}: name the one of vectors 'embedding'"
        )
    return np.column_stack([table[name].to_numpy() for name in numbers]), names


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


READERS: dict[str, Callable[[Path], Read]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
}
