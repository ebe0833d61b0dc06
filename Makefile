# make demo    online learning of a MACE potential, from nothing but Python 3.11 and a package index
# make test    lint, types and all tests
# make tests-long  tests that wait for minutes (a server that is away, runs whose process died) or that are about
#                  programs which few use (Grid Engine, PostgreSQL)
# make docs    the documentation, into site/
# make clean   remove the environments

PYTHON ?= python3.11
REFERENCE ?= xtb

# An environment for each engine that there is, as their dependencies exclude each other (mace-torch and nequip do).
MACE := .venv/mace
PIP := $(MACE)/bin/pip install --disable-pip-version-check --quiet --constraint constraints.txt
CAMPAIGN := deployments/demo/$(REFERENCE).yaml

# Tests and demo send nothing home.
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1

.PHONY: demo test lint types tests tests-long benchmarks docs clean

demo: $(MACE)/demo.stamp
	$(MACE)/bin/surveyor run $(CAMPAIGN)

test: lint types tests

lint: $(MACE)/test.stamp
	$(MACE)/bin/ruff check
	$(MACE)/bin/ruff format --check

types: $(MACE)/test.stamp
	rm -rf build/types
	mkdir -p build/types/surveyor
	ln -s $(addprefix $(CURDIR)/,$(wildcard src/surveyor/*) blocks tasks flows) build/types/surveyor/
	$(MACE)/bin/mypy

tests: $(MACE)/test.stamp
	$(MACE)/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not long"

tests-long: $(MACE)/test.stamp
	$(MACE)/bin/python -m pytest -m long

benchmarks: $(MACE)/test.stamp
	$(MACE)/bin/python benchmarks/overhead.py
	$(MACE)/bin/python benchmarks/labelling.py
	$(MACE)/bin/python benchmarks/pools.py --labels 2000 --plain 1000 --rate 50

docs: $(MACE)/docs.stamp
	$(MACE)/bin/mkdocs build --strict

clean:
	rm -rf .venv site

$(MACE)/bin/python:
	$(PYTHON) -m venv $(MACE)

$(MACE)/demo.stamp: pyproject.toml constraints.txt | $(MACE)/bin/python
	$(PIP) torch==2.13.0 --editable ".[mace,xtb]"
	touch $@

$(MACE)/test.stamp: pyproject.toml constraints.txt | $(MACE)/bin/python
	$(PIP) torch==2.13.0 --editable ".[mace,xtb,wandb,test]"
	touch $@

$(MACE)/docs.stamp: pyproject.toml constraints.txt | $(MACE)/bin/python
	$(PIP) torch==2.13.0 --editable ".[mace,xtb,docs]"
	touch $@
