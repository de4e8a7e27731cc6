"""Checkpoints for exact resume: one file, replaced as a unit, with a hash at its end, read without unpickling code."""

from __future__ import annotations

import os
import pickle
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch
import xxhash

from supportset.store.errors import SupportsetError
from supportset.store.files import sync_folder, telling
from supportset.train.loop.ranks import Ranks
from supportset.train.model.memory_bank import MemoryBank

_MARK = b"supportset-xxh3:"  # followed by 16 bytes, the hash of everything before the mark
_TRAILER = len(_MARK) + 16
_BLOCK = 1 << 24


@dataclass
class Position:
    """How far a run is, and its best score so far.

    Attributes
    ----------
    epoch, batch : int
        The next batch to train on.
    step : int
        Optimiser steps done.
    best_score, best_epoch : float and int, or None
        On validation; epochs count from 1.
    stale_epochs : int
        Epochs since the best one.
    seconds : float
        Training time so far.
    processes : int
        How many trained together up to here.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_score: float | None = None
    best_epoch: int | None = None
    stale_epochs: int = 0
    seconds: float = 0.0
    processes: int = 1


class Checkpoint:
    """Saves and restores model, optimiser, scaler, memory bank, random states and position.

    Parameters
    ----------
    path : Path
        The file; the previous one stays until the new one is complete.
    model, optimizer, scaler, bank
        Objects to save, and to restore in place. ``scaler`` and ``bank`` may be None.
    fingerprint : str
        Hash of the data; a run resumes only on the same data.
    ranks : Ranks
        The processes that train together. Rank 0 writes; each rank has its random state in the file.
    """

    def __init__(
        self,
        path: Path,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
        bank: MemoryBank | None,
        fingerprint: str,
        ranks: Ranks,
    ) -> None:
        self.path, self.model, self.optimizer, self.scaler, self.bank = path, model, optimizer, scaler, bank
        self.fingerprint, self.ranks = fingerprint, ranks

    def save(self, position: Position) -> None:
        """Write the checkpoint; called by all ranks."""
        states = self.ranks.collect(_random_state())
        if not self.ranks.main:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "bank": self.bank.state_dict() if self.bank is not None else None,
            "position": asdict(position),
            "fingerprint": self.fingerprint,
            "random": states[0],
            "random_of_others": states[1:],
        }
        temporary = self.path.with_name(self.path.name + ".tmp")
        with telling("save the checkpoint", self.path, "--resume continues from the last complete checkpoint"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "wb") as file:
                    _write_hashed(state, file)
                os.replace(temporary, self.path)
                sync_folder(self.path.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def load(self) -> Position:
        """Restore the run. A rank that the checkpoint does not know keeps its random state.

        Raises
        ------
        SupportsetError
            A damaged file, or a store whose features or captions have changed since the run began.
        """
        try:
            _check_hash(self.path)
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            if state["fingerprint"] != self.fingerprint:
                raise SupportsetError(
                    f"{self.path}: the features, clips or captions in the store have changed since the run began, so "
                    "it cannot resume exactly; restore them, or start a new run with another --out"
                )
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scaler is not None and state["scaler"] is not None:
                self.scaler.load_state_dict(state["scaler"])
            if self.bank is not None:
                self.bank.load_state_dict(state["bank"])
            states = [state["random"], *state.get("random_of_others", ())]
            if self.ranks.rank < len(states):
                _set_random_state(states[self.ranks.rank])
            return Position(**state["position"])
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SupportsetError(
                f"{self.path}: cannot resume from it ({reason}); start a new run with another --out"
            ) from None


class _HashingFile:
    """Hashes what is written, and remembers the error that torch hides."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.hash = file, xxhash.xxh3_128()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written = self._file.write(data)
            self.hash.update(data)
            return written
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _write_hashed(state: dict[str, Any], file: IO[bytes]) -> None:
    hashing = _HashingFile(file)
    try:
        torch.save(state, hashing)  # type: ignore[arg-type]
    except RuntimeError:
        if hashing.error is not None:  # torch says only "unexpected pos"
            raise hashing.error from None
        raise
    file.write(_MARK + hashing.hash.digest())
    file.flush()
    os.fsync(file.fileno())


def _check_hash(path: Path) -> None:
    """Compare the file with the hash at its end, where it has one."""
    left = path.stat().st_size - _TRAILER
    state = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while left > 0 and (block := file.read(min(_BLOCK, left))):
            state.update(block)
            left -= len(block)
        trailer = file.read()
    # Version 0.1 wrote no hash. A file that lost only its mark is complete up to there, and torch.load reads it.
    if trailer.startswith(_MARK) and trailer != _MARK + state.digest():
        raise ValueError("its content does not match its hash: damaged")


def _random_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
