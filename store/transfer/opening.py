"""Opening of features that other programs wrote."""

from __future__ import annotations

import os
from pathlib import Path

from supportset.store.errors import SupportsetError, UsageError
from supportset.store.files import local_path
from supportset.store.transfer.arrays import Fault
from supportset.store.transfer.containers import CONTAINERS
from supportset.store.transfer.sources import (
    IDS,
    OFFSETS,
    VALUES,
    ClipArrays,
    FolderOfFiles,
    Naming,
    OneTable,
    load_table,
    read_ids,
)


def open_source(path: str | Path, naming: Naming | None = None) -> ClipArrays:
    """Open features that other programs wrote.

    Parameters
    ----------
    path : str or Path
        A folder of one ``.npy``/``.npz``/``.pt`` a clip, at any depth; an ``.h5``/``.hdf5`` file of one dataset
        a clip (or one group a clip with a dataset in it); an ``.npz``, ``.safetensors`` or ``.pt`` file of one
        array a clip; an ``.npy`` array (N, D) or (N, T, D) with ``ids.txt`` beside it, or (ΣT, D) with
        ``offsets.npy`` too.
    naming : Naming, optional
        Rule from names to clip ids.

    Raises
    ------
    UsageError
        There is nothing to import, two names mean the same clip, or the id list does not match.
    SupportsetError
        The file cannot be read.
    """
    path, naming = local_path(path, "copy it to a local folder first"), naming or Naming()
    if path.is_dir():
        names = {entry.name for entry in os.scandir(path)}
        if not {VALUES, IDS} <= names or Path(VALUES).stem in read_ids(path / IDS):
            return FolderOfFiles(path, naming)
        path = path / VALUES
    if not path.is_file():
        raise UsageError(f"{path}: no such file or folder: check the path of the features")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        if naming.only is None and not path.with_name(IDS).is_file():
            raise UsageError(f"{path}: one array needs a list of its clips, one a line: name it with --id-list")
        offsets = path.with_name(OFFSETS)
        return OneTable(
            path, load_table(path), naming, None, load_table(offsets) if offsets.is_file() and offsets != path else None
        )
    if suffix in CONTAINERS:
        try:
            return CONTAINERS[suffix](path, naming)
        except Fault as fault:
            raise SupportsetError(f"{path}: {fault.message}") from None
    raise UsageError(
        f"{path}: {suffix or 'no suffix'}: features are imported from a folder of .npy, .npz or .pt files, "
        f"or from a file {', '.join(('.npy', *CONTAINERS))}"
    )
