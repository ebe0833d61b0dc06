# make demo    online learning of a MACE potential, from nothing but Python 3.11 and a package index
# make test    lint, types and all tests
# make tests-long  tests that wait for minutes (a server that is away, runs whose process died) or that are about
#                  programs which few use (Grid Engine, OAR, PostgreSQL)
# make mutants  single mutations of the modules that decide most: a test must notice each (MODULE=labels for one of them)
# make benchmarks  what labels, restarts and walkers cost on this machine, which should do nothing else meanwhile
# make benchmark-labels  do chosen labels go further than random ones? It takes an hour, and continues after a stop
#                  (SYSTEM=alanine-dipeptide, silicon or water for another one of benchmarks/labels)
# make benchmark-labels-online  the same in campaigns, afterwards, with the server that PREFECT_API_URL names
# make journals  the journals of small campaigns, one for each strategy, for tests of later versions; once per version
# make images  images with MACE and with NequIP for pods and tasks, by docker or any other builder
#                  (BUILD="buildah build", BASE, TAG, OPTIONS="--build-arg PACKAGES=cp2k")
# make docs    the documentation, into site/
# make diagrams  the figures of the documentation, anew from docs/diagrams/*.mmd; needs Node.js and a network
# make clean   remove the environments

PYTHON ?= python3.11
REFERENCE ?= xtb
SYSTEM ?= formic-acid-dimer

# Images for pods and tasks: what builds them, from what, and how they are called.
BUILD ?= docker build
BASE ?= debian:bookworm-slim
TAG ?= latest
OPTIONS ?=

# An environment for each engine that there is, as their dependencies exclude each other (mace-torch and nequip do).
MACE := .venv/mace
NEQUIP := .venv/nequip
# PLUMED's kernel comes in this wheel, in a folder of its own, as nothing else of it is used.
PLUMED := .venv/plumed
# So does mutmut: it brings setproctitle, with which Dask renames the workers that tests look for by their commands.
MUTANTS := .venv/mutants
INSTALL := --disable-pip-version-check --quiet torch==2.13.0
PIP := $(MACE)/bin/pip install --constraint constraints.txt $(INSTALL)
CAMPAIGN := deployments/demo/$(REFERENCE).yaml
PARALLEL := --numprocesses 3 --dist loadfile --no-loadscope-reorder

# Tests and demo send nothing home.
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
# Tests start hundreds of processes; where they may not keep bytecode, each compiles the whole package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo environments test lint types tests tests-long mutants benchmarks benchmark-labels benchmark-labels-online journals images image-mace image-nequip docs diagrams clean

demo: $(MACE)/demo.stamp
	$(MACE)/bin/surveyor run $(CAMPAIGN)

test: lint types tests

environments: $(MACE)/test.stamp $(NEQUIP)/test.stamp $(PLUMED)/test.stamp

lint: $(MACE)/test.stamp
	$(MACE)/bin/ruff check
	$(MACE)/bin/ruff format --check
	$(MACE)/bin/mdformat --check README.md CONTRIBUTING.md CHANGELOG.md docs

