"""One table of runs and of features without training, all scored on the same split, gallery and queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supportset.evaluate.compare import SAMPLES, compare
from supportset.evaluate.results import Result, read_result
from supportset.evaluate.scoring import PLAIN, Scoring
from supportset.store.errors import UsageError


def leaderboard(
    runs: Sequence[str | Path],
    zero_shot: Sequence[str] = (),
    store: str | Path = "features",
    *,
    protocol: str | None = None,
    split: str | None = None,
    metric: str = "t2v/R@1",
    samples: int = SAMPLES,
    device: str = "auto",
    scoring: Scoring = PLAIN,
) -> dict[str, Any]:
    """Evaluate runs and features without training, and compare them with the first row.

    Parameters
    ----------
    runs : sequence of str or Path
        Run folders; each is evaluated anew and keeps the result in its ``eval/``.
    zero_shot : sequence of str
        ``DATASET/FEATURES`` of encoder pairs: the first rows, in the order given. Runs follow, the best first.
    store : str or Path
        Folder of the feature store.
    protocol, split : str, optional
        By default those of the first run, or the dataset's only ones.
    metric : str
        What runs are ordered by, and p values are of.
    samples : int
        Draws of the bootstrap.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    scoring : Scoring
        Gallery list and conventions, the same for all.

    Returns
    -------
    dict
        As `supportset.evaluate.compare.compare`.

    Raises
    ------
    UsageError
        Fewer than two rows, or rows that cannot be compared.
    """
    if len(runs) + len(zero_shot) < 2:
        raise UsageError("give two or more RUNS, or a run and --zero-shot DATASET/FEATURES")
    in_tables, only = split, None
    if runs:
        from supportset.train.open_run import split_in_tables
        from supportset.train.run_folder import RunFolder

        folder = RunFolder(runs[0])
        protocol = protocol or folder.load_config().data.protocol
        in_tables, only = split_in_tables(folder, split)
    first, rest = [], []
    for name in zero_shot:
        from supportset.search.zero_shot import open_zero_shot

        evaluation = open_zero_shot(name, store, device=device).evaluation(
            protocol, in_tables, scoring=scoring, only=only
        )
        first.append(Result.of(f"{name} (zero-shot)", evaluation))
    for run in runs:
        from supportset.train.evaluate import evaluate

        told = evaluate(run, protocol, split, store, device=device, scoring=scoring)
        result = read_result(told["files"]["scores"])
        rest.append(Result(Path(run).resolve().name, result.facts, result.ways))
    rest.sort(key=lambda result: -_of(result, metric))
    return compare([*first, *rest], metric=metric, samples=samples, changed=0)


def _of(result: Result, metric: str) -> float:
    way, _, name = metric.partition("/")
    return float(result.facts[way][name] if name else result.facts[metric])
