.DEFAULT_GOAL := help
.PHONY: help setup book html test lint bench bench-gpu ledger-gpu ledger-digits sync clean

PYTHON ?= python3
PROFILE ?= quick
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PROFILE=smoke|quick|gpu|paper chooses the scale (default quick), PYTHON=python3.12 the interpreter."

setup: $(READY)  ## the virtual environment in .venv, with everything installed

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is older than Python 3.10; choose another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -r requirements.txt -e .
	@touch $@

book: $(READY)  ## execute the notebooks that changed, then build the book
	$(BIN)/python -m stkd_utils notebooks --profile $(PROFILE)
	@$(BIN)/python book/build.py --profile $(PROFILE)

html: $(READY)  ## build the book from the notebooks as last executed
	@$(BIN)/python book/build.py --profile $(PROFILE)

# Most tests are small and keep one core busy: two at a time, each with one thread, take little more than half as long.
test: $(READY)  ## all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -p no:benchmark

lint: $(READY)  ## ruff over package, notebooks, book and tests
	$(BIN)/ruff check .

bench: $(READY)  ## one table of benchmarks against the plain step; adds to book/ledger/bench.jsonl (THREADS=n)
	$(BIN)/python -m pytest -q tests/bench -o python_files='bench_*.py' -o addopts= --timeout 3600 --benchmark-quiet \
	  --history book/ledger/bench.jsonl $(if $(THREADS),--threads $(THREADS))

bench-gpu: $(READY)  ## tests and benchmarks on a GPU; without one it says so
	@$(BIN)/python tests/bench/gpu.py

ledger-gpu: $(READY)  ## the paper's protocol on a GPU, most telling runs first, as far as MINUTES=30 go
	@$(BIN)/python book/agenda.py --minutes $(or $(MINUTES),30)

ledger-digits: $(READY)  ## the digits' ways of chapters 4, 6, 7 and 9 for SEEDS=34 seeds, each run alone; adds to the ledger
	@$(BIN)/python book/agenda.py --digits $(or $(SEEDS),34)

sync: $(READY)  ## carry notebooks/*.py to *.ipynb, the finding to the README, and the address everywhere
	$(BIN)/jupytext --quiet --update --to ipynb notebooks/[0-9]*.py
	$(BIN)/python book/sync.py

clean:  ## remove everything that was built; .venv stays
	rm -rf _build dist .pytest_cache .ruff_cache .hypothesis
