# One command each, on a fresh machine with Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROWS ?= 5000

.PHONY: demo test test-slow lint format proto bench clean

demo: $(VENV)/.installed
	PSICLI=$(BIN)/psicli PYTHON=$(BIN)/python sh sample_data/demo.sh

test: $(VENV)/.test-installed
	$(BIN)/pytest -n 2 -m "not slow"

test-slow: $(VENV)/.test-installed
	$(BIN)/pytest -n 2 --timeout 1800 -m slow

lint: $(VENV)/.lint-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.lint-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The generated code is committed; a test holds it against psi.proto.
proto: $(VENV)/.test-installed
	$(BIN)/python -m grpc_tools.protoc -I psicli --python_out=psicli --pyi_out=psicli psi.proto

# Two processes on this machine, ROWS rows a side, and what the curve backend alone needs for them.
bench: $(VENV)/.test-installed
	$(BIN)/python tests/bench/run.py --rows $(ROWS)

clean:
	rm -rf $(VENV) build dist demo-out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test-installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.lint-installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	@touch $@ $(VENV)/.installed $(VENV)/.test-installed
