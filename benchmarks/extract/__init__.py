"""Extraction beside its own parts and beside the usual loop: one module a figure, all run by ``make bench-extract``."""
