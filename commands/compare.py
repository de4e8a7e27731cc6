"""``compare`` and ``leaderboard``: results beside each other, with paired tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from supportset.commands.options import device_option, json_option, print_json, store_option
from supportset.commands.scoring import scoring_of, scoring_options

metric_option: Callable[[Any], Any] = click.option(
    "--metric", default="t2v/R@1", show_default=True, help="What p values are of: t2v/R@1 ... v2t/R@10, rsum."
)
format_option: Callable[[Any], Any] = click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "csv", "latex"]),
    default="markdown",
    show_default=True,
    help="Of the tables.",
)
table_option: Callable[[Any], Any] = click.option(
    "--out", type=click.Path(dir_okay=False), help="Write the tables to a file.  [default: print them]"
)


@click.command("compare")
@click.argument("results", type=click.Path(), nargs=-1, required=True)
@click.option("--protocol", help="Which result, where a folder has several.")
@click.option("--split", help="Which result, where a folder has several.")
@click.option("--dataset", help="Which result, where a folder has several.")
@metric_option
@click.option("--changed", type=click.IntRange(0), default=10, show_default=True, help="Queries listed each way.")
@format_option
@table_option
@store_option
@json_option
def compare_command(
    results: tuple[str, ...],
    protocol: str | None,
    split: str | None,
    dataset: str | None,
    metric: str,
    changed: int,
    form: str,
    out: str | None,
    store: str,
    as_json: bool,
) -> None:
    """Compare RESULTS with the first: paired bootstrap, permutation test, and the queries that changed most.

    A result is a run folder, a folder that `eval --out` wrote (for features without training, embeddings, score
    matrices), or one of their JSON files. Results of another protocol, split, gallery or other queries are refused.
    """
    from supportset.evaluate.compare import compare, tables
    from supportset.evaluate.results import caption_texts, read_result

    read = [read_result(path, protocol, split, dataset) for path in results]
    comparison = compare(read, metric=metric, changed=changed, texts=caption_texts(read[0], store))
    _show(comparison, tables(comparison), form, out, as_json)


@click.command("leaderboard")
@click.argument("runs", type=click.Path(), nargs=-1)
@click.option("--zero-shot", multiple=True, metavar="DATASET/FEATURES", help="Features without training; repeatable.")
@click.option("--protocol", help="[default: the first run's, or the dataset's only one]")
@click.option("--split", help="[default: test]")
@metric_option
@format_option
@table_option
@scoring_options
@store_option
@device_option
@json_option
def leaderboard_command(
    runs: tuple[str, ...],
    zero_shot: tuple[str, ...],
    protocol: str | None,
    split: str | None,
    metric: str,
    form: str,
    out: str | None,
    store: str,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Evaluate RUNS and features without training on the same queries, and print one table.

    Features without training are the first rows; runs follow, the best first. Each row has its paired difference to
    the first.
    """
    from supportset.evaluate.compare import tables
    from supportset.search.leaderboard import leaderboard

    comparison = leaderboard(
        runs,
        zero_shot,
        store,
        protocol=protocol,
        split=split,
        metric=metric,
        device=device,
        scoring=scoring_of(options),
    )
    _show(comparison, tables(comparison, "Leaderboard")[:2], form, out, as_json)


def _show(comparison: Any, tables: Any, form: str, out: str | None, as_json: bool) -> None:
    from supportset.evaluate.table import FORMATS
    from supportset.store.errors import printable_lines
    from supportset.store.files import LocalFolder

    text = FORMATS[form](tables)
    if out is not None:
        LocalFolder(Path(out).parent).put({Path(out).name: [text.encode("utf-8")]})
        click.echo(f"written: {out}", err=True)
    if as_json:
        print_json(comparison)
    elif out is None:
        click.echo(printable_lines(text), nl=False)
