"""One module a family of text encoders, found by its file name: ``load(...)`` and ``ABOUT``."""
