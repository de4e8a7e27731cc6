"""``configs``: the configurations and grids that come with the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

import click

from supportset.commands.options import json_option, print_json


@click.command("configs")
@click.argument("name", required=False)
@json_option
def configs_command(name: str | None, as_json: bool) -> None:
    """List the configurations and grids that come with the package, or print one.

    Configurations are for `train`, grids for `ablate`. To change one, write it to a file and name the file:
    `configs demo > mine.toml`, then `train mine.toml`.
    """
    from supportset.train.known_configs import CONFIGS, GRIDS, find_config, known

    if name is not None:
        path = find_config(name, GRIDS if name in known(GRIDS) else CONFIGS)
        text = path.read_text(encoding="utf-8")
        if as_json:
            print_json({"path": str(path), "config": tomllib.loads(text)})
        else:
            click.echo(text, nl=False)
        return
    listed = {"train": known(CONFIGS), "ablate": known(GRIDS)}
    if as_json:
        print_json(
            {verb: {each: _first_sentence(path) for each, path in found.items()} for verb, found in listed.items()}
        )
        return
    for verb, found in listed.items():
        click.secho(f"{verb} NAME", bold=True)
        for each, path in found.items():
            click.echo(f"  {each}")
            click.echo(
                click.wrap_text(_first_sentence(path), width=100, initial_indent=" " * 6, subsequent_indent=" " * 6)
            )


def _first_sentence(path: Path) -> str:
    """The first sentence of the comment at the top of a file."""
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        comment.append(line[2:].strip())
    sentence, stop, _ = " ".join(comment).partition(". ")
    return sentence + ("." if stop else "")
