# Everything starts here: `make train`, `make test`. Needs python3 (3.11 or later) and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?= scenario=split_digits strategy=naive,psmt,joint
BENCHMARKS ?= throughput rehearsal_speed evaluation_speed augmentation_speed startup_speed memory_peak mapped_speed \
	vector_speed merging_speed gcwm_speed adaptation_speed tried_speed disk_use scaling

.PHONY: help train test check reference reproduce protocol adaptation adaptation-cost merging fast-slow kills soak services fuzz bench page site clean
.DEFAULT_GOAL := help

help:  ## this text
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 18

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cl_framework needs Python 3.11 or later; give one: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a few minutes the first time)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

train: .venv/ready  ## train a job: make train ARGS="scenario=split_cifar strategy=psmt"
	@$(BIN)/clf train $(ARGS)

test: .venv/ready  ## the tests
	@$(BIN)/pytest -n 2 --dist loadfile

check: .venv/ready  ## linters, types, import rules
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

reference: .venv/ready  ## the real-data tables of docs/results.md (minutes; goes on where it stopped)
	@$(BIN)/python benchmarks/reference.py

reproduce: .venv/ready  ## the published tables of docs/results.md (hours on two cores; goes on where it stopped)
	@$(BIN)/python benchmarks/reproduce.py

protocol: .venv/ready  ## both protocols on Fashion-MNIST, MNIST and glyphs (an hour on two cores; goes on where it stopped)
	@$(BIN)/python benchmarks/two_phase.py

adaptation: .venv/ready  ## test-time adaptation on corrupted Fashion-MNIST and MNIST (an hour on two cores; goes on)
	@$(BIN)/python benchmarks/adaptation.py

adaptation-cost: .venv/ready  ## time and peak memory of adaptation beside the frozen source (minutes)
	@$(BIN)/python benchmarks/adaptation_cost.py

merging: .venv/ready  ## merging on MiniLM, EfficientNet-lite0 and SmolLM2 (hours on two cores; goes on)
	@for stream in text vision; do $(BIN)/python benchmarks/merging.py $$stream; done
	@$(BIN)/python benchmarks/merging_language.py

fast-slow: .venv/ready  ## fast and slow weights on tiny_lm and SmolLM2 (minutes, then hours on two cores; goes on)
	@for tier in tiny smollm2; do $(BIN)/python benchmarks/fast_slow.py $$tier; done
	@$(BIN)/python benchmarks/prompt_reach.py

kills: .venv/ready  ## 200 runs killed at random moments, signals, and faults of the disk (goes on where it stopped)
	@$(BIN)/python benchmarks/faults/kills.py
	@$(BIN)/python benchmarks/faults/kills_commands.py
	@$(BIN)/python benchmarks/faults/storage.py

soak: .venv/ready  ## 2,000 experiences online: does memory, time or a handle grow?
	@$(BIN)/python benchmarks/faults/soak.py

services: .venv/ready  ## W&B servers that are gone, slow, rejecting, or die on the way
	@$(BIN)/python benchmarks/faults/services.py

fuzz: .venv/ready  ## the next thousand command lines and the next thousand damaged files
	@$(BIN)/python benchmarks/faults/fuzz_commands.py
	@$(BIN)/python benchmarks/faults/fuzz_files.py

bench: .venv/ready  ## all figures of docs/performance.md (best on a machine with nothing else to do)
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

site: .venv/ready  ## the documentation as pages for the browser: docs/_site/index.html
	@$(BIN)/pip install --quiet --disable-pip-version-check -r docs/requirements.lock
	@$(BIN)/python -m sphinx -q -W --keep-going -b html -d docs/_site/.doctrees docs docs/_site

page: .venv/ready  ## the tables and pictures of the documentation from the records in runs/reference
	@$(BIN)/python benchmarks/page.py
	@$(BIN)/python benchmarks/page_performance.py
	@$(BIN)/python benchmarks/faults/reliability_page.py

clean:  ## remove the environment
	rm -rf .venv
