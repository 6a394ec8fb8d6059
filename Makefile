# chatd: `make run` starts a server, `make test` runs the tests. Both do all of their own set-up.

VENV ?= .venv
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help run test test-faults lint types compiled bench bench-peers format lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  Options go through ARGS:  make run ARGS='--listen 0.0.0.0:8080'   make test ARGS='tests/wire -x'"
	@echo "                            make bench ARGS='dm --open-loop 5000'       make bench ARGS=--help"
	@echo "  PYTHON=...  which Python to use (3.11 or later)    VENV=...  where (now $(VENV))"

run: ## Start a server (Ctrl-C stops it)
	@.ci/environment $(VENV) requirements.lock
	@exec $(VENV)/bin/chatd serve $(ARGS)

test: ## Run the tests
	@.ci/environment $(VENV) requirements-dev.lock
	@$(VENV)/bin/pytest --numprocesses auto --dist worksteal $(ARGS)

test-faults: ## Prove what is promised: thousands of simulated runs, then real faults, in about an hour and a half (ARGS='--soak 1800')
	@.ci/environment $(VENV) requirements-dev.lock
	@$(VENV)/bin/python -m chatd_proof simulate --seeds 2000 --new 500
	@$(VENV)/bin/pytest --faults --verbose tests/faults tests/hostile tests/guards $(ARGS)

lint: ## Look for mistakes and unsorted imports
	@.ci/environment $(VENV) requirements-dev.lock
	@$(VENV)/bin/ruff check $(ARGS)

types: ## Check the types
	@.ci/environment $(VENV) requirements-dev.lock
	@$(VENV)/bin/mypy $(ARGS)

compiled: ## Install chatd with its message path compiled, into $(VENV)-compiled: twice as quick; takes a C compiler
	@.ci/environment-compiled $(VENV)-compiled
	@echo "run it with: $(VENV)-compiled/bin/chatd serve"

bench: ## Measure chatd, and the least that any server does, in six minutes; the report is in bench/results/short
	@.ci/environment-compiled $(VENV)-compiled
	@$(VENV)-compiled/bin/python -P -m chatd_bench $(or $(ARGS),suite short)

bench-peers: ## Measure everything, and other servers, which it installs: hours (ARGS=--resume goes on); bench/results/all
	@.ci/environment-compiled $(VENV)-compiled
	@$(VENV)-compiled/bin/python -P -m chatd_bench suite all $(ARGS)

format: ## Sort imports and mend what ruff can mend
	@.ci/environment $(VENV) requirements-dev.lock
	@$(VENV)/bin/ruff check --fix $(ARGS)

# One resolution for every Python and platform that is supported; the second keeps to the versions of the first.
# hatchling and editables are the build backend, which pip would otherwise fetch unhashed.
UV_COMPILE = $(VENV)/lock/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --no-annotate $(ARGS) pyproject.toml -
BUILD = printf 'hatchling\neditables\n'

lock: ## Make the lock files anew from pyproject.toml (ARGS=--upgrade: with the newest versions)
	@.ci/environment $(VENV) requirements-dev.lock
	@$(VENV)/bin/python -m venv $(VENV)/lock
	@$(VENV)/lock/bin/pip install --quiet uv
	@$(BUILD) | $(UV_COMPILE) --output-file requirements.lock
	@$(BUILD) | $(UV_COMPILE) --extra dev --extra bench --constraint requirements.lock --output-file requirements-dev.lock
	@rm -rf $(VENV)/lock

clean: ## Remove the environment and all caches
	@rm -rf $(VENV) $(VENV)-compiled build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
