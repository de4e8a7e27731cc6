"""Measure moments on films put together from known clips, so the right film and the right seconds are known.

The clips of a split are joined to films of twelve in random order: their stored features one after the other, a second
a step, of each clip three steps to all. Each caption is a query. The rule's smoothing and fall are chosen on films of
training clips; what is reported is of films of test clips. Beside it: the best step alone, and the best window of eight
seconds.

    python examples/tiny_clip.py tiny-clip
    python cli.py extract demo --data demo/world --backbone open_clip:tiny-clip --frames 8
    python examples/moments.py demo/open_clip-tiny-clip --protocol demo

What came of it: docs/results.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import click
import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.ranks import bootstrap_intervals, cosine_scores, unit_rows
from supportset.search.moments import Rule, find_moments
from supportset.search.zero_shot import ZeroShot, open_zero_shot

CLIPS = 12  # of a film
SHORTEST = 3  # steps of a clip
WINDOW = 8  # steps of the alternative that is a fixed window
SMOOTH = (0.0, 2.0, 3.0, 4.0, 6.0)
FALL = (0.3, 0.4, 0.5, 0.6, 0.7)

Span = tuple[float, float]
Cut = Callable[[NDArray[np.floating], NDArray[np.floating], float], Span]


@dataclass(frozen=True)
class Films:
    """Films and their queries.

    Attributes
    ----------
    steps : list of (T, d) arrays
        Of each film, of unit length; a step is a second.
    texts : (Q, d) array
        Queries, of unit length.
    film : (Q,) int64
        The film of each query.
    right : list of (start, end)
        Seconds of each query's clip in its film.
    clips : list of str
        Clip of each query, by which intervals are drawn.
    """

    steps: list[NDArray[np.float64]]
    texts: NDArray[np.float64]
    film: NDArray[np.int64]
    right: list[Span]
    clips: list[str]


def make_films(retriever: ZeroShot, protocol: str, split: str, seed: int) -> Films:
    """Join the clips of a split to films."""
    clip_ids = [clip for clip in retriever.dataset.split_clips(protocol, split) if clip in retriever.features]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(clip_ids))
    chosen = [clip_ids[i] for i in order[: len(order) // CLIPS * CLIPS]]
    values, offsets = retriever.features.read(chosen)
    units = [
        part[: rng.integers(min(SHORTEST, len(part)), len(part) + 1)]
        for part in np.split(unit_rows(values), offsets[1:-1])
    ]
    offsets = np.cumsum([0, *map(len, units)])
    steps = [np.concatenate(units[start : start + CLIPS]) for start in range(0, len(units), CLIPS)]
    place = {clip: number for number, clip in enumerate(chosen)}
    captions = [each for each in retriever.dataset.split_captions(protocol, split) if each.clip_id in place]
    numbers = np.asarray([place[caption.clip_id] for caption in captions])
    begins = offsets[numbers] - offsets[numbers // CLIPS * CLIPS]
    ends = offsets[numbers + 1] - offsets[numbers // CLIPS * CLIPS]
    texts = unit_rows(retriever.encode_text([caption.text for caption in captions]))
    clips = [caption.clip_id for caption in captions]
    right = list(zip(begins.tolist(), ends.tolist(), strict=True))
    return Films(steps, texts, numbers // CLIPS, right, clips)


def overlaps(films: Films, cut: Cut) -> NDArray[np.float64]:
    """Intersection over union of each query's right seconds and those that are found in its film, (Q,)."""
    background = np.concatenate(films.steps).mean(axis=0)
    found = []
    for text, film, (start, end) in zip(films.texts, films.film.tolist(), films.right, strict=True):
        scores = cosine_scores(text[None], films.steps[film])[0]
        seconds = np.arange(len(scores) + 1.0)
        a, b = cut(scores, np.stack([seconds[:-1], seconds[1:]], axis=1), float(text @ background))
        found.append(max(0.0, min(b, end) - max(a, start)) / (max(b, end) - min(a, start)))
    return np.asarray(found)


def by_rule(rule: Rule) -> Cut:
    """The best moment of the rule."""

    def cut(scores: NDArray[np.floating], spans: NDArray[np.floating], base: float) -> Span:
        moment = find_moments(scores, spans, base, rule)[0]
        return moment.start_s, moment.end_s

    return cut


def best_step(scores: NDArray[np.floating], spans: NDArray[np.floating], base: float) -> Span:
    """The second with the best score."""
    start, end = spans[int(scores.argmax())]
    return float(start), float(end)


def best_window(scores: NDArray[np.floating], spans: NDArray[np.floating], base: float) -> Span:
    """The eight seconds with the best mean."""
    start = int(np.convolve(scores, np.ones(WINDOW), "valid").argmax())
    return float(spans[start, 0]), float(spans[start + WINDOW - 1, 1])


def film_ranks(films: Films, embed: Callable[[NDArray[np.floating]], NDArray[np.floating]]) -> NDArray[np.float64]:
    """Rank of each query's film where a film's score is that of the best of ``embed``'s vectors, (Q,)."""
    scores = np.stack([cosine_scores(films.texts, embed(steps)).max(axis=1) for steps in films.steps], axis=1)
    own = scores[np.arange(len(scores)), films.film]
    return (scores >= own[:, None]).sum(axis=1).astype(np.float64)


def choose_rule(films: Films) -> Rule:
    """The smoothing and fall with the best mean overlap."""
    rules = [Rule(smooth_s=smooth, fall=fall) for smooth, fall in product(SMOOTH, FALL)]
    return max(rules, key=lambda rule: overlaps(films, by_rule(rule)).mean())


@click.command()
@click.argument("features")
@click.option("--store", default="features", show_default=True)
@click.option("--protocol", required=True)
@click.option("--seeds", default=3, show_default=True, help="Ways to join the clips.")
def main(features: str, store: str, protocol: str, seeds: int) -> None:
    """Measure moments on films made of the clips of FEATURES, DATASET/WORDS of an encoder pair."""
    retriever = open_zero_shot(features, store)
    rule = choose_rule(make_films(retriever, protocol, "train", seed=0))
    click.echo(f"chosen on films of training clips: smooth_s {rule.smooth_s:g}, fall {rule.fall:g}")
    tests = [make_films(retriever, protocol, "test", seed) for seed in range(seeds)]
    clips = [clip for films in tests for clip in films.clips]
    click.echo(f"{len(clips):,} queries, {seeds} x {len(tests[0].steps)} films of {CLIPS} test clips")
    for name, cut in (("best step", best_step), ("best window", best_window), ("rule", by_rule(rule)),
                      ("default rule", by_rule(Rule()))):  # fmt: skip
        found = np.concatenate([overlaps(films, cut) for films in tests])
        _tell(name, "IoU >= 0.5", np.where(found >= 0.5, 1.0, 2.0), clips, f"mean IoU {found.mean():.2f}")
    ways = {
        "mean of steps": lambda steps: unit_rows(steps.mean(axis=0, keepdims=True)),
        "best step": lambda steps: steps,
    }
    for name, embed in ways.items():
        _tell(name, "film R@1", np.concatenate([film_ranks(films, embed) for films in tests]), clips)


def _tell(name: str, measure: str, ranks: NDArray[np.float64], clips: Sequence[str], more: str = "") -> None:
    low, high = bootstrap_intervals(ranks, clips, (1,))["R@1"]
    click.echo(f"{name:<14} {measure:<11} {100 * (ranks <= 1).mean():5.1f} ({low:.1f} to {high:.1f})  {more}")


if __name__ == "__main__":
    main()
