# Sluicegate: type `make` to see what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed
AUDIT_VENV := .venv-bench-audit
AUDIT_STAMP := $(AUDIT_VENV)/.installed
S3_VENV := .venv-s3
S3_STAMP := $(S3_VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup run demo-lifecycle test test-s3 check lint types format bench bench-agentdojo bench-recorded bench-airline bench-audit crash mutations clean lock

help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages into $(VENV) (one minute the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

setup: $(STAMP) ## make .venv and install the locked packages

run: setup ## start everything and govern 2,000 recorded agent calls
	@$(BIN)/sluicegate demo

demo-lifecycle: setup ## publish, canary, alarm, explain, rebuild, restore; ends with a page of charts
	@$(BIN)/python -m examples.lifecycle $(ARGS)

test: setup ## run the tests two at a time; those that kill and measure bounds of time by themselves
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit tests/properties tests/golden
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/contracts tests/integration
	@$(BIN)/python -m pytest tests/crash

$(S3_STAMP): tests/s3-requirements.lock
	@test -d $(S3_VENV) || $(PYTHON) -m venv $(S3_VENV)
	@$(S3_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/s3-requirements.lock
	@touch $@

test-s3: setup $(S3_STAMP) ## artifacts, tiles and archive on a server that speaks S3 (moto, in a venv of its own)
	@$(BIN)/python -m tests.s3 $(S3_VENV)/bin/moto_server $(ARGS)

lint: setup ## ruff: lint and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## mypy --strict
	@$(BIN)/mypy

format: setup ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

check: lint types test ## lint, types, tests: what CI runs

crash: setup ## the crash matrix: every point x SIGKILL, SIGSTOP x four classes; ARGS="--points claim.2"
	@$(BIN)/python -m bench.crash $(ARGS)

mutations: setup ## tamper with ledgers in every way we know of; the verifier has to find and name each
	@$(BIN)/python -m tests.mutations --clickhouse

bench: setup ## measure; results in bench/results/
	@$(BIN)/python -m bench

$(BENCH_STAMP): bench/requirements.lock pyproject.toml
	@test -d $(BENCH_VENV) || $(PYTHON) -m venv $(BENCH_VENV)
	@echo "installing AgentDojo and the locked packages into $(BENCH_VENV) (two minutes the first time)"
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bench/requirements.lock
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

bench-agentdojo: $(BENCH_STAMP) ## AgentDojo's scripted worst case through the real stack
	@$(BENCH_VENV)/bin/python -m bench.agentdojo $(ARGS)

bench-recorded: $(BENCH_STAMP) ## recorded AgentDojo runs; TRAFFIC=folder
	@$(BENCH_VENV)/bin/python -m bench.recorded --traffic $(TRAFFIC) $(ARGS)

$(AUDIT_STAMP): bench/audit-requirements.lock
	@test -d $(AUDIT_VENV) || $(PYTHON) -m venv $(AUDIT_VENV)
	@$(AUDIT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bench/audit-requirements.lock
	@touch $@

bench-audit: setup $(AUDIT_STAMP) ## durable outcomes against an audit log in memory
	@$(BIN)/python -m bench audit

bench-airline: setup ## recorded airline runs under its written rules; TRAFFIC=folder
	@$(BIN)/python -m bench.airline --traffic $(TRAFFIC) $(ARGS)

lock: ## pin the dependencies again (needs uv)
	uv pip compile pyproject.toml --extra embedded --extra dev --generate-hashes --universal --python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links --no-annotate -q -o requirements.lock
	uv pip compile pyproject.toml --extra embedded --extra bench -c requirements.lock --generate-hashes --universal --python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links --no-annotate -q -o bench/requirements.lock
	uv pip compile tests/s3-requirements.in --generate-hashes --universal --python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links --no-annotate -q -o tests/s3-requirements.lock
	uv pip compile bench/audit-requirements.in --generate-hashes --universal --python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links --no-annotate -q -o bench/audit-requirements.lock

clean: ## remove the virtual environment and all local state
	rm -rf $(VENV) $(BENCH_VENV) $(AUDIT_VENV) $(S3_VENV) .sluicegate
