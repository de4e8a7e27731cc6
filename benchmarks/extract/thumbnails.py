"""What thumbnails cost: CPU time of decoding alone, and of extraction, with thumbnails and without.

CPU time of this process and of its workers, since the ratios are near 1, and clocks of a busy machine are not.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.extract.films import write_films
from benchmarks.extract.plan import Plan
from benchmarks.extract.store import dataset_of, run
from benchmarks.report import THE_TIME, Figure, Row
from benchmarks.timing import Timings
from supportset.extract.backbones import load_backbone
from supportset.extract.backbones.base import Backbone
from supportset.extract.decode.clips import decode_clips
from supportset.extract.decode.sampling import Sampling
from supportset.extract.decode.thumbnails import MOST
from supportset.store.read.thumbnails import Thumbnails

_SAMPLING = Sampling(fps=1.0)
_PICTURES = {"without": 0, "with thumbnails": MOST}
_MOST_TIME = {"decoding": 1.1, "extraction": 1.03}


def measure(plan: Plan) -> Figure:
    """Films of both sizes; of the large ones a sixth as many."""
    sizes = plan.sizes
    figure = Figure("thumbnails", "CPU time of thumbnails, one a second")
    figure.sizes = {"films": sizes.films, "backbone": sizes.backbone, "workers": 1, "fps": 1}
    backbone = load_backbone(sizes.backbone)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for shape, count in ((sizes.shape, sizes.films), (sizes.large_shape, -(-sizes.films // 6))):
            _size(plan, figure, backbone, shape, count)
    finally:
        torch.set_num_threads(threads)
    figure.notes.append(
        "decoding: with the model's transform; extraction: one worker, the model on one thread of a CPU"
    )
    return figure


def _size(plan: Plan, figure: Figure, backbone: Backbone, shape: tuple[int, int], count: int) -> None:
    name = "x".join(map(str, shape))
    plan.tell(f"making {count} films of {name}")
    films = write_films(plan.folder / f"films-{name}", count, plan.sizes.seconds, shape)
    root = plan.folder / f"features-{name}"
    plan.tell(f"{name}: {plan.rounds} rounds")
    jobs: dict[str, Callable[[], object]] = {}
    for key, most in _PICTURES.items():
        jobs[f"decoding, {key}"] = partial(_decode, films, backbone, most)
        jobs[f"extraction, {key}"] = partial(_extract, root, films, backbone, most)
    spent = Timings({key: [] for key in jobs})
    for number in range(-int(not plan.quick), plan.rounds):
        for key in sorted(jobs, reverse=bool(number % 2)):
            seconds = _cpu_seconds(jobs[key])
            if number >= 0:
                spent.seconds[key].append(seconds)
    figure.timings.append(Timings({f"{name}: {key}, CPU": seconds for key, seconds in spent.seconds.items()}))
    plain, pictured = _PICTURES
    for stage, most_time in _MOST_TIME.items():
        ratio = spent.ratio(f"{stage}, {pictured}", f"{stage}, {plain}")
        says = f"{name}: {stage}, {pictured}, CPU"
        figure.rows.append(Row(f"thumbnails.{name}.{stage}", says, plain, ratio, THE_TIME, at_most=most_time))
    stored = Thumbnails.open(_extract(root, films, backbone, MOST))
    assert stored is not None
    jpegs = [stored.read(clip, start) or b"" for clip in stored.clip_ids for start, _ in stored.spans(clip)]
    more = spent.median(f"decoding, {pictured}") - spent.median(f"decoding, {plain}")
    figure.notes.append(
        f"{name}: {len(jpegs):,} thumbnails of {sum(map(len, jpegs)) / len(jpegs):,.0f} bytes; "
        f"{1000 * more / len(jpegs):.1f} ms each, beside {1000 * spent.median(f'decoding, {plain}') / len(jpegs):.1f} "
        f"ms of decoding and {1000 * spent.median(f'extraction, {plain}') / len(jpegs):.1f} ms of extraction"
    )


def _cpu_seconds(run: Callable[[], object]) -> float:
    """CPU time of this process and of those that it has waited for, as it does for decode workers."""
    since = _spent()
    run()
    return _spent() - since


def _spent() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


def _decode(films: Sequence[Path], backbone: Backbone, most: int) -> None:
    transform = backbone.frame_transform()
    for film in films:
        for _ in decode_clips(film, [(None, None)], _SAMPLING, transform=transform, thumbnails=most):
            pass


def _extract(root: Path, films: Sequence[Path], backbone: Backbone, most: int) -> str:
    dataset = dataset_of(root, films)
    return run(root, dataset, films, backbone, _SAMPLING, workers=1, device="cpu", thumbnails=most).path
