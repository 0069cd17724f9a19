# One line a target: what it does stands behind ##. Everything sets itself up on first use.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
LOCK := packaging/requirements/dev.txt
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
WORKERS ?= 2

.PHONY: help venv demo test test-plugins test-slow test-vm test-container test-service test-agents check bench docs docs-check package image lock clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

venv: $(STAMP) ## make the virtual environment in .venv from the lock

$(STAMP): pyproject.toml $(LOCK) $(PLUGINS:%=%/pyproject.toml)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "descartesd needs Python 3.11 or newer"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . $(PLUGINS:%=-e %)
	$(BIN)/python -m compileall -q descartesd
	touch $(STAMP)

demo: $(STAMP) ## play the ten scenarios on a server of its own
	$(BIN)/descartesctl demo

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'not slow' tests plugins

test-plugins: $(STAMP) ## run the tests of the plugins alone
	$(BIN)/python -m pytest -m 'not slow' plugins

test-slow: $(STAMP) ## run the tests that take over 20 s each
	$(BIN)/python -m pytest -m slow tests plugins

test-agents: $(STAMP) ## drive the real coding agents, installed with npm, against a model on loopback
	$(BIN)/python -m pytest -m real_agents tests/agents

test-vm: $(STAMP) ## run the tests that need a whole host, in a virtual machine
	$(BIN)/python -m tests.vm

test-container: $(STAMP) ## run the tests of control groups, of the package and of the image in containers, as root
	$(BIN)/python -m tests.container
	$(BIN)/python -m pytest -n 0 -o timeout=240 tests/container/check_*.py

test-service: $(STAMP) ## run the most important of these, as root
	$(BIN)/python -m pytest -n 0 -o timeout=240 -m essential tests/container/check_package.py tests/container/check_state.py tests/container/check_faults.py

check: $(STAMP) ## lint, types, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python packaging/generate_client.py --check
	$(BIN)/python packaging/generate_docs.py --check

bench: $(STAMP) ## measure against the limits and print the ratios
	$(BIN)/python -m tests.bench

docs: $(STAMP) ## generate the reference pages
	$(BIN)/python packaging/generate_client.py
	$(BIN)/python packaging/generate_docs.py

package: $(STAMP) ## build wheels, source archive, Debian package and, where its tools are, the image into dist/
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	for plugin in $(PLUGINS); do (cd $$plugin && $(CURDIR)/$(BIN)/python -m hatchling build -t wheel -d $(CURDIR)/dist) || exit 1; done
	$(BIN)/python packaging/build_deb.py dist
	$(BIN)/python packaging/build_image.py --if-possible dist

image: $(STAMP) ## build the container image into dist/ (needs buildah and mmdebstrap)
	$(BIN)/python packaging/build_image.py dist

lock: ## renew the lock (needs uv)
	uv pip compile pyproject.toml $(PLUGINS:%=%/pyproject.toml) --group dev --extra cli \
		--overrides <(echo "descartesd @ file://$(CURDIR)") --no-emit-package descartesd \
		--generate-hashes --no-header --python-version 3.11 -o $(LOCK)

clean: ## remove what the targets made
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
