# The commands of the README. Each makes the virtual environment it needs.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: evaluate test test-slow clean

evaluate: .venv/installed
	$(BIN)/python evaluate.py policy=llmsched

test: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

test-slow: .venv/tested
	$(BIN)/python -m pytest -q -n 2 -m slow

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv outputs
