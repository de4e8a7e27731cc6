"""Search the clips of a store with text, by a trained run."""

from typing import TYPE_CHECKING

from supportset._lazy import lazy

if TYPE_CHECKING:
    from supportset.search.run import Run, open_run
    from supportset.search.run import search as search_clips
    from supportset.search.trained import Hit, Searcher

__all__ = [
    "Hit",
    "Run",
    "Searcher",
    "open_run",
    "search_clips",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(__name__)
