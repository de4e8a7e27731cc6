"""What changes during a run: the learning rate, the negatives, and when to stop."""

from __future__ import annotations

import math

import torch

from supportset.train.config import LossConfig, OptimConfig
from supportset.train.loop.checkpoint import Position


def finished(optim: OptimConfig, position: Position) -> bool:
    """Whether the run is over: by epochs, by steps, or by patience."""
    return (
        position.epoch >= optim.epochs
        or (optim.max_steps is not None and position.step >= optim.max_steps)
        or (optim.patience is not None and position.stale_epochs >= optim.patience)
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, optim: OptimConfig, step: int, total_steps: int) -> float:
    """Set the learning rate of each parameter group for a step, and return the main one."""
    factor = rate_factor(optim, step, total_steps)
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    return optim.learning_rate * factor


def rate_factor(optim: OptimConfig, step: int, total_steps: int) -> float:
    """Factor of the learning rate at a step (from 0): a linear warm-up, then the schedule, which ends at 0."""
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(1, total_steps - optim.warmup_steps)
    if optim.schedule == "linear":
        return max(0.0, 1.0 - done)
    if optim.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return 1.0


def warmup_loss(loss: LossConfig, step: int, steps_per_epoch: int) -> LossConfig:
    """Settings of the loss at a step: those of the warm-up while hinge with hardest negatives would collapse."""
    if not _may_collapse(loss) or loss.warmup == "none" or step >= loss.warmup_epochs * steps_per_epoch:
        return loss
    return loss.model_copy(update={"negatives": "summed"} if loss.warmup == "summed" else {"contrastive": loss.warmup})


def _may_collapse(loss: LossConfig) -> bool:
    return loss.contrastive == "hinge" and loss.negatives == "hardest"


def collapse_hint(loss: LossConfig, mean: float | None) -> str | None:
    """A line for the user if all embeddings are equal: the hinge loss is then twice the margin.

    Parameters
    ----------
    loss : LossConfig
        Of the epoch's last step, so that a warm-up is recognised.
    mean : float or None
        Contrastive loss over an epoch; None where no step of it was measured.
    """
    if not _may_collapse(loss) or loss.intra:
        return None
    if mean is None or abs(mean - 2 * loss.margin) > 0.02 * loss.margin:
        return None
    return (
        f"the contrastive loss stays at {mean:.3f}, twice the margin: the embeddings have collapsed; set "
        "loss.warmup=infonce loss.warmup_epochs=2, or a lower learning rate"
    )
