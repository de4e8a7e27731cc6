"""The command group, and how errors reach a person: one line on standard error and an exit code."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import Any

import click

from supportset.commands.memory import keep_freed_memory
from supportset.store.errors import SupportsetError

# verb -> (module, attribute): imported only when the verb is used or listed
VERBS = {
    "extract": "supportset.commands.extract",
    "extract-text": "supportset.commands.extract_text",
    "train": "supportset.commands.train",
    "ablate": "supportset.commands.ablate",
    "eval": "supportset.commands.evaluate",
    "caption": "supportset.commands.caption",
    "report": "supportset.commands.report",
    "search": "supportset.commands.search",
    "store": "supportset.commands.store",
    "configs": "supportset.commands.configs",
    "datasets": "supportset.commands.known",
    "backbones": "supportset.commands.known",
    "protocols": "supportset.commands.known",
    "demo": "supportset.commands.demo",
}


class OneLine(click.ClickException):
    """An error of ours as click shows one: ``Error: ...`` on standard error."""

    def __init__(self, error: SupportsetError) -> None:
        super().__init__(" ".join(str(error).split()))
        self.exit_code = error.exit_code  # type: ignore[misc]  # click declares it on the class


class Stopped(SupportsetError):  # noqa: N818 - named for what it tells
    """Ctrl-C where a verb has nothing of its own to tell of it."""

    exit_code = 130


class Verbs(click.Group):
    """Loads a verb's module when it is asked for, and turns our errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Verbs in the order a newcomer meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a verb; ``None`` for an unknown one."""
        if cmd_name not in VERBS:
            return None
        name = f"{cmd_name.replace('-', '_')}_command"
        command: click.Command = getattr(importlib.import_module(VERBS[cmd_name]), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest verb for an unknown one."""
        if args and args[0] not in VERBS and (near := difflib.get_close_matches(args[0], VERBS, 1)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a :class:`SupportsetError`, or Ctrl-C, becomes one line and its exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise OneLine(
                Stopped("stopped: what was stored before stays; the same command, for train with --resume, goes on")
            ) from None
        except SupportsetError as error:
            raise OneLine(error) from error


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="supportset", message="%(version)s")
def cli() -> None:
    """Video-text retrieval on precomputed features: extract once, train again and again."""


def main() -> None:
    """Run the command line (the ``supportset`` command and ``cli.py``)."""
    # A library that asks a hub about telemetry or updates would stall machines without a network.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    keep_freed_memory()
    cli(prog_name="python cli.py" if sys.argv[0].endswith(".py") else "supportset")
