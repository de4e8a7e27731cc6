"""The written form of queries: what is a combination, what is a plain text, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from supportset.search.query import Query, Term, combine, parse_moment, parse_query
from supportset.store.errors import UsageError


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ('"beach" + 0.5*image:photo.jpg - "people"',
         [Term("text", "beach"), Term("image", "photo.jpg", 0.5), Term("text", "people", -1.0)]),
        ('  2 * "a b"-.5*"c" ', [Term("text", "a b", 2.0), Term("text", "c", -0.5)]),
        ('-"people" + "street"', [Term("text", "people", -1.0), Term("text", "street")]),
        ('image:"my photo.jpg" - video:/a/b.mp4@3-4.5',
         [Term("image", "my photo.jpg"), Term("video", "/a/b.mp4", -1.0, 3.0, 4.5)]),
        ('moment:"a b"@1-2 + moment:c/d@1', [Term("moment", "a b", 1.0, 1.0, 2.0), Term("moment", "c/d@1")]),
        (r'"say \"hi\"" + "b\\"', [Term("text", 'say "hi"'), Term("text", "b\\")]),
        ("“sea” + “sun”", [Term("text", "sea"), Term("text", "sun")]),
        ('"only quoted"', [Term("text", "only quoted")]),
    ],
)  # fmt: skip
def test_a_combination_is_read_and_written(text: str, terms: list[Term]) -> None:
    query = parse_query(text)
    assert query.terms == tuple(terms)
    assert parse_query(str(query)) == query


@pytest.mark.parametrize(
    "text",
    ["black-and-white dog", "C++ - tutorial", '"wet" dog', 'a "wet" dog + "cat"', "image: a dog", "-20 degrees",
     "2*3 = 6", "+ more", "moment of joy", "rock 'n' roll - live", '"', '""x', "5* hotel", '"unclosed + dog'],
)  # fmt: skip
def test_a_plain_text_is_taken_as_it_is(text: str) -> None:
    assert parse_query(text) == Query((Term("text", text),))
    assert parse_query(str(parse_query(text))) == parse_query(text)


def test_a_text_that_looks_like_a_combination_is_written_with_quotes() -> None:
    query = Query((Term("text", 'image:a.jpg - "x"'),))
    assert parse_query(str(query)) == query


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"beach" + photo.jpg', "cannot be read at '"),
        ('"beach" +', r"cannot be read at '\+'"),
        ("image:photo.jpg beach", "cannot be read at 'beach'"),
        ('"C++" - tutorial', "has quotes, too"),
        ('"a" + moment:"b"@5-3', "give a start, and an end after it"),
        ('video:"b"@x', "write @START-END"),
        ('"a"@1-2', "has no seconds"),
        ('0*"a" + "b"', "weight 0"),
        ('- "people"', "only says what not to find"),
        ('"a" + " "', "is blank"),
        ("  ", "is blank"),
        ("half a pair \ud800", "is not UTF-8"),
    ],
)
def test_what_is_no_query_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        parse_query(text)
    assert "\n" not in str(error.value)


def test_files_can_be_refused() -> None:
    with pytest.raises(UsageError, match=r"names the file '/etc/passwd'"):
        parse_query('"a" + image:/etc/passwd', files=False)
    assert parse_query('"a" - moment:b', files=False).files == []
    many = " + ".join(['"a"'] * 21)
    assert len(parse_query(many).terms) == 21
    with pytest.raises(UsageError, match="21 terms"):
        parse_query(many, files=False)


def test_a_moment_is_read_with_and_without_its_part() -> None:
    assert parse_moment("a/b") == Term("moment", "a/b")
    assert parse_moment("a@b@1.5-20") == Term("moment", "a@b", 1.0, 1.5, 20.0)


def test_terms_are_summed_by_weight_and_scaled() -> None:
    terms = [Term("text", "a", 2.0), Term("text", "b", -1.0)]
    found = combine(terms, np.asarray([[1.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_allclose(found, np.asarray([2.0, -1.0]) / np.sqrt(5))
    with pytest.raises(UsageError, match="cancel each other"):
        combine([Term("text", "a"), Term("text", "b", -1.0)], np.asarray([[0.6, 0.8], [0.6, 0.8]]))
