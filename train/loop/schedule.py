"""What changes in the course of a run: the learning rate, the negatives, when to stop; and when something is wrong."""

from __future__ import annotations

import math

from supportset.train.config import LossConfig, OptimConfig
from supportset.train.loop.checkpoint import Position


class EpochMeans:
    """Means of an epoch's measurements, gathered from its windows."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin a new epoch."""
        self.sums: dict[str, float] = {}
        self.steps = 0
        self.last = math.nan

    def add(self, means: dict[str, float], steps: int) -> None:
        """Take in the means of some steps."""
        self.sums = {name: self.sums.get(name, 0.0) + value * steps for name, value in means.items()}
        self.steps += steps
        self.last = means["loss"]

    def mean(self, name: str) -> float:
        """Mean of one measurement; NaN before any step."""
        return self.sums[name] / self.steps if self.steps else math.nan


def finished(optim: OptimConfig, position: Position) -> bool:
    """Whether nothing is left to do: by epochs, by steps, or by patience."""
    return (
        position.epoch >= optim.epochs
        or (optim.max_steps is not None and position.step >= optim.max_steps)
        or (optim.patience is not None and position.stale_epochs >= optim.patience)
    )


def rate_factor(optim: OptimConfig, step: int, total_steps: int) -> float:
    """Factor of the learning rate at a step (from 0): a linear rise, then the schedule, which ends at 0."""
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


def collapse_hint(loss: LossConfig, epoch: EpochMeans) -> str | None:
    """One line where the hinge loss stayed at 2α for an epoch, so that all embeddings are equal.

    ``loss`` is that of the last step, so that a warm-up is recognised.
    """
    if not _may_collapse(loss) or loss.intra:
        return None
    if not epoch.steps:  # a resume at the very end of an epoch measures nothing of it
        return None
    mean = epoch.mean("contrastive")
    if abs(mean - 2 * loss.margin) > 0.02 * loss.margin:
        return None
    return (
        f"the contrastive loss stays at {mean:.3f}, twice the margin: the embeddings have collapsed; set "
        "loss.warmup=infonce loss.warmup_epochs=2, or a lower learning rate"
    )
