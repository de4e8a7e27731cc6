"""The record of a training run: ``metrics.jsonl``, TensorBoard, and lines on standard error."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from supportset.store.errors import SupportsetError
from supportset.store.files import LocalFolder, telling
from supportset.train.config import OptimConfig
from supportset.train.loop.checkpoint import Position
from supportset.train.model.batch import Batch
from supportset.train.run_folder import RunFolder


class TrainingLog:
    """Collects what each step measures, and writes it every ``optim.log_every`` steps.

    Values stay on the device until they are written. Ranks other than 0 keep the means but write nothing.

    Parameters
    ----------
    folder : RunFolder
        The run.
    optim : OptimConfig
        How often to write, and the precision.
    position : Position
        Where the run starts; the loop advances it.
    total_steps : int
        Steps of the complete run.
    writes : bool
        Whether this is rank 0.
    """

    def __init__(
        self, folder: RunFolder, optim: OptimConfig, position: Position, total_steps: int, *, writes: bool
    ) -> None:
        self._optim, self._position = optim, position
        self._progress = Progress(total_steps, position.step, shown=writes)
        self._metrics = MetricsFile(folder, position.step) if writes else None
        self._sums: dict[str, float] = {}  # over the epoch
        self._counted, self._epoch, self._lr = 0, position.epoch, 0.0
        self._began_epoch = time.monotonic()
        self._first = True  # the first step of this process is reported at once
        self._clear_window()

    def __enter__(self) -> TrainingLog:
        self._progress.start()
        if self._metrics is not None and self._metrics.damaged:
            self.line(f"{self._metrics.path}: removed {self._metrics.damaged} damaged lines")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._metrics is not None:
            self._metrics.close()

    def line(self, text: str) -> None:
        """Print a line for the user."""
        self._progress.line(text)

    def begin_epoch(self, epoch: int, left_out: int) -> None:
        """Start the means of an epoch, counted from 1; ``left_out`` batches of it are skipped."""
        self._sums, self._counted, self._epoch, self._began_epoch = {}, 0, epoch, time.monotonic()
        self._clear_window()
        if left_out and not self._position.batch:
            self.write("epoch", {"batches_left_out": left_out})
            self.line(f"epoch {epoch}: {left_out} batches of captions of one clip alone are left out")

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches, and measure how long the loop waits for them."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def step(self, batch: Batch, values: Mapping[str, Tensor], lr: float) -> None:
        """Take in one step, after the position was advanced; ``values`` are scalars on any device."""
        self._window.append((self._position.step, batch.clip_ids, {k: v.detach() for k, v in values.items()}))
        self._captions += len(batch.caption_ids)
        self._lr = lr
        if self._first:
            self._first = False
            took, loss = time.perf_counter() - self._window_began, float(values["loss"].detach())
            self.line(
                f"step {self._position.step}: loss {loss:.3f}, {took:.1f} s; the first step is slower than later ones"
            )
        if self._position.step % self._optim.log_every == 0:
            loss = self.flush()
            self._progress.step(self._position.step, f"epoch {self._epoch}, loss {loss:.3f}")

    def flush(self) -> float:
        """Write the means over the steps since the last record, and return their loss.

        Raises
        ------
        SupportsetError
            The loss or the gradient was not finite: names the first such step and the clips of its batch.
        """
        if not self._window:
            return math.nan
        steps = len(self._window)
        names = list(self._window[0][2])
        table = torch.stack([torch.stack([values[name].float() for name in names]) for _, _, values in self._window])
        table = table.cpu()
        must_be_finite = (
            {"loss"} if self._optim.precision == "fp16" else {"loss", "grad_norm"}
        )  # fp16 skips infinite ones
        for (step, clip_ids, _), row in zip(self._window, table.tolist(), strict=True):
            for name, value in zip(names, row, strict=True):
                if name in must_be_finite and not math.isfinite(value):
                    raise SupportsetError(
                        f"step {step}: {name} is {value}; lower optim.learning_rate, or check the features of this "
                        f"batch's clips: {' '.join(clip_ids)}"
                    )
        took = time.perf_counter() - self._window_began
        means = dict(zip(names, table.mean(dim=0).tolist(), strict=True))
        means |= {"captions_per_s": self._captions / took, "data_wait": self._waited / took}
        self._sums = {name: self._sums.get(name, 0.0) + value * steps for name, value in means.items()}
        self._counted += steps
        self.write("train", {"lr": self._lr, **means})
        self._clear_window()
        return means["loss"]

    def epoch_mean(self, name: str) -> float | None:
        """Mean of a measurement over the epoch's steps; None where this process made none of them."""
        return self._sums[name] / self._counted if self._counted else None

    def end_epoch(self, scores: Mapping[str, float], better: bool) -> None:
        """Print one line about the epoch."""
        words = [f"epoch {self._epoch}/{self._optim.epochs}" if self._epoch else "before the first step"]
        if self._counted:
            loss, contrastive, captioning = (
                self._sums[name] / self._counted for name in ("loss", "contrastive", "captioning")
            )
            words.append(f"loss {loss:.3f} (contrastive {contrastive:.3f}, captioning {captioning:.3f})")
        if scores:
            shown = " ".join(f"{way} {scores[f'{way}/R@1']:.1f}/{scores[f'{way}/R@5']:.1f}" for way in ("t2v", "v2t"))
            words.append(f"validation R@1/5 {shown}, rsum {scores['rsum']:.1f}{' (best)' if better else ''}")
        self.line("  ".join([*words, f"{time.monotonic() - self._began_epoch:.1f} s"]))

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        """Write a record of the current step and epoch: ``train``, ``validation`` or ``epoch``."""
        if self._metrics is not None:
            self._metrics.write(kind, self._position.step, {"epoch": self._epoch, **values})

    def _clear_window(self) -> None:
        self._window: list[tuple[int, list[str], dict[str, Tensor]]] = []
        self._captions, self._waited, self._window_began = 0, 0.0, time.perf_counter()


