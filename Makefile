# Every common task, each from a bare clone. `make` alone lists them.
# Variables: VENV=.venv  FASTLOCK_PYTHON=/path/to/python  DEMO_ARGS=...  PYTEST_ARGS=...
#            BENCH_ARGS=...  MODEL_ARGS=...  PYTHON_FT=/path/to/python3.14t  HAMMER=60
#            FUZZ_SECONDS=30  FUZZ_ARGS="codec pack pipe"  LEAK_OPERATIONS=1000000
#            CHAOS_SECONDS=600  CHAOS_SEED=N

VENV ?= .venv
BIN := $(VENV)/bin
# Newer than everything the compiled core is made of, once the environment is ready.
READY := $(VENV)/.ready
# Newer than the list of them, once the bench's rivals are installed.
RIVALS := $(VENV)/.rivals
# A CPython without the GIL, and an environment of it without the package hiredis.
PYTHON_FT ?= .python-ft/bin/python3
VENV_FT := $(VENV)-ft
READY_FT := $(VENV_FT)/.ready
HAMMER ?= 60
# hiredis lies apart, for the doctor; trustme needs cffi, which CPython 3.13 has only with the GIL.
TEST_FT := $(VENV_FT)/bin/python -m pytest --no-gil --trustme $(BIN)/python --hiredis $(VENV_FT)/hiredis
CORE := $(wildcard src/fastlock/*.pyx src/fastlock/*.pxd src/fastlock/*.h)
PACKAGE := $(shell find src/fastlock -name '*.py' -o -name '*.lua') $(CORE)
# The same of two environments with sanitizers in the core.
ASAN := $(VENV)-asan/.ready
FUZZ := $(VENV)-fuzz/.ready
FUZZ_SECONDS ?= 30
LEAK_OPERATIONS ?= 1000000

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-matrix test-ft chaos py-ft model asan fuzz leaks docs docs-serve lint format hooks bench bench-quick wheel wheels clean

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
	@$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

test-matrix: $(READY) ## locks on Valkey 9 and 8.1, Redis 7 and 8.6, 5 minutes
	@tools/test-matrix $(BIN)/python $(PYTEST_ARGS)

test-ft: $(READY) $(READY_FT) ## locks without the GIL, then 16 threads for 60 s on each core
	@$(TEST_FT) -n auto tests/contract tests/live tests/cli/test_doctor.py tests/cli/test_doctor_gil.py $(PYTEST_ARGS)
	@$(TEST_FT) tests/live/test_hammer.py --hammer $(HAMMER) -rP -o faulthandler_timeout=0 \
		--timeout $$(($(HAMMER) + 120)) $(PYTEST_ARGS)

chaos: $(READY) ## break servers and processes for 10 minutes, and judge what locks said
	@cd tests && $(abspath $(BIN))/python -m chaos $(CHAOS_ARGS)

py-ft: $(PYTHON_FT) ## CPython without the GIL from Debian's source, once, 3 to 10 minutes

.python-ft/bin/python3: always # stays as it is, and as old, if it is good
	@tools/get-free-threaded .python-ft
always:

$(READY_FT): $(PYTHON_FT) pyproject.toml setup.py tools/make-venv tools/find-python $(CORE)
	@FASTLOCK_PYTHON=$(PYTHON_FT) PIP_PREFER_BINARY=1 tools/make-venv $(VENV_FT) live
	@$(VENV_FT)/bin/python -m pip install -qq --upgrade --target $(VENV_FT)/hiredis hiredis
	@touch $@

model: ## search a model of the protocol, and known mistakes in it, 2 minutes (needs spin)
	@model/check.py $(MODEL_ARGS)

asan: $(ASAN) ## contract tests and the fuzzer's corpus under ASan and UBSan, 1 minute
	@tools/sanitized asan $(VENV)-asan/bin/python -m pytest -q -n auto -m "not memory" \
		tests/contract tests/fuzz $(PYTEST_ARGS)
	@SANITIZED_LEAKS=1 tools/sanitized asan $(VENV)-asan/bin/python tests/fuzz/_corpus.py replay

$(ASAN): $(READY) tools/make-sanitized setup.py $(PACKAGE)
	@tools/make-sanitized $(VENV)-asan asan $(VENV)
	@touch $@

fuzz: $(FUZZ) ## fuzz the core, FUZZ_SECONDS for each of three targets (needs clang)
	@tools/fuzz $(VENV)-fuzz $(FUZZ_SECONDS) $(FUZZ_ARGS)

$(FUZZ): tools/make-sanitized setup.py $(PACKAGE)
	@tools/make-sanitized $(VENV)-fuzz fuzz
	@touch $@

leaks: $(READY) ## a million operations each way leave nothing behind, 20 minutes
	@$(BIN)/python -m pytest -n auto --timeout=0 -o faulthandler_timeout=0 \
		--leak-operations=$(LEAK_OPERATIONS) tests/leaks $(PYTEST_ARGS)

docs: $(READY) ## the documentation as a site, strictly, into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict
	@echo "site/index.html"

docs-serve: $(READY) ## the same, served on http://127.0.0.1:8000 and rebuilt at every change
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

lint: $(READY) ## ruff, mypy --strict, cython-lint, codespell
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PATH="$(abspath $(BIN)):$$PATH" cython-lint $(filter %.pyx %.pxd,$(CORE))
	@$(BIN)/codespell

format: $(READY) ## let ruff lay out the code and mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

hooks: $(READY) ## let git run the linters on what a commit changes, before it is made
	@$(BIN)/pre-commit install

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

clean: ## remove what make made, the environments too; but for .python-ft
	@rm -rf build dist site src/*.egg-info $(VENV) $(VENV_FT) $(VENV)-asan $(VENV)-fuzz .servers .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@rm -f src/fastlock/*.so src/fastlock/_build.json
	@find src examples tests tools bench docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
