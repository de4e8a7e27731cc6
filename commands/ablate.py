"""``ablate``: train variants of a configuration over several seeds, and compare them."""

from __future__ import annotations

import click

from supportset.commands.options import device_option, json_option, print_json, store_option


@click.command("ablate")
@click.argument("grid", type=click.Path())
@store_option
@click.option("--out", help="The study's folder.  [default: runs/NAME, NAME the grid's]")
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Parallel runs; they share the threads."
)
@click.option("--retry-failed", is_flag=True, help="Run failed runs again.")
@click.option("--keep-models", is_flag=True, help="Keep every run's folder in OUT/work.")
@click.option("--tables-only", is_flag=True, help="Train nothing: write the tables from the finished runs.")
@device_option
@json_option
def ablate_command(
    grid: str,
    store: str,
    out: str | None,
    jobs: int,
    retry_failed: bool,
    keep_models: bool,
    tables_only: bool,
    device: str,
    as_json: bool,
) -> None:
    """Run the variants of GRID over its seeds; write tables and a plot.

    GRID is a TOML file, or one of the names that `configs` lists. The same command
    continues an interrupted study, and repeats runs whose configuration has changed. A complete study is packed into
    OUT/runs.jsonl.xz, from which --tables-only writes the tables again.
    """
    from supportset.train.ablation.grid import load_grid
    from supportset.train.ablation.markdown import markdown
    from supportset.train.ablation.study import read_study, run_study
    from supportset.train.ablation.table import tabulate, write_tables

    plan = load_grid(grid)
    folder = out or f"runs/{plan.name}"
    study = (
        read_study(plan, folder)
        if tables_only
        else run_study(
            plan, folder, store, jobs=jobs, device=device, retry_failed=retry_failed, keep_models=keep_models
        )
    )
    table = tabulate(study)
    files = write_tables(study, table)
    if as_json:
        print_json({**table, "files": files})
    else:
        click.echo(markdown(table))
        click.echo(f"written: {', '.join(files)}", err=True)
    if study.failed:
        click.echo(f"{len(study.failed)} runs failed; --retry-failed tries them again", err=True)
        raise click.exceptions.Exit(1)
