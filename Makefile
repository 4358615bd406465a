# Everything from a bare machine with Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BOOT := .cache/boot
PEERS := .cache/bench
SEED ?=
LIVES ?= 100000
KILLS ?= 100
ARGS ?=
# Without kept bytecode each of some hundred processes of a test run compiles all that it imports, a second each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo examples test test-long check sim kills pairs cheats bench crashes evals conformance bundles format clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# uv, if there is one, else a private copy of it: the lock file decides every version.
$(VENV)/.synced: pyproject.toml uv.lock
	@if uv --version >/dev/null 2>&1; then uv sync --quiet; else \
	  test -x $(BOOT)/bin/uv || { $(PYTHON) -m venv $(BOOT) && $(BOOT)/bin/pip install --quiet --disable-pip-version-check uv; }; \
	  $(BOOT)/bin/uv sync --quiet --python $(PYTHON); fi
	@touch $@

demo: $(VENV)/.synced ## a real bug fix: reproduced, fixed, killed, resumed, certified
	@$(BIN)/python examples/demo.py

examples: $(VENV)/.synced ## a Python library, a Node package, a project with PostgreSQL: each set up once, fixed twice
	@$(BIN)/python examples/environments.py

test: $(VENV)/.synced ## all tests but the long ones, with a short simulation
	@$(BIN)/pytest -q -n 5 --dist worksteal -m "not long"

test-long: $(VENV)/.synced ## the tests that test leaves out: many real processes, large repositories
	@$(BIN)/pytest -q -n auto --maxprocesses 4 --dist worksteal -m long

check: $(VENV)/.synced ## formatting, lint, types, import contracts
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bundles: $(VENV)/.synced ## a wheel and .mcpb bundles of the MCP servers, below dist/
	@$(BIN)/python -m distribution

format: $(VENV)/.synced ## format and fix what can be fixed
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --fix --quiet .

sim: $(VENV)/.synced ## long simulation (LIVES=100000, SEED=random): prints its seed
	@$(BIN)/python -m tests.simulation --lives $(LIVES) --exhaustive $(if $(SEED),--seed $(SEED))

kills: $(VENV)/.synced ## a hundred real SIGKILLs (KILLS=100, SEED=random)
	@$(BIN)/python -m tests.crash.kills $(KILLS) $(SEED)

pairs: $(VENV)/.synced ## ten real bugs of packages from PyPI: right patches proven, wrong ones not
	@$(BIN)/python -m tests.pairs

cheats: $(VENV)/.synced ## every way we know to turn tests green without a fix
	@ALL_CHEATS=1 $(BIN)/pytest -q -n auto --maxprocesses 4 --dist worksteal tests/e2e/test_cheats.py

# The peers have a venv of their own, with versions of their own lock file.
$(PEERS)/.synced: $(VENV)/.synced bench/pyproject.toml bench/uv.lock
	@uv=$$(command -v uv || echo $(BOOT)/bin/uv); \
	  UV_PROJECT_ENVIRONMENT=$(CURDIR)/$(PEERS) $$uv sync --quiet --frozen --project bench --python $(PYTHON)
	@touch $@

bench: $(PEERS)/.synced ## the runtime beside LangGraph, DBOS and aiosqlite, in turns (ARGS="one --pairs 5", ARGS=--list)
	@$(BIN)/python -m bench $(ARGS)

crashes: $(PEERS)/.synced ## one kill -9 around an effect: ours, LangGraph, DBOS, OpenAI Agents SDK, a script
	@$(BIN)/python -m bench.crashes $(ARGS)

evals: $(VENV)/.synced ## HumanEval and release pairs by a scripted oracle, or a real model (ARGS="--model NAME")
	@$(BIN)/python -m bench.evals $(ARGS)

conformance: $(VENV)/.synced ## the official MCP suites against a real daemon, the short way on and off
	@$(BIN)/python -m tests.mcp.conformance $(ARGS)

clean: ## remove everything that make made
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
