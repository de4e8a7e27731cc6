"""One module a dataset, found by its file name: it defines ``READER``."""
