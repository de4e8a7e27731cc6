"""``report``: the model card of a run."""

from __future__ import annotations

import click


@click.command("report")
@click.argument("run", type=click.Path())
def report_command(run: str) -> None:
    """Write RUN's model card (README.md) anew, with all its evaluations, and print it."""
    from train.report import CARD, write_card
    from train.run_folder import RunFolder

    folder = RunFolder(run)
    click.echo(write_card(folder))
    click.echo(f"written: {folder.path / CARD}", err=True)
