"""Export of features in forms that other programs read: bit for bit, all or none."""

from __future__ import annotations

import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import pyarrow.compute as pc

from supportset.store.errors import UsageError
from supportset.store.files import TEMPORARY, local_path, sync_folder, telling
from supportset.store.format.index import has_features
from supportset.store.format.shard import Array
from supportset.store.read.feature_set import FeatureSet
from supportset.store.transfer.arrays import import_torch
from supportset.store.transfer.sources import IDS, OFFSETS, VALUES

Progress = Callable[[int, int], None]

NAME_BYTES = 255  # longest name in common file systems


@dataclass(frozen=True)
class Export:
    """Arrays to write, clip by clip.

    Attributes
    ----------
    what : str
        ``features`` or ``timestamps``.
    ids : sequence of str
        Ids of the clips, in the order of writing.
    lengths : sequence of int
        Steps of each.
    dtype : numpy.dtype
    width : int
        Each array is (T, width).
    arrays : callable
        Yields (clip id, (T, width) array) in that order.
    """

    what: str
    ids: Sequence[str]
    lengths: Sequence[int]
    dtype: np.dtype[Any]
    width: int
    arrays: Callable[[], Iterator[tuple[str, Array]]]


@dataclass(frozen=True)
class ExportSummary:
    """Outcome of an export.

    Attributes
    ----------
    path : Path
        Path of the features.
    timestamps : Path or None
        Path of the timestamps, if requested.
    form : str
        Key of :data:`FORMS`.
    layout : str
        Description of the form.
    clips : int
    steps : int
    bytes : int
        Size of the features.
    left_out : dict
        Clips that have no features, by status.
    """

    path: Path
    timestamps: Path | None
    form: str
    layout: str
    clips: int
    steps: int
    bytes: int
    left_out: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            **vars(self),
            "path": str(self.path),
            "timestamps": None if self.timestamps is None else str(self.timestamps),
        }


def export_features(
    features: FeatureSet,
    path: str | Path,
    form: str,
    *,
    timestamps: str | Path | None = None,
    progress: Progress | None = None,
) -> ExportSummary:
    """Export a feature set, and compare every clip with its checksum.

    Parameters
    ----------
    features : FeatureSet
        Feature set to export.
    path : str or Path
        Folder (``npy``, ``npz``, ``pt``, ``array``) or file (``hdf5``) to write; must not exist, or be an
        empty folder.
    form : str
        ``npy``, ``npz`` or ``pt``: one file a clip; ``hdf5``: one dataset a clip; ``array``: ``values.npy`` of
        (N, T, D) if all clips have the same length, else (ΣT, D) with ``offsets.npy``, and ``ids.txt``.
    timestamps : str or Path, optional
        Also write start and end of each step in seconds, (T, 2) float64, in the same form.
    progress : callable, optional
        Called with the number of clips done and of all.

    Raises
    ------
    UsageError
        The form is unknown, the destination exists, a clip id is impossible in this form, or there are no features.
    SupportsetError
        A clip does not match its checksum, or a file cannot be written: then nothing is left behind.
    """
    if form not in FORMS:
        raise UsageError(f"--to {form!r} is not known: use one of {', '.join(FORMS)}")
    ids = sorted(features.clip_ids)
    if not ids:
        raise UsageError(f"{features.path}: has no features to export")
    check, write, layout = FORMS[form]
    check(ids)
    targets = [local_path(each, "name a local folder or file") for each in (path, timestamps) if each is not None]
    path = targets[0]
    for target in targets:
        _refuse_taken(target, may_be_folder=form != "hdf5")
    if len({target.resolve() for target in targets}) < len(targets):
        raise UsageError(f"{path}: features and timestamps cannot go to the same place")
    lengths = features.lengths(ids).tolist()
    reader = copy(features)
    reader.check = True

    def arrays(what: str) -> Iterator[tuple[str, Array]]:
        for done, clip_id in enumerate(ids, 1):
            array = reader.read([clip_id])[0] if what == "features" else reader.read_timestamps([clip_id])
            yield clip_id, array
            if progress and what == "features":
                progress(done, len(ids))

    exports = [
        Export("features", ids, lengths, features.dtype, features.dim, lambda: arrays("features")),
        Export("timestamps", ids, lengths, np.dtype(np.float64), 2, lambda: arrays("timestamps")),
    ]
    with _all_or_nothing(targets) as places:
        for place, export in zip(places, exports, strict=False):
            write(place, export)
    steps = sum(lengths)
    return ExportSummary(
        path,
        None if timestamps is None else Path(timestamps),
        form,
        layout,
        len(ids),
        steps,
        steps * features.dim * features.dtype.itemsize,
        _without_features(features),
    )


def _without_features(features: FeatureSet) -> dict[str, int]:
    rows = features.rows()
    return dict(Counter(rows.filter(pc.invert(has_features(rows)))["status"].to_pylist()))


