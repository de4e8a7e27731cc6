"""Training beside the straightforward version of the same step: ``make bench-train``."""
