"""Do decoding and the model overlap: two cores beside each stage alone on one, and beside the usual loop on one.

Decoding alone takes D seconds with one worker, the model alone F seconds with one thread. Nothing that decodes with
one core and computes with another can be done before max(D, F), and a loop that does one after the other takes D + F.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import torch

from benchmarks.extract.films import write_films
from benchmarks.extract.plan import Plan
from benchmarks.extract.store import dataset_of, run
from benchmarks.report import THE_TIME, Figure, Row
from benchmarks.timing import Contender, Timings, interleave
from supportset.extract.backbones import load_backbone
from supportset.extract.backbones.base import Backbone
from supportset.extract.decode.sampling import Sampling
from supportset.extract.pipeline.batch_size import default_batch_size
from supportset.extract.pipeline.pipeline import Plan as Sizes
from supportset.extract.workers.decode_worker import ClipResult, Job
from supportset.extract.workers.pool import DecodePool, StepFrames

_MOST_TIME = 1 / 0.85
_LEAST_OF_GAIN = 0.85
_DECODE, _MODEL, _PIPELINE, _LOOP = "decoding alone", "model alone", "pipeline, two cores", "loop, one core"
_UNBALANCED = 3.0  # times as much decoding as model
_LEAST_RATE = 0.2  # steps a second of film: each film has some


def measure(plan: Plan) -> Figure:
    """Both settings: stages that take equally long, where overlap pays most, and decoding that takes longer."""
    figure = Figure("overlap", "Decoding and the model on two cores, beside each alone on one")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        figure.notes.append("left out: it takes two cores, and a system that can pin a process to one")
        return figure
    sizes = plan.sizes
    plan.tell(f"making {sizes.films} films of {sizes.seconds[0]} to {sizes.seconds[1]} s")
    films = write_films(plan.folder / "films", sizes.films, sizes.seconds, sizes.shape)
    figure.sizes = {"films": len(films), "picture": "x".join(map(str, sizes.shape)), "backbone": sizes.backbone}
    bench = _Bench(films, load_backbone(sizes.backbone), plan.folder / "features", (cores[0], cores[1]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        balanced = bench.balanced_rate()
        for name, rate in (("balanced", balanced), ("decoding slower", max(_LEAST_RATE, balanced / _UNBALANCED))):
            _setting(plan, figure, bench, name, round(rate, 2))
    finally:
        torch.set_num_threads(threads)
    figure.notes.append(
        "the loop: PyAV, one frame kept every 1/fps s, the same transform and model in the same batches, one .npy a "
        "film. Starting workers is part of the pipeline's time, not of decoding alone"
    )
    return figure


def _setting(plan: Plan, figure: Figure, bench: _Bench, name: str, rate: float) -> None:
    sampling = Sampling(fps=rate)
    plan.tell(f"{name}: {plan.rounds} rounds at {rate:g} fps")
    with bench.pool(sampling) as pool:
        steps = bench.decode(pool)
        contenders: dict[str, Callable[[], object]] = {
            _DECODE: lambda: bench.decode(pool),
            _MODEL: lambda: bench.forward(steps),
            _PIPELINE: lambda: bench.pipeline(sampling),
            _LOOP: lambda: bench.loop(rate),
        }
        timings = interleave(
            {key: _contender(each) for key, each in contenders.items()}, plan.rounds, warm_up=int(not plan.quick)
        )
    figure.timings.append(Timings({f"{name}: {key}": seconds for key, seconds in timings.seconds.items()}))
    decode, model, pipeline, loop = (timings.median(key) for key in (_DECODE, _MODEL, _PIPELINE, _LOOP))
    slower = _DECODE if decode >= model else _MODEL
    key = name.replace(" ", "_")
    figure.rows += [
        Row(
            f"overlap.{key}.pipeline/slower_stage",
            f"{name}: {_PIPELINE}",
            f"{slower}, one core",
            timings.ratio(_PIPELINE, slower),
            THE_TIME,
            at_most=_MOST_TIME,
        ),
        Row(
            f"overlap.{key}.gain",
            f"{name}: {_PIPELINE}",
            _LOOP,
            timings.ratio(_LOOP, _PIPELINE),
            at_least=_LEAST_OF_GAIN * (decode + model) / max(decode, model),
        ),
    ]
    figure.notes.append(
        f"{name}: {steps:,} frames at {rate:g} fps; D {decode:.1f} s, F {model:.1f} s, pipeline {pipeline:.1f} s, loop "
        f"{loop:.1f} s; overlap can gain {(decode + model) / max(decode, model):.2f} at most"
    )


def _contender(run: Callable[[], object]) -> Contender:
    return Contender(lambda _: run())


def _seconds(run: Callable[[], object]) -> float:
    since = time.perf_counter()
    run()
    return time.perf_counter() - since


@contextmanager
def _pinned(*cores: int) -> Iterator[None]:
    """Run this thread, and processes that it starts, on some cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _Bench:
    """The stages, each alone, together, and one after the other."""

    def __init__(self, films: Sequence[Path], backbone: Backbone, root: Path, cores: tuple[int, int]) -> None:
        self._films, self._backbone, self._root, self._cores = films, backbone, root, cores
        self._batch = default_batch_size(backbone.device, backbone.window)

    def balanced_rate(self) -> float:
        """Steps a second of film at which decoding and the model take equally long, about."""
        low, high, count = 0.5, 2.0, self._batch * (2 if len(self._films) < 10 else 8)
        times = {}
        for rate in (low, high):
            with self.pool(Sampling(fps=rate)) as pool:
                self.decode(pool)
                times[rate] = _seconds(lambda: self.decode(pool))
        self.forward(count)
        model = _seconds(lambda: self.forward(count)) / count
        seconds = sum(_duration(film) for film in self._films)
        a_step = max(0.0, (times[high] - times[low]) / ((high - low) * seconds))  # of decoding, for each step more
        fixed = times[low] - low * seconds * a_step
        return min(25.0, max(_LEAST_RATE, fixed / seconds / max(model - a_step, 1e-6)))

    @contextmanager
    def pool(self, sampling: Sampling) -> Iterator[DecodePool]:
        """One decode worker on the first core, this process on the second."""
        setup = Sizes.make(self._backbone, sampling, self._backbone.device, 1, 1, self._batch, 600.0).setup
        with _pinned(self._cores[0]):
            pool = DecodePool(setup, 1)
        with _pinned(self._cores[1]), pool:
            yield pool

    def decode(self, pool: DecodePool) -> int:
        """Decode everything and look at nothing; returns the number of steps."""
        jobs = (Job(number, str(film)) for number, film in enumerate(self._films))
        steps = 0
        for event in pool.run(jobs):
            steps += isinstance(event, StepFrames)
            if isinstance(event, ClipResult) and event.outcome.status != "ok":
                raise RuntimeError(f"{self._films[event.number]}: {event.outcome}")
        return steps

    def forward(self, steps: int) -> None:
        """The model on so many frames that are there already."""
        with _pinned(self._cores[1]):
            for batch in _batches(self._backbone, steps, self._batch):
                self._backbone.forward(batch)

    def pipeline(self, sampling: Sampling) -> None:
        """The extraction, with one worker and one thread."""
        dataset = dataset_of(self._root, self._films)
        with _pinned(*self._cores):
            run(self._root, dataset, self._films, self._backbone, sampling, workers=1, device="cpu")

    def loop(self, rate: float) -> None:
        """Film by film: decode it, put its frames through the model, write the features."""
        folder = self._root.with_name("loop")
        folder.mkdir(exist_ok=True)
        transform = self._backbone.frame_transform()
        with _pinned(self._cores[0]):
            for film in self._films:
                frames = []
                with av.open(str(film)) as container:
                    stream = container.streams.video[0]
                    stream.thread_type = "NONE"  # there is one core
                    wanted = 0.5 / rate
                    for frame in container.decode(stream):
                        if frame.time + 1 / float(stream.average_rate or 25) >= wanted:
                            frames.append(transform(frame.to_ndarray(format="rgb24")))
                            wanted += 1 / rate
                steps = torch.from_numpy(np.stack(frames))
                features = torch.cat([self._backbone.forward(part) for part in steps.split(self._batch)])
                np.save(folder / f"{film.stem}.npy", features.numpy().astype(np.float16))


def _batches(backbone: Backbone, steps: int, size: int) -> Iterator[torch.Tensor]:
    transform = backbone.frame_transform()
    shape = (transform.height, transform.width, 3)
    chance = torch.Generator().manual_seed(0)
    there = [torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=chance) for _ in range(8)]
    for number, start in enumerate(range(0, steps, size)):
        yield there[number % len(there)][: steps - start]


def _duration(film: Path) -> float:
    with av.open(str(film)) as container:
        return float(container.duration or 0) / av.time_base
