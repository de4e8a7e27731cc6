"""What thumbnails cost: decoding alone, and extraction, with thumbnails and without, of small and of large pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.extract.films import write_films
from benchmarks.extract.plan import Plan
from benchmarks.extract.store import dataset_of, run
from benchmarks.report import THE_TIME, Figure, Row
from benchmarks.timing import Contender, Timings, interleave
from supportset.extract.backbones import load_backbone
from supportset.extract.backbones.base import Backbone
from supportset.extract.decode.sampling import Sampling
from supportset.extract.decode.thumbnails import MOST
from supportset.extract.pipeline.pipeline import Plan as Sizes
from supportset.extract.workers.decode_worker import ClipResult, Job
from supportset.extract.workers.pool import DecodePool
from supportset.store.read.thumbnails import Thumbnails

_SAMPLING = Sampling(fps=1.0)
_MOST_TIME = 1.05
_PICTURES = {"without": 0, "with thumbnails": MOST}


def measure(plan: Plan) -> Figure:
    """Films of both sizes; of the large ones a sixth as many."""
    sizes = plan.sizes
    figure = Figure("thumbnails", "What thumbnails cost, one a second")
    figure.sizes = {"films": sizes.films, "backbone": sizes.backbone, "workers": 1, "fps": 1}
    backbone = load_backbone(sizes.backbone)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for shape, count in ((sizes.shape, sizes.films), (sizes.large_shape, -(-sizes.films // 6))):
            _size(plan, figure, backbone, "x".join(map(str, shape)), shape, count)
    finally:
        torch.set_num_threads(threads)
    figure.notes.append("decoding: one worker, nothing else; extraction: one worker and one thread of the model")
    return figure


def _size(plan: Plan, figure: Figure, backbone: Backbone, name: str, shape: tuple[int, int], count: int) -> None:
    plan.tell(f"making {count} films of {name}")
    films = write_films(plan.folder / f"films-{name}", count, plan.sizes.seconds, shape)
    root = plan.folder / f"features-{name}"
    plan.tell(f"{name}: {plan.rounds} rounds")
    pools = {key: _pool(backbone, most) for key, most in _PICTURES.items()}
    try:
        contenders = {f"decoding, {key}": _contender(partial(_decode, pool, films)) for key, pool in pools.items()} | {
            f"extraction, {key}": _contender(partial(_extract, root, films, backbone, most))
            for key, most in _PICTURES.items()
        }
        timings = interleave(contenders, plan.rounds, warm_up=int(not plan.quick))
    finally:
        for pool in pools.values():
            pool.close()
    figure.timings.append(Timings({f"{name}: {key}": seconds for key, seconds in timings.seconds.items()}))
    plain, pictured = _PICTURES
    for stage in ("decoding", "extraction"):
        ratio = timings.ratio(f"{stage}, {pictured}", f"{stage}, {plain}")
        row = Row(f"thumbnails.{name}.{stage}", f"{name}: {stage}, {pictured}", plain, ratio, THE_TIME)
        figure.rows.append(row if stage == "decoding" else Row(**{**vars(row), "at_most": _MOST_TIME}))
    stored = Thumbnails.open(_extract(root, films, backbone, MOST))
    assert stored is not None
    jpegs = [stored.read(clip, start) or b"" for clip in stored.clip_ids for start, _ in stored.spans(clip)]
    seconds = {key: timings.median(f"extraction, {key}") for key in _PICTURES}
    figure.notes.append(
        f"{name}: {len(jpegs):,} frames; {len(jpegs) / seconds[plain]:.1f} frames/s without, "
        f"{len(jpegs) / seconds[pictured]:.1f} with; {sum(map(len, jpegs)) / len(jpegs):,.0f} bytes a thumbnail"
    )


def _contender(run: Callable[[], object]) -> Contender:
    return Contender(lambda _: run())


def _pool(backbone: Backbone, most: int) -> DecodePool:
    return DecodePool(Sizes.make(backbone, _SAMPLING, backbone.device, 1, 1, 8, 600.0, thumbnails=most).setup, 1)


def _decode(pool: DecodePool, films: Sequence[Path]) -> None:
    """Decode everything and look at nothing."""
    for event in pool.run(Job(number, str(film)) for number, film in enumerate(films)):
        if isinstance(event, ClipResult) and event.outcome.status != "ok":
            raise RuntimeError(f"{films[event.number]}: {event.outcome}")


def _extract(root: Path, films: Sequence[Path], backbone: Backbone, most: int) -> str:
    dataset = dataset_of(root, films)
    return run(root, dataset, films, backbone, _SAMPLING, workers=1, device="cpu", thumbnails=most).path
