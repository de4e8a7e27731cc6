"""The table of a study: each variant's scores over seeds, and its paired difference to the first variant."""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger
from typing import Any

import numpy as np

from supportset.evaluate.paired_tests import (
    CUTS,
    METRICS,
    WAYS,
    Hits,
    bootstrap,
    count_hits,
    holm,
    interval,
    permutation_p,
    sign_test_p,
)
from supportset.store.errors import SupportsetError, UsageError
from supportset.train.ablation.grid import Grid, Variant
from supportset.train.ablation.results import RunKey, StudyFolder, read_ranks, stamped
from supportset.train.ablation.study import StudyRuns, trial_score


def tabulate(study: StudyRuns, *, samples: int = 2000) -> dict[str, Any]:
    """Compute the table of a study, as plain JSON.

    Returns
    -------
    dict
        ``study``, ``protocol``, ``split``, ``folds``, ``gallery`` (of each fold), ``queries``, ``seeds`` (of the grid),
        ``metric``, ``selection``, ``variants`` (each with ``scores``: mean, sd over seeds, interval and every seed's
        value; ``difference`` to the first variant: mean, interval, seeds better and worse, p values), ``search``,
        ``failed``, ``notes``.

    Raises
    ------
    UsageError
        No variant has a finished run.
    SupportsetError
        Runs of the study were scored on different queries, or their files are damaged.
    """
    grid = study.grid
    hits = {variant.name: found for variant in grid.variants if (found := _hits(study, variant)) is not None}
    if not hits:
        raise UsageError(f"{study.folder.path}: no run of study {grid.name!r} is finished there")
    some = next(iter(study.runs.values()))
    notes = _notes(study, hits)
    variants = [_row(study, variant, hits[variant.name], samples) for variant in grid.variants if variant.name in hits]
    _compare(grid, variants, hits, samples)
    return stamped(
        {
            "study": grid.name,
            "note": grid.note,
            "dataset": some["data"]["dataset"],
            "protocol": some["test"]["protocol"],
            "split": some["test"]["split"],
            "folds": grid.folds,
            "gallery": sorted({result["test"]["gallery"] for result in study.runs.values()}),
            "queries": int(next(iter(hits.values())).queries[:, 0].sum()),
            "clips": int((next(iter(hits.values())).queries[:, 0] > 0).sum()),
            "seeds": list(grid.seeds),
            "metric": grid.metric,
            "selection": _selection(some),
            "bootstrap": {"samples": samples, "level": 0.95, "over": "clips and seeds"},
            "variants": variants,
            "search": _search(study),
            "failed": {key.stem: words for key, words in study.failed.items()},
            "notes": notes,
        }
    )


def _hits(study: StudyRuns, variant: Variant) -> Hits | None:
    """Hits of a variant's runs, for the seeds that are finished in all folds; folds are concatenated."""
    seeds = [
        seed
        for seed in study.grid.seeds
        if all(RunKey(variant.name, seed, fold) in study.runs for fold in study.grid.fold_numbers)
    ]
    if not seeds:
        return None
    by_seed, queries = [], None
    for seed in seeds:
        parts = [_counted(study, RunKey(variant.name, seed, fold)) for fold in study.grid.fold_numbers]
        by_seed.append(np.concatenate([part[0] for part in parts]))
        queries = np.concatenate([part[1] for part in parts])
    assert queries is not None
    return Hits(tuple(seeds), np.stack(by_seed), queries)


def _counted(study: StudyRuns, key: RunKey) -> tuple[Any, Any]:
    result = study.runs[key]
    name = _items(study, key.fold)
    if result["ranks"]["items"] != name:
        raise SupportsetError(
            f"{study.folder.path / key.path}: was scored on other queries than the first run of the study, so "
            "they cannot be compared: the store has changed since; start the study again with another --out"
        )
    clips, of_query = study.folder.read_items(name)
    hits, queries = [], []
    for way in WAYS:
        ranks = read_ranks(result["ranks"][way], study.folder.path / key.path)
        if len(ranks) != len(of_query[way]):
            raise SupportsetError(f"{study.folder.path / key.path}: damaged ranks; delete it to run this again")
        found, asked = count_hits(ranks, of_query[way], len(clips))
        hits.append(found)
        queries.append(np.repeat(asked[:, None], len(CUTS), axis=1))
    return np.concatenate(hits, axis=1), np.concatenate(queries, axis=1)


