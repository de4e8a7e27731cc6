"""Measure the cut-off of a search: how often "nothing fits" is said although something does, and the other way round.

For each word, all clips whose captions have it are taken out of the library. Then captions of the other clips should
fit, and captions with the word should not, though the rest of such a caption may. Lines of a file that have nothing to
do with the library should not fit, either. Beside the rule: the best score alone, above that of the same share of the
background texts.

    python examples/tiny_clip.py tiny-clip
    python cli.py extract demo --data demo/world --backbone open_clip:tiny-clip --frames 8
    python examples/cutoff.py --zero-shot demo/open_clip-tiny-clip --protocol demo --split test ball star red blue

What came of it: docs/results.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from supportset.evaluate.ranks import unit_rows
from supportset.search.cutoff import FIRST, LEVEL, background_texts, cutoffs
from supportset.search.retriever import Retriever
from supportset.search.run import open_run
from supportset.search.zero_shot import open_zero_shot

Scores = NDArray[np.float32]
Fits = Callable[[Scores, Scores], NDArray[np.bool_]]  # scores of clips for queries (N, Q) and for the background (N, B)


def by_rule(scores: Scores, background: Scores) -> NDArray[np.bool_]:
    """Whether one of the best clips is above its cut-off, (Q,)."""
    least = cutoffs([background])
    best = np.argpartition(-scores, min(FIRST, len(scores)) - 1, axis=0)[:FIRST]
    found: NDArray[np.bool_] = (np.take_along_axis(scores, best, 0) > least[best]).any(axis=0)
    return found


def by_best_score(scores: Scores, background: Scores) -> NDArray[np.bool_]:
    """Whether the best score is above that of most background texts, (Q,)."""
    found: NDArray[np.bool_] = scores.max(axis=0) > np.quantile(background.max(axis=0), LEVEL)
    return found


@click.command()
@click.argument("words", nargs=-1, required=True)
@click.option("--run", help="A trained run.")
@click.option("--zero-shot", metavar="DATASET/FEATURES", help="Features of an encoder pair.")
@click.option("--store", default="features", show_default=True)
@click.option("--protocol", required=True)
@click.option("--split", required=True)
@click.option("--fitting", type=click.Path(path_type=Path), help="A file of texts that fit the split, one a line.")
@click.option("--unrelated", type=click.Path(path_type=Path), help="A file of texts that do not fit, one a line.")
def main(
    words: tuple[str, ...],
    run: str | None,
    zero_shot: str | None,
    store: str,
    protocol: str,
    split: str,
    fitting: Path | None,
    unrelated: Path | None,
) -> None:
    """Measure the cut-off on the clips of a split, without those of each of WORDS."""
    if (run is None) == (zero_shot is None):
        raise click.UsageError("give --run or --zero-shot")
    retriever: Retriever = open_zero_shot(zero_shot, store) if zero_shot else open_run(str(run))
    opened = retriever.open_clips(None if zero_shot else store)
    ids = [clip for clip in opened.dataset.split_clips(protocol, split) if clip in opened.features]
    captions = [each for each in opened.dataset.split_captions(protocol, split) if each.clip_id in set(ids)]
    others, wanted = (path.read_text(encoding="utf-8").splitlines() if path else [] for path in (unrelated, fitting))

    def embed(texts: list[str]) -> Scores:
        return unit_rows(retriever.encode_text(texts)).astype(np.float32)

    clips = retriever.encode_stored(opened.features, ids)
    scores = clips @ embed([each.text for each in captions]).T
    foreign = clips @ embed(others).T if others else np.zeros((len(ids), 0), np.float32)
    background = clips @ embed(list(background_texts())).T
    rules: dict[str, Fits] = {"rule": by_rule, "best score": by_best_score}
    counts = {name: np.zeros((3, 2), np.int64) for name in rules}
    for word in words:
        has = np.asarray([re.search(rf"\b{word}s?\b", each.text.lower()) is not None for each in captions])
        gone = {each.clip_id for each, with_word in zip(captions, has, strict=True) if with_word}
        kept = np.asarray([clip not in gone for clip in ids])
        others_fit = np.asarray([each.clip_id not in gone for each in captions])
        if not has.any() or not others_fit.any():
            raise click.UsageError(f"{word!r} is in none of the captions, or describes all clips")
        for name, fits in rules.items():
            for row, queries in enumerate((scores[:, others_fit], scores[:, has], foreign)):
                if queries.shape[1]:
                    found = fits(queries[kept], background[kept])
                    counts[name][row] += (~found if row == 0 else found).sum(), len(found)
    if wanted:
        given = clips @ embed(wanted).T
        for name, fits in rules.items():
            missed = (~fits(given, background)).sum()
            click.echo(f"{name:<11} given texts: 'nothing fits'  {missed:,} of {len(wanted):,}")
    click.echo(f"{len(ids):,} clips without those of each of {len(words)} words; wrong answers:")
    told = ("fitting: 'nothing fits'", "clips taken out: 'fits'", "unrelated: 'fits'")
    for name, found in counts.items():
        for what, (wrong, every) in zip(told, found.tolist(), strict=True):
            if every:
                click.echo(f"{name:<11} {what:<24} {100 * wrong / every:5.1f} %  ({wrong:,} of {every:,})")


if __name__ == "__main__":
    main()
