"""A page about an evaluation: scores, figures, queries and their clips as one HTML file. Knows no model."""