def _items(study: StudyRuns, fold: int | None) -> str:
    """Name of the queries of the study's first run in a fold."""
    return str(next(result["ranks"]["items"] for key, result in study.runs.items() if key.fold == fold))


def _row(study: StudyRuns, variant: Variant, hits: Hits, samples: int) -> dict[str, Any]:
    runs = [study.runs[RunKey(variant.name, seed, fold)] for seed in hits.seeds for fold in study.grid.fold_numbers]
    scores = hits.scores()
    bounds = interval(bootstrap(hits, samples=samples))
    spread: list[float | None] = scores.std(0, ddof=1).tolist() if len(scores) > 1 else [None] * len(METRICS)
    ranks = {way: [result["test"][way]["MdR"] for result in runs] for way in WAYS}
    return {
        "name": variant.name,
        "changes": variant.changes,
        "chosen": _chosen(study, variant),
        "seeds": list(hits.seeds),
        "runs": len(runs),
        "seconds": round(float(np.mean([result["seconds"] for result in runs])), 1),
        "scores": {
            metric: {
                "mean": float(scores[:, column].mean()),
                "sd": spread[column],
                "interval": bounds[column],
                "seeds": scores[:, column].tolist(),
            }
            for column, metric in enumerate(METRICS)
        },
        "attention": {
            name: float(np.mean([result["attention"][name] for result in runs])) for name in runs[0]["attention"]
        },
        "median_rank": {way: float(np.mean(values)) for way, values in ranks.items()},
        "difference": None,
    }


def _compare(grid: Grid, rows: list[dict[str, Any]], hits: Mapping[str, Hits], samples: int) -> None:
    """Enter each variant's paired difference to the first of the grid, where that has runs."""
    first = grid.variants[0].name
    if first not in hits:
        return
    compared = []
    for row in rows:
        mine, theirs = hits[row["name"]], hits[first]
        seeds = [seed for seed in mine.seeds if seed in theirs.seeds]
        if row["name"] == first or not seeds:
            continue
        mine, theirs = mine.of(seeds), theirs.of(seeds)
        by_seed = mine.scores() - theirs.scores()
        bounds = interval(bootstrap(mine, theirs, samples=samples))
        column = METRICS.index(grid.metric)
        row["difference"] = {
            "to": first,
            "seeds": seeds,
            "scores": {
                metric: {"mean": float(by_seed[:, place].mean()), "interval": bounds[place]}
                for place, metric in enumerate(METRICS)
            },
            "seeds_better": int((by_seed[:, column] > 0).sum()),
            "seeds_worse": int((by_seed[:, column] < 0).sum()),
            "p_sign_over_seeds": sign_test_p(by_seed[:, column]),
            "p_permutation_over_clips": permutation_p(mine, theirs, grid.metric),
        }
        compared.append(row["difference"])
    for difference, value in zip(compared, holm([each["p_permutation_over_clips"] for each in compared]), strict=True):
        difference["p_permutation_holm"] = value


def _chosen(study: StudyRuns, variant: Variant) -> list[dict[str, Any]]:
    """What the search chose, fold by fold; one entry where it is the same for all."""
    if study.grid.search is None:
        return []
    found = [
        study.chosen[variant.name, fold] for fold in study.grid.search_folds if (variant.name, fold) in study.chosen
    ]
    return found[:1] if all(values == found[0] for values in found) else found


