# Every common task, each from a bare clone. `make` alone lists them.
# Variables: VENV=.venv  FASTLOCK_PYTHON=/path/to/python  DEMO_ARGS=...  PYTEST_ARGS=...
#            BENCH_ARGS=...  MODEL_ARGS=...

VENV ?= .venv
BIN := $(VENV)/bin
# Newer than everything the compiled core is made of, once the environment is ready.
READY := $(VENV)/.ready
# Newer than the list of them, once the bench's rivals are installed.
RIVALS := $(VENV)/.rivals
CORE := $(wildcard src/fastlock/*.pyx src/fastlock/*.pxd src/fastlock/*.h)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-matrix model lint format bench bench-quick wheel wheels clean

help: ## list these targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(READY) ## make the environment: newest CPython, compiled core, tools, server
	@:

$(READY): pyproject.toml setup.py tools/make-venv tools/find-python $(CORE)
	@tools/make-venv $(VENV)
	@touch $@

demo: $(READY) ## watch locks work on a real server, beside redis-py's Lock
	@$(BIN)/fastlock demo $(DEMO_ARGS)

test: $(READY) ## run every test (both cores, sync and asyncio, real servers)
	@$(BIN)/python -m pytest -n auto $(PYTEST_ARGS)

test-matrix: $(READY) ## locks on Valkey 9 and 8.1, Redis 7 and 8.6, 5 minutes
	@tools/test-matrix $(BIN)/python $(PYTEST_ARGS)

model: ## search a model of the protocol, and known mistakes in it, 2 minutes (needs spin)
	@model/check.py $(MODEL_ARGS)

lint: $(READY) ## ruff, mypy --strict, cython-lint, codespell
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PATH="$(abspath $(BIN)):$$PATH" cython-lint $(filter %.pyx %.pxd,$(CORE))
	@$(BIN)/codespell

format: $(READY) ## let ruff lay out the code and mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(RIVALS) ## measure against rivals and limits, 15 minutes (see bench/README.md)
	@$(BIN)/python -m bench $(BENCH_ARGS)

bench-quick: $(RIVALS) ## the main figures of that, in two minutes
	@$(BIN)/python -m bench --quick $(BENCH_ARGS)

$(RIVALS): $(READY) bench/install.py
	@$(BIN)/python -m bench.install
	@touch $@

wheel: $(READY) ## sdist and, from it, a wheel: into dist/
	@FASTLOCK_BUILD=cython $(BIN)/python -m build --quiet --outdir dist .
	@ls -1 dist/*

wheels: ## as in a release: a wheel for every CPython here, and the pure one; tested
	@tools/make-wheels $(WHEELS_ARGS)

clean: ## remove everything that make made, the environment too
	@rm -rf build dist src/*.egg-info $(VENV) .servers .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@rm -f src/fastlock/*.so src/fastlock/_build.json
	@find src tests tools bench docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
