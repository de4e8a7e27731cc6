"""Checkpoints for exact resume: one file, replaced whole, read back without unpickling code."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from supportset.store.errors import SupportsetError
from supportset.store.files import sync_folder, telling
from supportset.train.model.memory_bank import MemoryBank


@dataclass
class Position:
    """Where a run is, and what it has found so far.

    Attributes
    ----------
    epoch, batch : the next batch to train on
    step : optimiser steps done
    best_score, best_epoch : on validation; epochs count from 1
    stale_epochs : epochs since the best one
    seconds : spent training so far
    processes : that trained together up to here
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_score: float | None = None
    best_epoch: int | None = None
    stale_epochs: int = 0
    seconds: float = 0.0
    processes: int = 1


def random_state() -> dict[str, Any]:
    """Where the random numbers of this process are."""
    return {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def save_checkpoint(
    path: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    position: Position,
    fingerprint: str,
    bank: MemoryBank | None = None,
    random_states: Sequence[dict[str, Any]] = (),
) -> None:
    """Write model, optimiser, scaler, random states, memory bank and position.

    The file before stays until this one is whole. ``random_states`` are those of all processes, this one's first;
    by default this one is alone.
    """
    mine, *others = random_states or [random_state()]
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler is not None else None,
        "bank": bank.state_dict() if bank is not None else None,
        "position": asdict(position),
        "fingerprint": fingerprint,
        "random": mine,
        "random_of_others": others,
    }
    temporary = path.with_name(path.name + ".tmp")
    with telling("save the checkpoint", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)


def load_checkpoint(
    path: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    fingerprint: str,
    bank: MemoryBank | None = None,
    rank: int = 0,
) -> Position:
    """Put a run back where it was.

    ``rank`` is this process's among those that train together. One that had no part in the checkpoint keeps the random
    numbers it has.

    Raises
    ------
    SupportsetError
        A damaged file, or a store whose features or captions are not those the run began with.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["fingerprint"] != fingerprint:
            raise SupportsetError(
                f"{path}: the features, clips or captions in the store have changed since the run began, so it cannot "
                "go on exactly; put them back, or start anew with another --out"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])
        if bank is not None:
            bank.load_state_dict(state["bank"])
        states = [state["random"], *state.get("random_of_others", ())]
        if rank < len(states):
            _set_random_state(states[rank])
        return Position(**state["position"])
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SupportsetError(f"{path}: cannot be resumed from ({reason}); start anew with another --out") from None


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
