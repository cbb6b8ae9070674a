# Everything a person types. `make` alone lists it. Needs Python 3.11 or newer; installs the rest into .venv.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo run test test-slow test-browser nemesis fuzz check audit format bench soak collections lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## Run the main job once, on embedded servers, and end
	@$(BIN)/ordertape demo

run: $(READY) ## Run the engine on http://127.0.0.1:3000 (PORT) until Ctrl-C
	@$(BIN)/ordertape up

# Test processes, and the many interpreters that they start, compile each module once and not each time.
test test-slow: export PYTHONDONTWRITEBYTECODE :=

test: $(READY) ## Run the tests on their own servers, at most 5 minutes
	@$(BIN)/python -m pytest -m "not slow and not browser" -n $(WORKERS) --dist worksteal

test-slow: $(READY) ## Run the crash and fault suites, at most 8 minutes
	@$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

test-browser: $(READY) ## Run the dashboard's tests in the system's Chromium, at most a minute
	@$(BIN)/python -m pytest -m browser -n 0 tests/browser

nemesis: $(READY) ## Break servers and processes by SEED (random) for SECONDS (120), and check every promise
	@$(BIN)/python -m tests.nemesis.run --seconds $(or $(SECONDS),120) $(if $(SEED),--seed $(SEED))

fuzz: $(READY) ## Send FRAMES (100,000) hostile frames and REQUESTS (5,000) by SEED (random), and judge every answer
	@$(BIN)/python -m tests.fuzz.run --frames $(or $(FRAMES),100000) --requests $(or $(REQUESTS),5000) \
		$(if $(SEED),--seed $(SEED))

check: $(READY) ## Check format, lint, types and import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

audit: $(READY) ## Ask for known vulnerabilities of the locked dependencies; AUDIT=--warn: go on where nobody answers
	@$(BIN)/python -m tests.advisories $(AUDIT)

format: $(READY) ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY) ## Measure appends, orders, resting orders, projections, rebuilds and messages per second, restarts, the archive
	@$(BIN)/python -m tests.benchmarks.appends
	@$(BIN)/python -m tests.benchmarks.restarts
	@$(BIN)/python -m tests.benchmarks.orders
	@$(BIN)/python -m tests.benchmarks.resting
	@$(BIN)/python -m tests.benchmarks.projections
	@$(BIN)/python -m tests.benchmarks.archive
	@$(BIN)/python -m tests.benchmarks.streaming
	@$(BIN)/python -m tests.benchmarks.sockets

soak: $(READY) ## Run ORDERS (10,000) by SEED while workers die, then 500,000 and judge whether memory stays flat
	@$(BIN)/python -m tests.benchmarks.failpoints --orders $(or $(ORDERS),10000) $(if $(SEED),--seed $(SEED))
	@$(BIN)/python -m tests.benchmarks.soak

collections: $(READY) ## Write docs/collections anew from the table of examples
	@$(BIN)/python -m tests.collections

lock: $(READY) ## Resolve the dependencies anew into requirements.lock
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--no-emit-index-url --upgrade --extra dev -o requirements.lock pyproject.toml

clean: ## Remove the environment and the engine's data
	rm -rf $(VENV) .ordertape

$(READY): requirements.lock pyproject.toml
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "OrderTape needs Python 3.11 or newer: make PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		v=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "This Python has no venv: on Debian or Ubuntu, apt-get install python$$v-venv"; exit 2; }
	@echo "Installing into $(VENV) (once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation -e .
	@touch $(READY)
