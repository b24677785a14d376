# make demo [ARGS="..."]   a node and a demo PACS on loopback, one head CT, what came back
# make test                exactly what CI runs: format, lint, types, import contracts, tests
# make acceptance          the long runs
# Each sets up its own virtual environment in .venv; nothing needs root.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint check acceptance clean

demo: $(VENV)/.installed
	@$(BIN)/triage-node demo $(ARGS)

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@sh scripts/lint-containers.sh $(BIN)

acceptance: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/acceptance $(ARGS)

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Setting up the virtual environment in $(VENV) (once, a few minutes) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "triage-node needs Python 3.11 or newer: make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,train]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
