"""Text in, clips out: by a trained run, or by an encoder pair without training."""

from typing import TYPE_CHECKING

from supportset._lazy import lazy

if TYPE_CHECKING:
    from supportset.search.filters import Filter, parse_filter
    from supportset.search.hits import Curve, Hit
    from supportset.search.library import Library
    from supportset.search.query import Query, Term, parse_query
    from supportset.search.retriever import Retriever
    from supportset.search.run import Run, open_run
    from supportset.search.run import search as search_clips
    from supportset.search.run_report import run_report as report_run
    from supportset.search.searcher import Searcher
    from supportset.search.zero_shot import ZeroShot, open_zero_shot

__all__ = [
    "Curve",
    "Filter",
    "Hit",
    "Library",
    "Query",
    "Retriever",
    "Run",
    "Searcher",
    "Term",
    "ZeroShot",
    "open_run",
    "open_zero_shot",
    "parse_filter",
    "parse_query",
    "report_run",
    "search_clips",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(__name__)
