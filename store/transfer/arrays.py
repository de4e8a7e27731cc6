"""Arrays from files of other programs. No code in a file is run: pickles are refused."""

from __future__ import annotations

import io
import pickle
import re
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from supportset.store.errors import UsageError
from supportset.store.format.shard import Array

NUMPY_FILES = (".npy", ".npz")
TORCH_FILES = (".pt", ".pth")
FREE_BYTES = 64 << 20  # that any array may take
MAX_RATIO = 100  # of a larger array to its bytes in the file: more is a decompression bomb
USUAL_KEYS = ("features", "values")  # used without --key if a file or a group holds several arrays

# Exceptions of numpy, zipfile and h5py for files that are damaged, truncated, or of another type.
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    SyntaxError,
    OverflowError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,  # numpy parses a header's text as Python literals
)
# Further exceptions of torch.load's restricted unpickler.
TORCH_DAMAGE = (*DAMAGE, pickle.UnpicklingError, AttributeError, IndexError, ImportError, AssertionError)


class Fault(Exception):  # noqa: N818 - becomes a failure row, not an error
    """Fault of one clip's file or array.

    Attributes
    ----------
    status : str
        Status of the failure row, such as ``unreadable`` or ``wrong_shape``.
    message : str
        One line.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = one_line(message)


def one_line(message: object, limit: int = 200) -> str:
    """Shorten a message to one line, without terminal colours."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(message)).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def parse_file(content: bytes, suffix: str, key: str | None = None) -> Array:
    """Parse the array in a file of one clip.

    Parameters
    ----------
    content : bytes
        Of the file.
    suffix : str
        ``.npy``, ``.npz``, ``.pt`` or ``.pth``.
    key : str, optional
        Name of the array, if the file holds several (``.npz``, or a dict of tensors).

    Raises
    ------
    Fault
        The file cannot be read, or holds several arrays and none is selected.
    """
    if not content:
        raise Fault("unreadable", "the file is empty")
    if suffix in TORCH_FILES:
        loaded = load_torch(io.BytesIO(content))
        if isinstance(loaded, dict):
            tensors = {str(name): value for name, value in loaded.items()}
            return tensor_array(tensors[pick(list(tensors), key)])
        return tensor_array(loaded)
    try:
        opened = open_npz(io.BytesIO(content))
        if isinstance(opened, np.lib.npyio.NpzFile):
            with opened:
                return np.asarray(opened[pick(opened.files, key)])
        return np.asarray(opened)
    except DAMAGE as error:
        raise damaged(error) from None


def refuse_bomb(size: int, stored: int, bounded: bool = False) -> None:
    """Raise Fault for an array that takes far more memory than its file has bytes.

    Parameters
    ----------
    size : int
        Bytes of the array.
    stored : int
        Bytes that it takes in the file.
    bounded : bool, default False
        Whether its values are in other files, so that ``stored`` says nothing.
    """
    if not bounded and size > FREE_BYTES and size > MAX_RATIO * stored:
        raise Fault("out_of_memory", f"{stored:,} bytes that unpack to {size:,}: save it without compression")


def open_npz(file: Any) -> Any:
    """Open an ``.npz`` or ``.npy`` file with NumPy, without pickles; Fault for an archive that unpacks to far more."""
    _refuse_zip_bomb(file)
    return np.load(file, allow_pickle=False)


def _refuse_zip_bomb(file: Any) -> None:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                refuse_bomb(member.file_size, member.compress_size)
    if hasattr(file, "seek"):
        file.seek(0)


def pick(names: list[str], key: str | None) -> str:
    """Select an array: the requested one, the only one, or one with a usual name."""
    if key is not None:
        if key in names:
            return key
        raise Fault("unreadable", f"holds no {key!r}, only {_some(names)}")
    if len(names) == 1:
        return names[0]
    usual = [name for name in USUAL_KEYS if name in names]
    if usual:
        return usual[0]
    raise Fault("unreadable", f"holds {_some(names)}: name one with --key" if names else "holds no array")


def import_torch() -> Any:
    """Import torch; UsageError if it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise UsageError(f".pt files need torch, which does not load here ({error}): install it") from None
    return torch


def load_torch(file: Any) -> Any:
    """Load tensors with ``weights_only=True``: other objects, whose loading could run code, are refused.

    Parameters
    ----------
    file : object
        A path or an open binary file.

    Raises
    ------
    Fault
        The file cannot be read, or holds other objects.
    UsageError
        torch is not installed.
    """
    torch = import_torch()
    try:
        _refuse_zip_bomb(file)
        with warnings.catch_warnings():  # about pickle protocols, in damaged files: the error suffices
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except TORCH_DAMAGE as error:
        if isinstance(error, pickle.UnpicklingError):
            raise Fault(
                "unreadable",
                "not a file of plain tensors (other objects are refused because loading them could run code): "
                "save tensors, or .npy files",
            ) from None
        raise damaged(error) from None


def tensor_array(value: Any) -> Array:
    """Convert a tensor to an array; bfloat16 to float32, which is exact."""
    torch = import_torch()
    if not isinstance(value, torch.Tensor):
        raise Fault("wrong_dtype", f"a {type(value).__name__}, not a tensor")
    try:
        dense = value.detach().cpu()
        array: Array = (dense.float() if dense.dtype == torch.bfloat16 else dense).numpy()
    except (RuntimeError, TypeError, ValueError) as error:
        raise Fault("wrong_dtype", f"a tensor that numpy cannot hold ({error})") from None
    return array


def damaged(error: Exception) -> Fault:
    """Turn an exception of a library into a fault."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, MemoryError):
        return Fault("out_of_memory", f"does not fit into memory: {error}")
    if isinstance(error, ValueError) and "file contains pickled" in str(error):
        return Fault("unreadable", "not a NumPy file by its content (pickles are refused: save plain arrays)")
    if isinstance(error, ValueError) and "pickle" in str(error):
        return Fault(
            "unreadable",
            "holds pickles, which are refused because loading them could run code: save plain arrays",
        )
    said = str(error)
    return Fault("unreadable", f"not readable: {said if ' ' in said else f'{type(error).__name__} {said}'.rstrip()}")


def reading(read: Callable[[], Any], damage: tuple[type[Exception], ...] = DAMAGE) -> Any:
    """Call a library to read one clip; its exceptions become a :class:`Fault`."""
    try:
        return read()
    except Fault:
        raise
    except damage as error:
        raise damaged(error) from None


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown or "nothing"
