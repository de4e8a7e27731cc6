"""The parts of clips that are compared with a query, so that a moment can be found: steps, or windows of steps.

A zero-shot retriever embeds each step. A trained run embeds whole clips, so a window of steps is embedded as a clip is.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supportset.search.step_index import Codes, StepIndex
from supportset.store.errors import SupportsetError
from supportset.store.files.hashing import hash_file

if TYPE_CHECKING:
    from supportset.search.retriever import Retriever
    from supportset.store.read.aligned import AlignedFeatures

WINDOW_S = 8.0  # of a trained run; windows begin every half window

_CLIPS = 256  # in memory at once
_ABANDONED_S = 7 * 24 * 3600  # no index takes that long
_CODES = ("values", "scale", "error")
_FILES = (*_CODES, "offsets.npy")
_DTYPES = (np.int8, np.float32, np.float32)


@dataclass(frozen=True)
class Parts:
    """Embedded parts of N clips, clip after clip.

    Attributes
    ----------
    vectors : (P, d) float32
        Of unit length.
    spans : (P, 2) float64
        Seconds from the clip's start; windows overlap.
    offsets : (N + 1,) int64
        Parts ``offsets[i]:offsets[i + 1]`` are those of clip i.
    """

    vectors: NDArray[np.float32]
    spans: NDArray[np.float64]
    offsets: NDArray[np.int64]


def windows(spans: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Cut the steps of a clip, (T, 2) seconds, into windows: first step, and the one after the last.

    Examples
    --------
    >>> seconds = np.arange(20.0)
    >>> windows(np.stack([seconds, seconds + 1], axis=1))
    [(0, 8), (4, 12), (8, 16), (12, 20)]
    """
    step = float(np.median(spans[:, 1] - spans[:, 0]))
    size = min(len(spans), max(1, round(WINDOW_S / step))) if step > 0 else 1
    starts = list(range(0, len(spans) - size, max(1, size // 2)))
    return [(start, start + size) for start in [*starts, len(spans) - size]]


def encode_parts(retriever: Retriever, clips: Sequence[ArrayLike], spans: Sequence[NDArray[np.float64]]) -> Parts:
    """Embed the parts of clips.

    Parameters
    ----------
    retriever : Retriever
        Steps are the parts where it embeds them.
    clips : sequence of (T, D) arrays
        Features.
    spans : sequence of (T, 2) float64
        Start and end of each step in seconds.
    """
    steps = retriever.encode_steps(clips)
    if steps is not None:
        return Parts(steps, np.concatenate(spans), np.cumsum([0, *map(len, clips)], dtype=np.int64))  # type: ignore[arg-type]
    cuts = [windows(each) for each in spans]
    pieces = [np.asarray(clip)[a:b] for clip, cut in zip(clips, cuts, strict=True) for a, b in cut]
    times = [(each[a:b, 0].min(), each[a:b, 1].max()) for each, cut in zip(spans, cuts, strict=True) for a, b in cut]
    offsets = np.cumsum([0, *map(len, cuts)], dtype=np.int64)
    return Parts(retriever.encode_clips(pieces), np.asarray(times, np.float64), offsets)


def read_parts(retriever: Retriever, features: AlignedFeatures, clip_ids: Sequence[str]) -> Parts:
    """Read stored clips and embed their parts."""
    values, offsets = features.read(clip_ids)
    times = features.read_timestamps(clip_ids)
    return encode_parts(retriever, np.split(values, offsets[1:-1]), np.split(times, offsets[1:-1]))


def open_index(retriever: Retriever, features: AlignedFeatures, folder: Path, key: str) -> StepIndex:
    """Open the index over the parts of all clips of ``features``; build it where it is not there yet.

    Parameters
    ----------
    retriever : Retriever
        What embeds the parts.
    features : AlignedFeatures
        The clips, in the order of the index.
    folder : Path
        Keeps one index; that of another key is replaced. Where it cannot be written, the index is in memory.
    key : str
        What decides the parts' embeddings.

    Notes
    -----
    The codes are mapped from files, whose hashes are compared first. While they are written, the parts of 256 clips are
    in memory.
    """
    found = _read(folder, key)
    if found is None:
        with suppress(OSError):
            _build(retriever, features, folder, key)
            found = _read(folder, key)  # None: another process replaced it meanwhile
    codes, offsets = found or _in_memory(retriever, features)

    def read(clips: NDArray[np.int64]) -> NDArray[np.float32]:
        ids = features.clip_ids
        return read_parts(retriever, features, [ids[clip] for clip in clips]).vectors

    return StepIndex(codes, offsets, read)


def _blocks(retriever: Retriever, features: AlignedFeatures) -> Iterator[tuple[Codes, NDArray[np.int64]]]:
    """Codes of the parts of some clips after others, and the number of parts of each clip."""
    for start in range(0, len(features), _CLIPS):
        parts = read_parts(retriever, features, features.clip_ids[start : start + _CLIPS])
        yield Codes.of(parts.vectors), np.diff(parts.offsets)


def _in_memory(retriever: Retriever, features: AlignedFeatures) -> tuple[Codes, NDArray[np.int64]]:
    blocks = list(_blocks(retriever, features))
    codes = Codes(*(np.concatenate([getattr(each, name) for each, _ in blocks]) for name in _CODES))
    return codes, np.cumsum(np.concatenate([[0], *(counts for _, counts in blocks)]), dtype=np.int64)


def _build(retriever: Retriever, features: AlignedFeatures, folder: Path, key: str) -> None:
    """Write the index to a temporary folder, which then takes the place of the old one."""
    for other in folder.parent.glob(f".tmp-*-{folder.name}"):  # of a process that was killed
        if time.time() - other.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(other, ignore_errors=True)
    temporary = folder.with_name(f".tmp-{secrets.token_hex(4)}-{folder.name}")
    temporary.mkdir(parents=True)
    try:
        counts, width = [], 0
        with ExitStack() as stack:
            files = [stack.enter_context(open(temporary / name, "wb")) for name in _CODES]
            for codes, parts in _blocks(retriever, features):
                counts.append(parts)
                width = codes.values.shape[1]
                for file, name in zip(files, _CODES, strict=True):
                    file.write(np.ascontiguousarray(getattr(codes, name)).data)
        offsets = np.cumsum(np.concatenate([[0], *counts]), dtype=np.int64)
        np.save(temporary / "offsets.npy", offsets)
        hashes = {name: hash_file(temporary / name) for name in _FILES}
        about = {"key": key, "dim": width, "files": hashes}
        (temporary / "index.json").write_text(json.dumps(about), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary)


def _read(folder: Path, key: str) -> tuple[Codes, NDArray[np.int64]] | None:
    """Map the index; None where it is another, damaged or absent."""
    try:
        about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if about["key"] != key or about["files"] != {name: hash_file(folder / name) for name in _FILES}:
            return None
        offsets = np.load(folder / "offsets.npy", allow_pickle=False)
        shapes = ((offsets[-1], about["dim"]), offsets[-1:], offsets[-1:])
        arrays = [
            np.memmap(folder / name, dtype, "r").reshape(shape)
            for name, dtype, shape in zip(_CODES, _DTYPES, shapes, strict=True)
        ]
    except (SupportsetError, OSError, ValueError, KeyError, TypeError):
        return None
    return Codes(*arrays), offsets
