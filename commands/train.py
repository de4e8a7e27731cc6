"""``train``: from stored features to a run folder."""

from __future__ import annotations

import shlex

import click

from supportset._program import program
from supportset.commands.options import device_option, json_option, print_json, store_option


@click.command("train")
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@store_option
@click.option("--out", help="Run folder.  [default: runs/NAME, NAME being the configuration's]")
@click.option("--resume", is_flag=True, help="Continue from the run folder's checkpoint.")
@device_option
@json_option
def train_command(
    config: str, overrides: tuple[str, ...], store: str, out: str | None, resume: bool, device: str, as_json: bool
) -> None:
    """Train on stored features; no video is opened.

    CONFIG is a TOML file, or a name that `configs` lists. KEY=VALUE overrides a value of it, as in optim.epochs=5.

    On several GPUs: torchrun --nproc_per_node 4 -m supportset train CONFIG (see docs/training.md).
    """
    from supportset.train.config import load_config
    from supportset.train.loop.ranks import one_report
    from supportset.train.loop.training import train

    with one_report():
        settings = load_config(config, overrides)
    result = train(settings, store, out, resume=resume, device=device)
    if not result.main:
        return
    if as_json:
        print_json(
            {
                "run": str(result.run),
                "epochs": result.epochs,
                "steps": result.steps,
                "best": result.best,
                "seconds": round(result.seconds, 1),
            }
        )
        return
    click.echo(f"{result.steps:,} steps in {result.seconds:.0f} s; the model of epoch {result.best['epoch']} is saved")
    click.echo(f"run folder: {result.run}")
    click.echo(
        f"next: {program()} eval {shlex.quote(str(result.run))} --store {shlex.quote(store)}{result.eval_options}"
    )
