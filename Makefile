# The commands of the README. Each makes the virtual environment it needs.

PYTHON ?= python3
BIN := .venv/bin
# $(call install,FOLDER,CONSTRAINTS,WHAT) with a line every 9 s, for pip says nothing for a minute.
# Python compiles to bytecode what it imports, when it does; pip would do it with all there is.
define install
@echo "installing $(3) into $(1)"; \
	(while sleep 9 >/dev/null 2>&1; do echo "installing ..."; done) & teller=$$!; \
	trap "kill $$teller" EXIT; \
	$(1)/bin/python -m pip install --quiet --no-compile --constraint $(2) --editable "$(3)"
endef

.PHONY: docs evaluate test test-bounds test-oldest test-search test-slow clean

evaluate: .venv/installed
	$(BIN)/python evaluate.py policy=llmsched

test: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy & typed=$$!; $(BIN)/python -m pytest -q -n 2 -m "not slow" && wait $$typed

# What is compiled, with a check of every index there.
COMPILED := $(addprefix tests/,agents belief cluster env workload testbed/test_log.py test_testing.py)
test-bounds: .venv/tested
	NUMBA_BOUNDSCHECK=1 $(BIN)/python -m pytest -q -n 2 -m "not slow" $(COMPILED)

# With the oldest versions that pyproject.toml allows.
test-oldest: .venv-oldest/tested
	.venv-oldest/bin/python -m pytest -q -n 2 -m "not slow"

# With other examples of the property tests in every run.
test-search: .venv/tested
	$(BIN)/python -m pytest -q -n 2 --hypothesis-profile search

test-slow: .venv/tested
	$(BIN)/python -m pytest -q -n 2 -m slow

# The pages of docs/ in site/, with a reference made from the code; a link that leads nowhere fails.
docs: .venv/documented
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(call install,.venv,constraints.txt,.[commands])
	touch $@

.venv/tested: .venv/installed
	$(call install,.venv,constraints.txt,.[dev])
	touch $@

.venv/documented: .venv/tested
	$(call install,.venv,constraints.txt,.[docs])
	touch $@

.venv-oldest/tested: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	$(call install,.venv-oldest,constraints-oldest.txt,.[test])
	touch $@

clean:
	rm -rf .venv .venv-oldest outputs site
