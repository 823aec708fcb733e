# The commands of the README. Each makes the virtual environment it needs.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: evaluate test test-bounds test-oldest test-search test-slow clean

evaluate: .venv/installed
	$(BIN)/python evaluate.py policy=llmsched

test: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

# With a check of every index in compiled code.
test-bounds: .venv/tested
	NUMBA_BOUNDSCHECK=1 $(BIN)/python -m pytest -q -n 2 -m "not slow"

# With the oldest versions that pyproject.toml allows.
test-oldest: .venv-oldest/tested
	.venv-oldest/bin/python -m pytest -q -n 2 -m "not slow"

# With other examples of the property tests in every run.
test-search: .venv/tested
	$(BIN)/python -m pytest -q -n 2 --hypothesis-profile search

test-slow: .venv/tested
	$(BIN)/python -m pytest -q -n 2 -m slow

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[commands]"
	touch $@

.venv/tested: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

.venv-oldest/tested: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt \
		--editable ".[test]"
	touch $@

clean:
	rm -rf .venv .venv-oldest outputs
