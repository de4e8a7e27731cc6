"""Search beside other indexes, the page under load, a new file until it is found: ``make bench-search``."""
