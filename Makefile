.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
# The hub is asked only by a stage whose parameters name it, and telemetry by nobody.
export HF_HUB_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := 1

.PHONY: help install repro test lint bench chaos clean

help: ## show this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort | \
		while IFS="$$(printf '\t')" read -r target text; do printf '  make %-8s %s\n' "$$target" "$$text"; done

install: $(INSTALLED) ## create .venv with the pinned dependencies

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

repro: $(INSTALLED) ## run the pipeline: dvc repro, from photos to reports/index.html
	dvc repro

test: $(INSTALLED) ## run all tests, the end-to-end ones included
	pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED) ## check style, types and the direction of imports
	ruff check .
	ruff format --check .
	mypy
	lint-imports

# Started by hand: cold_run.py takes an hour and wants the machine for itself, the others want data of their own.
BY_HAND := $(patsubst %,benchmarks/%.py,cold_run calibration forms hub_reading published_list words words_to_captions)
bench: $(INSTALLED) ## run the benchmarks, some on what make repro has made
	for script in $(filter-out $(BY_HAND),$(wildcard benchmarks/*.py)); do python "$$script" || exit 1; done

# Trials are told by the seed that is printed: make chaos MINUTES=5 SEED=1234
MINUTES ?= 60
chaos: $(INSTALLED) ## kill, damage, starve and misconfigure a small project at random, with the models of make repro
	python tests/chaos/campaign.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

clean: ## remove the environment, caches and scratch files; results, downloads and the DVC cache stay
	rm -rf $(VENV) scratch build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf src/*.egg-info
