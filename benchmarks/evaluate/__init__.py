"""Scoring beside a naive matrix and the scorers of other libraries: ``make bench-eval``."""