types: $(MACE)/test.stamp
	rm -rf build/types
	mkdir -p build/types/surveyor
	ln -s $(addprefix $(CURDIR)/,$(wildcard src/surveyor/*) blocks tasks flows) build/types/surveyor/
	$(MACE)/bin/mypy

# Processes share the machine; threads of torch in each of them would be in each other's way. There are more than
# cores, as tests wait for servers, queues and each other's programs.
tests tests-long mutants: export OMP_NUM_THREADS := 1
# Nor do processes of MPI burn a core while they wait for each other, or insist on the same one.
tests tests-long mutants: export OMPI_MCA_mpi_yield_when_idle := 1
tests tests-long mutants: export OMPI_MCA_hwloc_base_binding_policy := none
tests tests-long mutants: export PLUMED_KERNEL ?= $(CURDIR)/$(PLUMED)/plumed/_lib/lib/libplumedKernel.so
tests: $(MACE)/test.stamp $(NEQUIP)/test.stamp $(PLUMED)/test.stamp
	$(MACE)/bin/python -m pytest $(PARALLEL) -m "not long and not nequip"
	$(NEQUIP)/bin/python -m pytest $(PARALLEL) -m "not long and nequip"

tests-long: $(MACE)/test.stamp $(NEQUIP)/test.stamp $(PLUMED)/test.stamp
	$(MACE)/bin/python -m pytest -m "long and not nequip"
	$(NEQUIP)/bin/python -m pytest -m "long and nequip"

mutants: $(MACE)/test.stamp $(MUTANTS)/test.stamp $(PLUMED)/test.stamp
	PYTHONPATH=$(CURDIR)/$(MUTANTS) $(MACE)/bin/python tests/mutants/campaign.py $(MODULE)

benchmarks: $(MACE)/test.stamp
	$(MACE)/bin/python benchmarks/overhead.py
	$(MACE)/bin/python benchmarks/restart.py
	$(MACE)/bin/python benchmarks/restart.py --without-server
	$(MACE)/bin/python benchmarks/overlap.py --places 16 64 --slow 0 0.01
	$(MACE)/bin/python benchmarks/labelling.py
	$(MACE)/bin/python benchmarks/look_ups.py
	$(MACE)/bin/python benchmarks/walkers.py --walkers 16
	$(MACE)/bin/python benchmarks/pools.py --labels 2000 --plain 1000 --rate 50

benchmark-labels: export OMP_NUM_THREADS ?= 1
benchmark-labels: $(MACE)/test.stamp
	$(MACE)/bin/surveyor benchmark-labels benchmarks/labels/$(SYSTEM).yaml

benchmark-labels-online: export OMP_NUM_THREADS ?= 1
benchmark-labels-online: $(MACE)/test.stamp
	$(MACE)/bin/python benchmarks/labels/online.py benchmarks/labels/$(SYSTEM).yaml

journals: export OMP_NUM_THREADS ?= 1
journals: $(MACE)/test.stamp
	$(MACE)/bin/python tests/support/record_journals.py

images: image-mace image-nequip

image-mace: ENGINE := --build-arg EXTRAS=mace,xtb
image-nequip: ENGINE := --build-arg EXTRAS=nequip --build-arg CONSTRAINTS=constraints-nequip.txt
# The builder sees the wheel and the constraints, and no other file of this folder.
image-mace image-nequip: image-%: | $(MACE)/bin/python
	rm -rf build/image-$* build/lib
	$(MACE)/bin/pip wheel --disable-pip-version-check --quiet --no-deps --wheel-dir build/image-$* .
	cp constraints.txt constraints-nequip.txt build/image-$*/
	$(BUILD) $(ENGINE) --build-arg BASE=$(BASE) $(OPTIONS) --file deployments/images/Dockerfile \
	    --tag surveyor-$*:$(TAG) build/image-$*

docs: $(MACE)/docs.stamp
	$(MACE)/bin/mkdocs build --strict

diagrams: $(patsubst %.mmd,%.svg,$(wildcard docs/diagrams/*.mmd))

docs/diagrams/%.svg: docs/diagrams/%.mmd docs/diagrams/style.json
	npx --yes @mermaid-js/mermaid-cli@12.2.0 --quiet --configFile docs/diagrams/style.json --backgroundColor white \
	    --input $< --output $@

clean:
	rm -rf .venv site

$(MACE)/bin/python:
	$(PYTHON) -m venv $(MACE)

$(NEQUIP)/bin/python:
	$(PYTHON) -m venv $(NEQUIP)

$(MACE)/demo.stamp: pyproject.toml constraints.txt | $(MACE)/bin/python
	$(PIP) --editable ".[mace,xtb]"
	touch $@

$(MACE)/test.stamp: pyproject.toml constraints.txt | $(MACE)/bin/python
	$(PIP) --editable ".[mace,cuequivariance,xtb,wandb,plumed,storage,test,lint,docs]"
	touch $@

# `tests/mutants/campaign.py` changes its operators, which it does not promise to keep in another version.
$(MUTANTS)/test.stamp: constraints.txt | $(MACE)/bin/python
	$(MACE)/bin/pip install --disable-pip-version-check --quiet --upgrade --constraint constraints.txt \
	    --target $(MUTANTS) mutmut==3.8.1
	touch $@

$(NEQUIP)/test.stamp: pyproject.toml constraints.txt constraints-nequip.txt | $(NEQUIP)/bin/python
	$(NEQUIP)/bin/pip install --constraint constraints-nequip.txt $(INSTALL) --editable ".[nequip,test]"
	touch $@

$(PLUMED)/test.stamp: | $(MACE)/bin/python
	$(MACE)/bin/pip install --disable-pip-version-check --quiet --no-deps --target $(PLUMED) hillclimber==0.1.8
	touch $@

$(MACE)/docs.stamp: pyproject.toml constraints.txt | $(MACE)/bin/python
	$(PIP) --editable ".[mace,xtb,docs]"
	touch $@
