# The commands of this repository; `make` alone lists them. Only python3, make and git have to be installed.
PYTHON ?= python3
BIN := .venv/bin
RUN_STAMP := .venv/.run
PACKAGES_STAMP := .venv/.packages
TEST_STAMP := .venv/.test
BENCH_STAMP := .venv/.bench
# the SDKs that tests/sdk runs besides the one of the test extra, each with its own directory and lock
PYTHON_SDKS := 1.109 2.54 3.51
NODE_SDK := tests/sdk/node
UV_INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes
NPM := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/npm
# the clients of tests/clients: each Python one has its own directory and lock; the Node ones share one, except Codex, which is huge
PYTHON_CLIENTS := $(patsubst requirements/clients-%.in,%,$(wildcard requirements/clients-*.in))
NODE_CLIENTS := tests/clients/node
CODEX := tests/clients/codex
CLIENT_STAMPS := $(PYTHON_CLIENTS:%=.venv/clients/%/.installed) $(NODE_CLIENTS)/node_modules/.installed
SDK_STAMPS := $(PYTHON_SDKS:%=.venv/sdk/%/.installed) $(NODE_SDK)/node_modules/.installed
# real clients in all of their scenarios: they take minutes, so they have a command of their own
CLIENTS := tests/clients/test_clients.py
# one more than the cores of the smallest machine: the tests wait for a third of their time
TEST_PROCESSES ?= 3
# Containers often disable bytecode files. The tests start hundreds of processes, each of which would compile everything again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help up test test-all test-clients check format docs lock bench bench-quick chaos clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F ':.*?## ' '{printf "make %-12s %s\n", $$1, $$2}'

up: $(RUN_STAMP) ## Run everything on this machine, in the foreground
	@exec $(BIN)/backburner up

test: $(TEST_STAMP) check ## Run every check and test, on real Valkey, SQLite and PostgreSQL
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m "not long" $(CLIENTS:%=--ignore=%)

test-all: $(TEST_STAMP) check ## The same, with the long tests of transports, crashes and races
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(CLIENTS:%=--ignore=%)

test-clients: $(TEST_STAMP) $(CODEX)/node_modules/.installed ## Run real clients in all of their scenarios; MATRIX=write writes the results to docs/compatibility.md
	MATRIX=$(MATRIX) $(BIN)/python -m pytest $(CLIENTS)

check: $(TEST_STAMP) ## Lint, types, import contracts, words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m docs.check_prose

format: $(TEST_STAMP) ## Format, and fix what can be fixed automatically
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(RUN_STAMP) ## Generate the files that are made from code
	$(BIN)/python -m docs.generate

bench: $(BENCH_STAMP) ## Measure and compare with the plain way and the peers; NAMES="accept drain" ROUNDS=1, see docs/performance.md
	$(BIN)/python -m benchmarks $(if $(ROUNDS),--rounds $(ROUNDS)) $(NAMES)

bench-quick: $(BENCH_STAMP) ## The same in five minutes, with rough figures
	$(BIN)/python -m benchmarks --quick $(NAMES)

chaos: $(TEST_STAMP) ## Break everything at once and check every job; SEED=7 JOBS=2000 TRANSPORT=stream, see docs/chaos.md
	$(BIN)/python -m tests.chaos --jobs $(or $(JOBS),2000) $(if $(SEED),--seed $(SEED)) \
		$(if $(TRANSPORT),--transport $(TRANSPORT))

lock: | $(TEST_STAMP) ## Update the locked dependencies, with hashes and without index URLs
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --upgrade pyproject.toml requirements/build.in -o requirements/run.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url -c requirements/run.txt --extra test pyproject.toml requirements/build.in -o requirements/test.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url -c requirements/test.txt --extra bench pyproject.toml -o requirements/bench.txt
	for sdk in $(PYTHON_SDKS); do echo "openai==$$sdk.*" | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
		--generate-hashes --no-header --no-emit-index-url --no-annotate -c requirements/run.txt - -o requirements/sdk-$$sdk.txt || exit; done
	for client in $(PYTHON_CLIENTS); do $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-annotate --upgrade requirements/clients-$$client.in -o requirements/clients-$$client.txt || exit; done
	for directory in $(NODE_SDK) $(NODE_CLIENTS) $(CODEX); do $(NPM) --prefix $$directory update --package-lock-only || exit; done

clean: ## Remove the virtual environment and caches; jobs in .backburner are kept
	rm -rf .venv $(patsubst %,%/node_modules,$(NODE_SDK) $(NODE_CLIENTS) $(CODEX)) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info build

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Backburner needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.13 " + "up") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv

$(RUN_STAMP): requirements/run.txt pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# uv is installed first, as it installs the other packages several times faster
$(PACKAGES_STAMP): requirements/test.txt $(RUN_STAMP)
	sed -n '/^uv==/,/^ *#/p' requirements/test.txt > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.txt
	$(UV_INSTALL) -r requirements/test.txt
	@touch $@

$(TEST_STAMP): $(PACKAGES_STAMP) $(SDK_STAMPS) $(CLIENT_STAMPS)
	@touch $@

$(BENCH_STAMP): requirements/bench.txt $(PACKAGES_STAMP)
	$(UV_INSTALL) -r requirements/bench.txt
	@touch $@

.venv/sdk/%/.installed: requirements/sdk-%.txt | $(PACKAGES_STAMP)
	rm -rf $(@D)
	$(UV_INSTALL) --no-deps --target $(@D) -r $<
	@touch $@

.venv/clients/%/.installed: requirements/clients-%.txt | $(PACKAGES_STAMP)
	rm -rf $(@D)
	$(UV_INSTALL) --no-deps --target $(@D) -r $<
	@touch $@

%/node_modules/.installed: %/package-lock.json %/package.json | $(PACKAGES_STAMP)
	$(NPM) --prefix $* ci --silent
	@touch $@
