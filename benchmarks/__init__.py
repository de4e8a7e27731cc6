"""Scripts that measure us beside named alternatives. Each prints a table and writes its figures as JSON."""
