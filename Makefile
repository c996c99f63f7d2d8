# Every target does its own set-up, once: a .venv with the pinned packages of requirements/dev.txt and this tree in
# editable form. Needed before: Python 3.11 or newer, make, a shell. `make PYTHON=/path/to/python3.12 test` picks another.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

PYTEST := $(BIN)/pytest -q --durations=10 --durations-min=2
# Most tests wait for servers and processes most of the time: all of them run in so many processes, a file at a time.
TEST_PROCESSES ?= 3

IMAGE ?= celeriac
TAG ?= $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' worker/celeriac/__init__.py)
DOCKER ?= docker

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format types pytest compat-env bench bench-docs cluster-test image chart docs pins clean
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

help:  ## Print this list
	@awk -F ':.*## ' '/^[a-zA-Z%<>_-]+:.*## / {sub("%", "<folder>", $$1); printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY)  ## Set up .venv (every other target does this by itself)

demo: $(READY)  ## The main job, without a cluster: index the standard library, scale from 0 up and back to 0
	@$(BIN)/python -m examples.indexer.demo

test: lint types pytest  ## Everything that needs no cluster: lint, types, all tests

pytest: compat-env
	@$(PYTEST) -n $(TEST_PROCESSES) --dist loadfile tests --ignore=tests/cluster

test-%: $(READY)  ## One folder of tests, such as test-worker
	@$(PYTEST) tests/$*

lint: $(READY)  ## Style, format, import floors
	@echo "lint: ruff, format, import floors"
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check || { echo "not formatted: run 'make format'"; exit 1; }
	@$(BIN)/lint-imports --no-cache > $(VENV)/lint-imports.log 2>&1 || { cat $(VENV)/lint-imports.log; exit 1; }

format: $(READY)  ## Rewrite what ruff can: format, order of imports
	@$(BIN)/ruff check --quiet --fix --exit-zero
	@$(BIN)/ruff format

types: $(READY)  ## mypy --strict
	@echo "types: mypy --strict"
	@$(BIN)/mypy --no-error-summary

compat-env: $(READY)  ## Set up .venv-compat, where the real Celery lives for tests/compat and bench
	@$(BIN)/python tests/support/compat_env.py > $(VENV)/compat-env.log || { cat $(VENV)/compat-env.log; exit 1; }

bench: compat-env  ## Speed beside Celery's and its peers', in one run, an hour; ARGS=--quick for a look, ARGS=--help for choices
	@$(BIN)/python -m bench $(ARGS)

bench-docs: compat-env  ## The same, written into docs/performance.md; ARGS=--only-docs writes what was measured last
	@$(BIN)/python -m bench --docs $(ARGS)

cluster-test: $(READY)  ## The same on a real Kubernetes; KUBECONFIG names it
	@test -n "$$KUBECONFIG" || { echo "cluster-test: set KUBECONFIG to the cluster to test on"; exit 2; }
	@$(PYTEST) tests/cluster

image:  ## Build the images of worker and operator (DOCKER=podman, IMAGE=, TAG= as needed)
	$(DOCKER) build --target worker --tag $(IMAGE)-worker:$(TAG) .
	$(DOCKER) build --target operator --tag $(IMAGE)-operator:$(TAG) .

chart: $(READY)  ## Lint and render the Helm charts, check them against Kubernetes' schemas
	@$(PYTEST) tests/chart

docs: $(READY)  ## Rewrite docs/settings.md and the tables of docs/metrics.md from the code, and what the charts say of their values from values.yaml
	@$(BIN)/python tests/support/settings_page.py
	@$(BIN)/python tests/support/metrics_page.py
	@$(BIN)/python tests/support/chart_pages.py

pins: $(READY)  ## Renew requirements/dev.txt from pyproject.toml
	@sh requirements/renew.sh $(BIN)/python requirements/dev.txt

clean:  ## Remove what make made: environments, caches, builds
	rm -rf $(VENV) .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
	find worker operator tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements/dev.txt requirements/install.sh pyproject.toml
	@sh requirements/install.sh $(VENV) requirements/dev.txt "$(PYTHON)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@
