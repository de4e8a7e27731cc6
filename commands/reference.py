"""Writes ``docs/cli.md`` from the commands' own help: ``python -m commands.reference > docs/cli.md``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from supportset.commands.main import cli


def _help(command: click.Command, path: str, parent: click.Context | None) -> Iterator[str]:
    name = path.rpartition(" ")[2] if parent else path
    context = click.Context(command, parent, name, **{**command.context_settings, "terminal_width": 100})
    yield f"## `{path}`\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None, name
            yield from _help(child, f"{path} {name}", context)


def reference() -> str:
    """The whole command line as Markdown."""
    head = "# Command line\n\nWritten by `make docs` from the commands' own help; a test compares the two.\n"
    return "\n".join([head, *_help(cli, "python cli.py", None)])


if __name__ == "__main__":
    click.echo(reference(), nl=False)
