"""One module a family of backbones, found by its file name: ``load(model, path)`` and ``ABOUT``."""