def _search(study: StudyRuns) -> dict[str, Any] | None:
    search = study.grid.search
    if search is None:
        return None
    return {
        "trials_per_variant": search.trials,
        "folds": search.folds if study.grid.folds else None,
        "judged_by": "validation score, held out of the training split by source video; never the reported clips",
        "trials": [
            {
                "variant": key.variant,
                "fold": key.fold,
                "trial": key.trial,
                "values": result["chosen"],
                "validation": trial_score(result),
                "seconds": result["seconds"],
            }
            for key, result in study.trials.items()
        ],
    }


def _selection(result: Mapping[str, Any]) -> str:
    best, validation = result["best"], result["data"]["validation"]
    if validation is None:
        return "the last epoch; nothing is held out"
    part = "held out of the training split by source video" if validation["split"] == "holdout" else "the split's own"
    return (
        f"best epoch by {best['select_by']} on validation ({validation['split']}: {validation['clips']} clips, "
        f"{validation['captions']} captions, {part})"
        if best["select_by"] != "last"
        else "the last epoch"
    )


def _notes(study: StudyRuns, hits: Mapping[str, Hits]) -> list[str]:
    """Caveats that change how the table is read."""
    notes = []
    grid = study.grid
    wanted = len(grid.variants) * len(grid.seeds) * len(grid.fold_numbers)
    if len(study.runs) < wanted:
        notes.append(f"unfinished: {len(study.runs)} of {wanted} runs are there")
    if study.failed:
        notes.append(f"{len(study.failed)} runs failed: {', '.join(sorted(key.stem for key in study.failed))}")
    if grid.search is not None and grid.search.folds == "first" and grid.folds:
        notes.append(
            "values were searched on the training part of the first fold alone; other folds are scored on clips of it"
        )
    for variant in grid.variants:
        prints = {
            (key.fold, result["data"]["fingerprint"])
            for key, result in study.runs.items()
            if key.variant == variant.name
        }
        if len(prints) > len({fold for fold, _ in prints}):
            notes.append(
                f"variant {variant.name!r}: the features, clips or captions in the store changed between its runs; "
                "delete the older ones in runs/"
            )
    if missing := {result["test"]["missing"] for result in study.runs.values() if result["test"]["missing"]}:
        notes.append(f"{max(missing)} clips of the gallery have no features and count as misses")
    devices = {(result["made"]["device"], result["made"]["torch"]) for result in study.runs.values()}
    if len(devices) > 1:
        listed = "; ".join(f"{device}, torch {version}" for device, version in sorted(devices))
        notes.append(f"the runs were made on different devices or versions: {listed}")
    leaks = [result["test"]["leakage"] for result in study.runs.values()]
    if any(leak["shared_source_clips"] for leak in leaks):
        notes.append(
            f"leakage: up to {max(leak['shared_source_clips'] for leak in leaks)} clips share their source video with "
            "a training clip"
        )
    if any(leak["verbatim_queries"] for leak in leaks):
        notes.append(
            f"leakage: up to {max(leak['verbatim_queries'] for leak in leaks)} queries are word for word training "
            "captions"
        )
    return notes


def write_tables(study: StudyRuns, table: Mapping[str, Any]) -> list[str]:
    """Write ``table.json``, ``table.md`` and ``plot.png`` into the study's folder, and pack a complete study.

    Returns
    -------
    list of str
        Paths of the tables and the plot. Without matplotlib there is no plot, and a warning says so.
    """
    from supportset.train.ablation.markdown import markdown
    from supportset.train.ablation.plot import plot_png

    folder: StudyFolder = study.folder
    folder.write("table.json", table)
    folder.put("table.md", markdown(table).encode("utf-8"))
    names = ["table.md", "table.json"]
    try:
        folder.put("plot.png", plot_png(table))
        names.append("plot.png")
    except UsageError as error:  # a study of days is not lost because there is no plot
        getLogger(__name__).warning("no plot.png: %s", error)
    if study.complete:
        folder.pack()
    return [str(folder.path / name) for name in names]
