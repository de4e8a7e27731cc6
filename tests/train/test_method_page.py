"""The pages that speak of the code: every link of docs/method.md exists, docs/configuration.md is up to date."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from supportset.train.config import Config, Section
from supportset.train.config_reference import reference

DOCS = Path(__file__).resolve().parents[2] / "docs"
LINKS = re.findall(r"\[([^\]]+)\]\((\.\./[^)#]+)\)", (DOCS / "method.md").read_text(encoding="utf-8"))


def names(path: Path) -> set[str]:
    """What a file defines at its top, and ``Class.method``."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize(("text", "target"), LINKS)
def test_links_of_the_method_page_exist(text: str, target: str) -> None:
    path = (DOCS / target).resolve()
    assert path.is_file()
    assert text == path.name or text.strip("`") in names(path)


def test_the_method_page_names_every_file_of_the_method() -> None:
    model = DOCS.parent / "train" / "model"
    linked = {(DOCS / target).resolve() for _, target in LINKS}
    assert {path.name for path in set(model.glob("*.py")) - linked} <= {"__init__.py"}


def test_the_configuration_page_is_up_to_date() -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert page == reference(), "python -m supportset.train.config_reference > docs/configuration.md"


def test_every_key_has_a_meaning() -> None:
    sections = [Config, *(each.annotation for each in Config.model_fields.values())]
    for section in sections:
        if isinstance(section, type) and issubclass(section, Section):
            for name, field in section.model_fields.items():
                inner = field.annotation
                assert field.description or (isinstance(inner, type) and issubclass(inner, Section)), name
