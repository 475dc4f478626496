# Sluicegate: type `make` to see what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup run test check lint types format bench crash clean lock

help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages into $(VENV) (one minute the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

setup: $(STAMP) ## make .venv and install the locked packages

run: setup ## start everything and govern 2,000 recorded agent calls
	@$(BIN)/sluicegate demo

test: setup ## run the tests
	@$(BIN)/python -m pytest

lint: setup ## ruff: lint and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## mypy --strict
	@$(BIN)/mypy

format: setup ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

check: lint types test ## lint, types, tests: what CI runs

crash: setup ## SIGKILL at every step, then ledger verify
	@$(BIN)/python -m pytest -q tests/crash

bench: setup ## measure; results in bench/results/
	@$(BIN)/python -m bench

lock: ## pin the dependencies again (needs uv)
	uv pip compile pyproject.toml --extra embedded --extra dev --generate-hashes --universal --python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links --no-annotate -q -o requirements.lock

clean: ## remove the virtual environment and all local state
	rm -rf $(VENV) .sluicegate
