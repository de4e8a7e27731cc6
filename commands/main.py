"""The command group. Errors end as one line on standard error and an exit code."""

from __future__ import annotations

import importlib
import os
from difflib import get_close_matches
from typing import Any

import click

from supportset import __version__
from supportset._process import prepare_process
from supportset._program import program
from supportset.store.errors import SupportsetError

# verb -> module, imported when the verb is used or listed
VERBS = {
    "extract": "supportset.commands.extract",
    "extract-text": "supportset.commands.extract_text",
    "train": "supportset.commands.train",
    "ablate": "supportset.commands.ablate",
    "eval": "supportset.commands.evaluate",
    "compare": "supportset.commands.compare",
    "leaderboard": "supportset.commands.compare",
    "caption": "supportset.commands.caption",
    "report": "supportset.commands.report",
    "search": "supportset.commands.search",
    "index": "supportset.commands.index",
    "serve": "supportset.commands.serve",
    "store": "supportset.commands.store",
    "configs": "supportset.commands.configs",
    "datasets": "supportset.commands.known",
    "backbones": "supportset.commands.known",
    "protocols": "supportset.commands.known",
    "demo": "supportset.commands.demo",
}


class OneLine(click.ClickException):
    """One of our errors as click prints its own: ``Error: ...`` on standard error."""

    def __init__(self, error: SupportsetError) -> None:
        super().__init__(" ".join(str(error).split()))
        self.exit_code = error.exit_code  # type: ignore[misc]  # click declares it on the class


class Stopped(SupportsetError):  # noqa: N818 - Ctrl-C is no error
    """Ctrl-C in a verb that reports none itself."""

    exit_code = 130


class Verbs(click.Group):
    """Import a verb's module when the verb is used, and print our errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the verbs in the order in which a newcomer needs them."""
        return list(VERBS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; name the nearest one for an unknown verb."""
        name = args[0]
        if name not in VERBS and not name.startswith("-"):
            store = self.get_command(ctx, "store")
            assert isinstance(store, click.Group)
            known = {verb: verb for verb in VERBS} | {verb: f"store {verb}" for verb in store.commands}
            close = [known[verb] for verb in get_close_matches(name, known, n=2)]
            hint = f"Did you mean {' or '.join(close)}?" if close else f"Verbs: {', '.join(VERBS)}."
            raise click.UsageError(f"No such command {name!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a verb; ``None`` for an unknown verb."""
        if cmd_name not in VERBS:
            return None
        name = f"{cmd_name.replace('-', '_')}_command"
        command: click.Command = getattr(importlib.import_module(VERBS[cmd_name]), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; print a `SupportsetError` or Ctrl-C as one line and set the exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise OneLine(
                Stopped("stopped: finished work is kept; the same command continues (train needs --resume)")
            ) from None
        except SupportsetError as error:
            raise OneLine(error) from error


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Video-text retrieval on precomputed features: extract once, train again and again."""


def main() -> None:
    """Run the command line: ``supportset``, ``python -m supportset`` and ``cli.py``."""
    # A request of a library to a hub, for telemetry or updates, stalls a machine without a network.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    prepare_process()
    cli(prog_name=program())
