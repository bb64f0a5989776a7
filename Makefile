# Two commands do all the set-up: `make demo` to see it work, `make test` to check it.
PYTHON ?= python3
VENV := .venv
HRM := $(VENV)/bin/hrm

.PHONY: demo test lint clean
demo: $(VENV)/.installed
	@$(HRM) demo

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check src tests benchmarks
	$(VENV)/bin/ruff format --check src tests benchmarks

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make demo PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: apt-get install python3-venv"; exit 1; }

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) (torch is the large part)"
	@PYTHON=$(VENV)/bin/python sh tools/install.sh .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.installed
	@PYTHON=$(VENV)/bin/python sh tools/install.sh '.[dev]'
	@touch $@

clean:  # runs/ stays: it holds what was trained
	rm -rf $(VENV) .pytest_cache .ruff_cache
