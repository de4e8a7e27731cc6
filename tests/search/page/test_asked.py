"""The address of the page: read back as it was written, and never more than the page writes."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

import pytest

from supportset.search.page import curve, finding
from supportset.search.page.asked import Asked, Example, read_asked
from supportset.search.page.times import clock, lasting, size, span
from supportset.search.query import Term
from supportset.search.server.answers import ColumnAnswer
from supportset.store.errors import UsageError

FULL = Asked(
    library="films",
    text='a red ball & "more" \N{EN DASH} 100%',
    without="people",
    by="clip",
    examples=(Example("like", "a/b*c@1-2#é", -0.5, 12.5, 20.0), Example("file", "x_-9"), Example("like", "whole")),
    filters={"duration:min": "10", "name": "beach & sea", "odd:name": "x"},
    k=48,
)


def again(asked: Asked) -> Asked:
    return read_asked(parse_qsl(urlsplit(asked.address()).query))


def test_an_address_is_read_back_as_it_was_written() -> None:
    assert again(FULL) == FULL
    assert again(Asked()) == Asked()
    assert Asked().address() == "/"
    assert FULL.address("/results", k=24) == replace(FULL, k=24).address("/results")


def test_the_query_has_all_terms_with_their_weights() -> None:
    asked = Asked(
        text="beach", without="people", examples=(Example("like", "clip7", -1.0, 1.0, 2.0), Example("file", "u"))
    )
    assert asked.query().terms == (
        Term("text", "beach"), Term("moment", "clip7", -1.0, 1.0, 2.0), Term("image", "u"), Term("text", "people", -0.5)
    )  # fmt: skip
    with pytest.raises(UsageError, match="what to find"):
        Asked(without="people").query()
    with pytest.raises(UsageError):
        Asked(text="image:/etc/passwd").query()


@pytest.mark.parametrize(
    ("action", "changes"),
    [
        ("drop 0", {"examples": FULL.examples[1:]}),
        ("flip 1", {"examples": (FULL.examples[0], replace(FULL.examples[1], weight=-1.0), FULL.examples[2])}),
        ("drop 7", {}),
        ("flip x", {}),
        ("drop-without", {"without": ""}),
        ("drop-filter name", {"filters": {"duration:min": "10", "odd:name": "x"}}),
        ("clear-filters", {"filters": {}}),
        ("nonsense", {}),
    ],
)
def test_buttons_of_the_form_change_the_state(action: str, changes: dict[str, object]) -> None:
    pairs = parse_qsl(urlsplit(FULL.address()).query)
    assert read_asked([*pairs, ("do", action)]) == replace(FULL, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "pair",
    [("k", "0"), ("k", "-1"), ("k", "1e9"), ("k", "²"), ("by", "colour"), ("like", "clip"), ("like", "0*clip"),
     ("like", "1*"), ("file", "x*y"), ("q", "x" * 2001), ("k", "9" * 5000), ("like", f"1*clip@0-{'9' * 400}"),
     ("f:" + "x" * 600, "1"), ("f:name", "x" * 201)],
)  # fmt: skip
def test_what_the_page_does_not_write_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(UsageError):
        read_asked([pair])


def test_filters_become_conditions_and_words() -> None:
    known = [
        ColumnAnswer(name="duration", type="number", values=None),
        ColumnAnswer(name="folder", type="text", values=["a", "b"]),
        ColumnAnswer(name="name", type="text", values=None),
        ColumnAnswer(name="split", type="text", values=["test"]),
        ColumnAnswer(name="clip_id", type="text", values=None),
    ]
    asked = Asked(filters={"duration:min": "10", "duration:max": "20", "folder": "b", "name": "sea"})
    fields = finding.columns(known, asked)
    assert [(field["name"], field["kind"]) for field in fields] == [
        ("duration", "number"), ("folder", "choice"), ("name", "text")
    ], "columns that distinguish nothing are left out"  # fmt: skip
    assert finding.conditions(asked, fields) == [
        'duration >= "10"', 'duration <= "20"', 'folder = "b"', 'name ~ "sea"'
    ]  # fmt: skip
    assert [each["words"] for each in finding.active(asked, fields)] == [
        "Duration in seconds at least 10", "Duration in seconds at most 20", "Folder: b", "File name contains sea"
    ]  # fmt: skip


def test_times_and_sizes_in_words() -> None:
    assert [clock(s) for s in (0, 59.4, 59.6, 65.4, 3725)] == ["0:00", "0:59", "1:00", "1:05", "1:02:05"]
    assert (span(65, 72), span(0, 0), span(3.1, 3.2)) == ("1:05\N{EN DASH}1:12", "", "0:03")
    assert [lasting(s) for s in (42, 600, 7300)] == ["42 s", "10 min", "2 h 2 min"]
    assert [size(n) for n in (900, 2_500_000, 3e12)] == ["900 B", "2.5 MB", "3.0 TB"]


def test_a_curve_keeps_order_and_height() -> None:
    drawn = curve.draw([(2, 4), (0, 2), (4, 6)], [0.5, 0.1, 0.3], base=0.1, cutoff=0.3, at_s=3)
    points = [tuple(map(float, each.split(","))) for each in drawn["trace"][1:].split("L")]
    assert [x for x, _ in points] == pytest.approx([0, 100 / 6, 50, 500 / 6, 100], abs=0.01)
    heights = [y for _, y in points]
    assert heights[0] == heights[1] == curve.FLOOR, "the lowest score and the background are the floor"
    assert min(heights) == heights[2] == 12
    assert drawn["cut"] == heights[3]
    assert (drawn["now"], drawn["from_s"], drawn["to_s"]) == (50, 0, 6)
    assert [tick["time"] for tick in drawn["ticks"]] == [f"0:0{second}" for second in range(7)]


@pytest.mark.parametrize("spans", [[(0.0, 0.0)], [(5.0, 5.0), (5.0, 5.0)], [(1e6, 1e6 + 1)], [(0.0, 9e6)]])
def test_a_curve_of_an_instant_or_of_a_very_long_film_is_drawn(spans: list[tuple[float, float]]) -> None:
    drawn = curve.draw(spans, [0.2] * len(spans), base=0.2, cutoff=None, at_s=0)
    assert drawn["cut"] is None
    assert "nan" not in drawn["trace"]
    assert len(drawn["ticks"]) <= 200
