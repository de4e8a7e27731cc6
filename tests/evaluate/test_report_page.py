"""The page of a report: complete, self-contained, safe, and readable by everyone."""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from supportset.evaluate.report import figures, page
from supportset.evaluate.report.content import Report
from supportset.store.errors import UsageError
from tests.evaluate.reports import HOSTILE, report, score

pytest.importorskip("matplotlib", reason="reports need the extra `report`")


class Read(HTMLParser):
    """Elements and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return page.render(report())


def test_foreign_texts_stay_texts(html: str) -> None:
    read = Read(html)
    allowed = {"html", "head", "meta", "title", "style", "body", "main", "header", "h1", "h2", "h3", "p", "dl", "div",
               "dt", "dd", "ul", "li", "b", "span", "section", "table", "caption", "thead", "tbody", "tr", "th", "td",
               "small", "figure", "figcaption", "blockquote", "img", "i", "pre", "footer", "svg", "g", "path", "defs",
               "use", "text", "clippath", "rect"}  # fmt: skip
    assert {tag for tag, _ in read.tags} <= allowed
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert all((image["src"] or "").startswith("data:image/") for image in read.all("img"))
    assert sum(HOSTILE in text for text in read.texts) > 20
    assert "49" not in [text.strip() for text in read.texts], "a text was taken for a template"


def test_the_page_loads_nothing_and_forbids_it(html: str) -> None:
    read = Read(html)
    policy = next(meta["content"] for meta in read.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    for _, attributes in read.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert (value or "").startswith(("data:", "#")), value
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_ids_occur_once_and_what_is_referred_to_is_there(html: str) -> None:
    read = Read(html)
    ids = Counter(attributes["id"] for _, attributes in read.tags if "id" in attributes)
    inside = {value for _, attributes in read.tags for name, value in attributes.items() if name == "xlink:href"}
    named = {f"#{value}" for _, attributes in read.tags if (value := attributes.get("aria-labelledby"))}
    clipped = set(re.findall(r"url\((#[^)]*)\)", html))
    assert inside | named | clipped <= {f"#{each}" for each in ids}
    assert [each for each, count in ids.items() if count > 1 and not re.match("[mp][0-9a-f]{8,}", str(each))] == []


def test_headings_tables_and_pictures_are_told_to_a_screen_reader(html: str) -> None:
    read = Read(html)
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert read.all("html")[0]["lang"] == "en"
    assert len(read.all("caption")) == len(read.all("table")) == 2
    assert all(cell.get("scope") for cell in read.all("th"))
    assert all(image["alt"] for image in read.all("img"))
    graphics = read.all("svg")
    assert len(graphics) == 5
    assert all(each["role"] == "img" and each["aria-label"] for each in graphics)
    first = score(HOSTILE, 0)
    assert f"R@1 {first.facts['t2v']['R@1']:.1f}" in str(graphics[0]["aria-label"]), "a figure tells its numbers"


def test_colours_have_contrast_in_both_schemes() -> None:
    css = (Path(page.__file__).parent / "style.css").read_text()
    schemes = [
        dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)[:2]
    ]

    def light(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    assert len(schemes) == 2
    for scheme in schemes:
        assert scheme.keys() == schemes[0].keys()
        for name in ("ink", "muted", "right", "warn", "series-1", "series-2", "series-3", "series-4"):
            behind = scheme["warn-paper" if name == "warn" else "paper"]
            high, low = sorted((light(scheme[name]), light(behind)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, name  # WCAG 2, AA


def test_figures_have_no_colour_or_font_of_their_own(html: str) -> None:
    graphics = re.findall(r"<svg.*?</svg>", html, re.S)
    assert not [each for each in graphics if re.search(r"#[0-9a-f]{6}|font-family|font:|DejaVu", each)]
    assert all("var(--series-1)" in each and "viewBox" in each for each in graphics)


def test_equal_reports_are_equal_bytes(html: str) -> None:
    assert page.render(report()) == html


def test_the_histogram_counts_every_query_once() -> None:
    told = score("model", 3, missing=10)
    label = re.search(r'aria-label="([^"]*)"', figures.rank_histogram(told))
    assert label
    for line in label[1].split(". ")[1:]:
        shares = [float(each) for each in re.findall(r"rank \S+ ([\d.]+)", line)]
        assert sum(shares) == pytest.approx(100, abs=0.5)
        assert "rank miss 3.3" in line


def test_scores_and_intervals_stand_in_the_table(html: str) -> None:
    texts = [text.strip() for text in Read(html).texts]
    for each in report().scores:
        for way in ("t2v", "v2t"):
            for name in ("R@1", "R@10", "MdR"):
                assert f"{each.facts[way][name]:.1f}" in texts
            low, high = each.facts["intervals"][way]["R@5"]
            assert f"{low:.1f}\N{EN DASH}{high:.1f}" in texts


def test_a_report_without_scores_is_a_page() -> None:
    read = Read(page.render(Report("run", "words", {}, [])))
    assert "This run was not evaluated yet." in read.texts
    assert not read.all("svg")


def test_scores_of_one_direction_with_others_beside_them() -> None:
    both = score("model", 4)
    labels = {"score": "invented + more", "added": 7, "t2v": both.facts["t2v"], "v2t": {}, "intervals": {"t2v": {}}}
    beside = [{"label": "dual softmax (all queries at once)", "t2v": both.facts["t2v"], "v2t": both.facts["v2t"]}]
    facts = both.facts | {"v2t": {}, "rsum": None, "intervals": {"t2v": both.facts["intervals"]["t2v"], "v2t": {}}}
    alone = replace(both, facts=facts | {"labels": labels, "beside": beside}, ways={"t2v": both.ways["t2v"]})
    read = Read(page.render(Report.of_result(alone)))
    texts = [text.strip() for text in read.texts]
    assert "what the split shares with the data that the model saw is not known." in texts
    for words in ("invented + more", "dual softmax (all queries at once)", "2 clips have no features."):
        assert words in texts
    assert "beside the raw score, and not to be compared with raw scores" in texts
    assert texts.count("text to video") == 3 + 2, "a row each, and a name in each figure"
    assert texts.count("video to text") == 1


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_an_absent_library_is_one_line(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=rf"needs the package {library}: pip install 'supportset\[report\]'"):
        page.render(report())
