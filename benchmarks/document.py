"""Puts the figures of a run into ``docs/benchmarks.md``: ``python -m benchmarks.document`` (``make bench-docs``).

What lies between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` is replaced by what
``benchmarks/results/NAME.json`` says; the rest of the document is written by people.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from benchmarks.report import rows_of

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "benchmarks.md"

_PLACE = re.compile(r"(<!-- (?P<name>[a-z-]+): begin -->\n).*?(<!-- (?P=name): end -->)", re.DOTALL)


def render(content: dict[str, Any]) -> str:
    """A run's machine and figures in Markdown."""
    machine, options = content["machine"], content["options"]
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    lines = [
        f"Measured {content['date']} on {machine['cores']} cores of {machine['cpu']}, {machine['ram_gb']} GB, "
        f"{machine['kernel']}, {machine['libc']}, {machine['file_system']}, Python {machine['python']}, {libraries}; "
        f"{options['rounds']} rounds, load {machine['load']} at the start.",
        "",
    ]
    if options["quick"]:
        lines += ["**A run with tiny sizes (`--quick`): it shows that everything runs, not how fast.**", ""]
    for figure in content["figures"]:
        sizes = ", ".join(
            f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
            for name, value in figure["sizes"].items()
        )
        lines += [f"**{figure['title']}**" + (f" ({sizes})" if sizes else ""), ""]
        rows = [
            f"| {row.says} | {row.beside} | {row.shown} | {row.target} | {row.verdict} |" for row in rows_of(figure)
        ]
        if rows:  # none where a figure was left out; its notes say why
            lines += ["| what | beside | figure | target | |", "| --- | --- | --- | --- | --- |", *rows, ""]
        lines += [*(f"- {note}" for note in figure["notes"]), ""]
    return "\n".join(lines)


def fill(document: str, results: Path) -> str:
    """The document with every place filled for which there is a result; the others stay as they are."""

    def filled(place: re.Match[str]) -> str:
        file = results / f"{place['name']}.json"
        if not file.exists():
            return place[0]
        return f"{place[1]}{render(json.loads(file.read_text(encoding='utf-8')))}{place[3]}"

    return _PLACE.sub(filled, document)


@click.command(help="Put the figures of the last full runs into docs/benchmarks.md.")
def main() -> None:
    """Fill the document in place."""
    DOCUMENT.write_text(fill(DOCUMENT.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")


if __name__ == "__main__":
    main()