def _files(suffix: str, save: Callable[[IO[bytes], Export, Array], None]) -> Callable[[Path, Export], None]:
    """Make a writer of one file a clip."""

    def write(folder: Path, export: Export) -> None:
        folder.mkdir()
        for clip_id, array in export.arrays():
            path = folder / (clip_id + suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(path, "xb") as file:
                    save(file, export, array)
            except FileExistsError:
                raise UsageError(
                    f"clip {clip_id!r}: on this file system its name equals another clip's: use --to hdf5 or --to array"
                ) from None

    return write


def _save_npy(file: IO[bytes], export: Export, array: Array) -> None:
    np.save(file, array, allow_pickle=False)


def _save_npz(file: IO[bytes], export: Export, array: Array) -> None:
    named: dict[str, Any] = {export.what: array}
    np.savez(file, **named)


def _save_torch(file: IO[bytes], export: Export, array: Array) -> None:
    import_torch().save(import_torch().from_numpy(array), file)


def _write_hdf5(path: Path, export: Export) -> None:
    with h5py.File(path, "w-") as file:
        for clip_id, array in export.arrays():
            file.create_dataset(clip_id, data=array, track_times=False)


def _write_array(folder: Path, export: Export) -> None:
    folder.mkdir()
    count, steps = len(export.ids), sum(export.lengths)
    equal = len(set(export.lengths)) == 1
    shape = (count, export.lengths[0], export.width) if equal else (steps, export.width)
    table = np.lib.format.open_memmap(folder / VALUES, "w+", export.dtype, shape)
    rows = table.reshape(steps, export.width)
    start = 0
    for _, array in export.arrays():
        rows[start : start + len(array)] = array
        start += len(array)
    table.flush()
    if not equal:
        np.save(folder / OFFSETS, np.cumsum([0, *export.lengths], dtype=np.int64))
    (folder / IDS).write_text("".join(f"{clip_id}\n" for clip_id in export.ids), encoding="utf-8", newline="")


def _as_files(suffix: str) -> Callable[[Sequence[str]], None]:
    return lambda ids: _check_names(ids, suffix, others="--to hdf5 or --to array")


def _check_names(ids: Sequence[str], suffix: str, others: str) -> None:
    """Raise UsageError if an id cannot be a path below a folder, or a name is both a file and a folder."""
    folders = {clip_id[:end] for clip_id in ids for end, letter in enumerate(clip_id) if letter == "/"}
    for clip_id in ids:
        parts = (clip_id + suffix).split("/")
        if (
            any(part in ("", ".", "..") or (suffix and len(part.encode()) > NAME_BYTES) for part in parts)
            or "\0" in clip_id
        ):
            raise UsageError(f"clip {clip_id!r}: its id cannot be a name: use {others}")
        if clip_id + suffix in folders:
            raise UsageError(f"clip {clip_id!r}: its name is also a folder of others': use {others}")


def _check_lines(ids: Sequence[str]) -> None:
    """Raise UsageError if an id cannot be a line of a text file."""
    for clip_id in ids:
        if not clip_id.strip() or "\n" in clip_id or clip_id.endswith("\r") or clip_id.startswith("\ufeff"):
            raise UsageError(f"clip {clip_id!r}: its id cannot be a line of {IDS}: use another form than array")


def _refuse_taken(path: Path, *, may_be_folder: bool) -> None:
    with telling("look at the destination", path):
        if not os.path.lexists(path) or (may_be_folder and path.is_dir() and not os.listdir(path)):
            return
    kind = "is a folder that is not empty" if path.is_dir() and may_be_folder else "is there already"
    raise UsageError(f"{path}: {kind}: name another destination, or move it away")


@contextmanager
def _all_or_nothing(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield temporary paths, which are renamed to the targets after the block, or removed after an error."""
    final = [target.resolve() for target in targets]
    places = [target.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{target.name}") for target in final]
    try:
        with telling("write", targets[0]):
            for target in final:
                target.parent.mkdir(parents=True, exist_ok=True)
            yield places
            for place, target in zip(places, final, strict=True):
                os.rename(place, target)  # over an empty folder too
                sync_folder(target.parent)
    finally:
        for place in places:
            with suppress(OSError):
                if place.is_dir():
                    shutil.rmtree(place)
                else:
                    place.unlink(missing_ok=True)


# name -> (check of the ids, writer, description)
FORMS: dict[str, tuple[Callable[[Sequence[str]], None], Callable[[Path, Export], None], str]] = {
    "npy": (_as_files(".npy"), _files(".npy", _save_npy), "a folder of one .npy file a clip"),
    "npz": (_as_files(".npz"), _files(".npz", _save_npz), "a folder of one .npz file a clip"),
    "pt": (_as_files(".pt"), _files(".pt", _save_torch), "a folder of one .pt file a clip"),
    "hdf5": (
        lambda ids: _check_names(ids, "", others="--to array"),
        _write_hdf5,
        "an HDF5 file of one dataset a clip",
    ),
    "array": (_check_lines, _write_array, f"{VALUES} with {IDS}, and {OFFSETS} where clips differ in length"),
}
