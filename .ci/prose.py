"""Find idioms of our own in the documentation, docstrings, comments and messages: ``python .ci/prose.py [FILE ...]``.

Each line of ``.ci/idioms.txt`` is a regular expression, a tab, and what to write instead. Exit code 1 if one is found.
A line that needs a listed word (a quotation, a name) ends with ``prose: allow`` in a comment.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {".py", ".md", ".toml"}
LEFT_OUT = ("docs/results/", "tests/", "benchmarks/results/", "constraints.txt", ".ci/", "docs/cli.md")


def idioms() -> list[tuple[re.Pattern[str], str]]:
    """The listed expressions, and what to write instead."""
    lines = (ROOT / ".ci" / "idioms.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), instead) for pattern, instead in pairs]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a file that people read: all of a page, the strings and comments of a program."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), start=1)
        return
    middle = getattr(tokenize, "FSTRING_MIDDLE", None)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT, middle):
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line


def main(names: list[str]) -> int:
    """Print each finding as ``file:line: "words": write ...``."""
    known = idioms()
    listed = names or subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    found = 0
    for name in listed:
        path = ROOT / name
        if path.suffix not in SUFFIXES or name.startswith(LEFT_OUT) or path.is_symlink():
            continue
        for number, line in prose(path):
            if "prose: allow" in line:
                continue
            for pattern, instead in known:
                for match in pattern.finditer(line):
                    print(f'{name}:{number}: "{match.group()}": write {instead}')
                    found += 1
    if found:
        print(f"{found} idioms of our own; the list is .ci/idioms.txt")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