class MetricsFile:
    """Appends records to ``metrics.jsonl`` and to TensorBoard.

    Records of steps after ``step``, which a crash may leave, are removed. A record that is already there is not
    written again: a resumed run repeats what came after its checkpoint, with the same result.

    Parameters
    ----------
    folder : RunFolder
        The run.
    step : int
        Step of the checkpoint.

    Attributes
    ----------
    damaged : int
        Lines that could not be read, and were removed.
    """

    def __init__(self, folder: RunFolder, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

        self.path = folder.metrics
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        records = [_parsed(line) for line in lines]
        self.damaged = records.count(None)
        kept = [line for line, record in zip(lines, records, strict=True) if record is not None and record[1] <= step]
        if kept != lines:
            LocalFolder(folder.path).put({self.path.name: kept})
        self._there = {record for record in records if record is not None and record[1] == step}
        with telling("write", self.path, "--resume continues from the last complete checkpoint"):
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._events = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one record. JSON has no NaN or infinity: they become null."""
        if (kind, step) in self._there:
            return
        values = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        with telling("write", self.path, "--resume continues from the last complete checkpoint"):
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._events.close()


class Progress:
    """A progress bar on a terminal, a plain line now and then elsewhere; always on standard error.

    Parameters
    ----------
    total, done : int
        Steps of the run, and those already done when it starts.
    every : float
        Seconds between plain lines.
    shown : bool
        False keeps silent.
    """

    def __init__(self, total: int, done: int, every: float = 30.0, *, shown: bool = True) -> None:
        self._every, self._total, self._last, self._shown = every, total, time.monotonic(), shown
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=total, completed=done)

    def start(self) -> None:
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

    def step(self, step: int, words: str) -> None:
        """Report the current step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=words)
        elif time.monotonic() - self._last >= self._every:
            self.line(f"step {step} of {self._total}: {words}")

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._last = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        elif self._shown:
            print(text, file=sys.stderr, flush=True)


def _parsed(line: bytes) -> tuple[str, int] | None:
    """Kind and step of a record; None for a line that was cut off or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
        kind, step = record["kind"], record["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return (kind, step) if isinstance(kind, str) and isinstance(step, int) else None
