"""What a run measures while it trains: ``metrics.jsonl``, TensorBoard, and the person at the terminal."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from supportset.store.errors import SupportsetError
from supportset.store.files import LocalFolder, telling
from supportset.train.loop.schedule import EpochMeans
from supportset.train.model.batch import Batch
from supportset.train.run_folder import RunFolder


class MetricsLog:
    """Appends records to ``metrics.jsonl`` and to TensorBoard.

    Parameters
    ----------
    folder : the run
    step : where the run goes on; records of later steps, written before a crash, are removed

    Attributes
    ----------
    damaged : lines of an earlier sitting that could not be read, and were removed
    """

    def __init__(self, folder: RunFolder, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and needed by training alone

        lines = folder.metrics.read_bytes().splitlines(keepends=True) if folder.metrics.exists() else []
        steps = [_step_of(line) for line in lines]
        self.damaged = steps.count(None)
        kept = [line for line, there in zip(lines, steps, strict=True) if there is not None and there <= step]
        if kept != lines:
            LocalFolder(folder.path).put({folder.metrics.name: kept})
        with telling("write", folder.metrics):
            self._file = open(folder.metrics, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._events = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one record: ``kind`` is ``train`` or ``validation``."""
        values = {name: None if _not_finite(value) else value for name, value in values.items()}
        with telling("write", self._file.name):
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._events.close()


class NoLog:
    """What the processes besides the main one write: nothing."""

    damaged = 0

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Leave it to the main process."""

    def close(self) -> None:
        """Nothing is open."""


class StepWindow:
    """What the steps since the last record measured. Values stay on the device until a record is due."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._steps: list[tuple[int, list[str], dict[str, Tensor]]] = []
        self._captions, self._waited, self._began = 0, 0.0, time.perf_counter()

    def __len__(self) -> int:
        return len(self._steps)

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, with the time that the loop waits for them taken down."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def add(self, step: int, batch: Batch, values: dict[str, Tensor]) -> None:
        """Take down one step; ``values`` are scalars on any device."""
        self._steps.append((step, batch.clip_ids, {name: value.detach() for name, value in values.items()}))
        self._captions += len(batch.caption_ids)

    def read(self, must_be_finite: Collection[str]) -> dict[str, float]:
        """Means over the window, captions per second and the share of time spent waiting; then begin anew.

        Raises
        ------
        SupportsetError
            A value of ``must_be_finite`` was not: names the first such step and the clips of its batch.
        """
        names = list(self._steps[0][2])
        table = torch.stack(
            [torch.stack([values[name].float() for name in names]) for _, _, values in self._steps]
        ).cpu()
        for (step, clip_ids, _), row in zip(self._steps, table.tolist(), strict=True):
            for name, value in zip(names, row, strict=True):
                if name in must_be_finite and not math.isfinite(value):
                    raise SupportsetError(
                        f"step {step}: {name} is {value}; lower optim.learning_rate, or look at the features of this "
                        f"batch's clips: {' '.join(clip_ids)}"
                    )
        took = time.perf_counter() - self._began
        means = dict(zip(names, table.mean(dim=0).tolist(), strict=True))
        means |= {"captions_per_s": self._captions / took, "data_wait": self._waited / took}
        self.clear()
        return means


class Progress:
    """A moving line on a terminal, a plain line now and then elsewhere; always on standard error.

    Parameters
    ----------
    total, done : steps of the run, and those already done when it starts
    every : seconds between plain lines
    shown : false keeps silent
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

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, step: int, words: str) -> None:
        """Tell where the run is."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=words)
        elif time.monotonic() - self._last >= self._every:
            self.line(f"step {step} of {self._total}: {words}")

    def line(self, text: str) -> None:
        """A line that stays."""
        self._last = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        elif self._shown:
            print(text, file=sys.stderr, flush=True)


def epoch_line(
    epoch: int, epochs: int, means: EpochMeans, scores: Mapping[str, float], better: bool, seconds: float
) -> str:
    """What an epoch came to, for people."""
    words = [f"epoch {epoch}/{epochs}"]
    if means.steps:
        words.append(
            f"loss {means.mean('loss'):.3f} (contrastive {means.mean('contrastive'):.3f}, captioning "
            f"{means.mean('captioning'):.3f})"
        )
    if scores:
        shown = " ".join(f"{way} {scores[f'{way}/R@1']:.1f}/{scores[f'{way}/R@5']:.1f}" for way in ("t2v", "v2t"))
        words.append(f"validation R@1/5 {shown}, rsum {scores['rsum']:.1f}{' (best)' if better else ''}")
    return "  ".join([*words, f"{seconds:.1f} s"])


def _step_of(line: bytes) -> int | None:
    """Step of a record; None for a line that was cut off or damaged, as a crash may leave."""
    try:
        step = json.loads(line)["step"] if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def _not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)  # JSON has no word for it
