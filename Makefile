# Every target sets up what it needs in .venv by itself. PYTHON chooses the interpreter, CONSTRAINTS the pinned wheels.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
# Compiling every installed file would take longer than the demo needs; Python compiles what it imports.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c $(CONSTRAINTS)

.PHONY: demo test lint docs bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   generate finite-element cells, train a surrogate, predict, draw the stress"
	@echo "make test   run all tests"
	@echo "make lint   ruff, mypy, import-linter"
	@echo "make docs   build the documentation into site/"
	@echo "make bench  time the attention operators, and what a mesh tells"

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'flare_connect needs Python 3.11 or newer')"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[generate]"
	sh tools/system_libraries.sh $(BIN)/python
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(PIP) -e ".[generate,test,docs]"
	touch $@

demo: $(VENV)/.base
	$(BIN)/flare-connect demo --out demo

# A file's tests stay together: they share what is made once for all of them.
test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.base
	$(BIN)/python kernels/benchmarks/mixer.py
	$(BIN)/python examples/studies/mesh_speed/run.py

clean:
	rm -rf $(VENV) site demo
