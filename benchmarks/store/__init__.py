"""The feature store beside what people use instead: one module a figure, all run by ``make bench-store``."""
