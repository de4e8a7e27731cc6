"""Retrieval scores of any model: ranks, intervals, paired tests, leakage. Knows no model."""

from typing import TYPE_CHECKING

from supportset._lazy import lazy

if TYPE_CHECKING:
    from supportset.evaluate.compare import compare as compare_results
    from supportset.evaluate.embeddings.score import Where, evaluate_embeddings, evaluate_matrix, evaluate_run_file
    from supportset.evaluate.evaluation import Evaluation
    from supportset.evaluate.leakage_report import Leakage, find_leakage
    from supportset.evaluate.paired_tests import Hits, bootstrap, count_hits, holm, permutation_p
    from supportset.evaluate.protocols import Protocol
    from supportset.evaluate.ranks import (
        bootstrap_intervals,
        cosine_scores,
        ranks_of_scores,
        retrieval_ranks,
        rsum,
        summarize,
    )
    from supportset.evaluate.relevance import Relevance, read_relevance
    from supportset.evaluate.report.content import Report
    from supportset.evaluate.report.page import render as render_report
    from supportset.evaluate.results import Result, read_result
    from supportset.evaluate.scores import RetrievalScores, score_embeddings
    from supportset.evaluate.scoring import Scoring
    from supportset.evaluate.splits import Split, leakage, read_split

__all__ = [
    "Evaluation",
    "Hits",
    "Leakage",
    "Protocol",
    "Relevance",
    "Report",
    "Result",
    "RetrievalScores",
    "Scoring",
    "Split",
    "Where",
    "bootstrap",
    "bootstrap_intervals",
    "compare_results",
    "cosine_scores",
    "count_hits",
    "evaluate_embeddings",
    "evaluate_matrix",
    "evaluate_run_file",
    "find_leakage",
    "holm",
    "leakage",
    "permutation_p",
    "ranks_of_scores",
    "read_relevance",
    "read_result",
    "read_split",
    "render_report",
    "retrieval_ranks",
    "rsum",
    "score_embeddings",
    "summarize",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(__name__)
