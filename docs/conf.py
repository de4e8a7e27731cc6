"""The documentation site: ``make docs-site``."""

import importlib.metadata

project = "supportset"
author = "The supportset maintainers"
version = release = importlib.metadata.version("supportset")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 4
source_suffix = {".md": "markdown"}
exclude_patterns = ["results/*"]
suppress_warnings = ["myst.xref_missing"]  # links into the source tree work on the repository's pages alone

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_mock_imports = ["ray"]
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "supportset"
