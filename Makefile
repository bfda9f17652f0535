# Tutelage. `make` alone explains the targets; `make run` and `make test` on a clean clone are all the set-up there is.

PYTHON ?= python3.11
VENV ?= .venv
RECIPE ?= recipes/demo.yaml
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
LOCKS := requirements/laptop.lock requirements/ml-metadata.lock

.DEFAULT_GOAL := help
.PHONY: help setup java run test test-all test-control-plane e2e check format compile component lock bench pictures clean

help:
	@echo "make setup             create $(VENV) with what the lock says (once per change of the lock)"
	@echo "make run               train, vet and release a small model here: $(RECIPE) (RECIPE=… for another)"
	@echo "make test              the tests, without those marked slow"
	@echo "make test-all          every test"
	@echo "make test-control-plane  those on a real kube-apiserver and etcd, from the folder KUBEBUILDER_ASSETS"
	@echo "make e2e               the tiny recipe on the cluster of KUBECONFIG: see tests/cluster/e2e.py for its settings"
	@echo "make check             lint, format, types, imports, locks, and whether compiled/ is up to date"
	@echo "make format            put every file into the shape that 'make check' asks for"
	@echo "make compile           write images/digests.json, and compiled/ from pipelines/"
	@echo "make component STAGE=… VERB=…   a new component's folder, which passes every check but its own test"
	@echo "make lock              write the locks and the bills of materials of the images from $(VENV)"
	@echo "make bench AREA=…      measure ours beside the peers; one JSON object a row on stdout"
	@echo "make pictures          the README's pictures of the pages, from the latest run in runs/ (RUN=… for another); needs Chromium"
	@echo "make clean             remove caches and build products ($(VENV) and runs/ stay)"
	@echo
	@echo "PYTHON=$(PYTHON) and VENV=$(VENV) can be set, for example: make setup PYTHON=/usr/bin/python3.11"

setup: $(STAMP)

$(STAMP): pyproject.toml $(LOCKS)
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: $(PYTHON) not found; Tutelage needs CPython 3.11" >&2; \
	  echo "hint: install it, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); Tutelage needs CPython 3.11 (ml-metadata has wheels for no later one)" >&2; \
	  echo "hint: make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { \
	  echo "error: $(PYTHON) cannot make a virtual environment with pip in $(VENV)" >&2; \
	  echo "hint: Debian and Ubuntu: apt-get install python3-venv make; then make setup again" >&2; exit 2; }
	@echo "installing about 2.6 GB into $(VENV), some minutes the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/laptop.lock -e '.[laptop,test]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/ml-metadata.lock || { \
	  echo "warning: no wheel of ml-metadata for this platform: runs work, their lineage is kept in manifests only" >&2; }
	@touch $(STAMP)

# pyspark 4.3 runs on Java 17 and 21.
java:
	@"$${JAVA_HOME:+$$JAVA_HOME/bin/}java" -version 2>&1 | grep -Eq 'version "(1[7-9]|2[0-9])' || { \
	  echo "error: the data steps need Java 17 or later, and none answers$${JAVA_HOME:+ in JAVA_HOME=$$JAVA_HOME}" >&2; \
	  echo "hint: Debian and Ubuntu: apt-get install openjdk-17-jre-headless; macOS: brew install openjdk@17" >&2; exit 2; }

run: setup java
	$(BIN)/tutelage run $(RECIPE)

test: setup java
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

e2e: setup java
	$(BIN)/python -m tests.cluster.e2e

test-all: setup java
	$(BIN)/python -m pytest

test-control-plane: setup
	@test -n "$$KUBEBUILDER_ASSETS" || { echo 'error: KUBEBUILDER_ASSETS is not set' >&2; \
	  echo 'hint: KUBEBUILDER_ASSETS=$$(setup-envtest use -p path) make $@' >&2; exit 2; }
	$(BIN)/python -m pytest $(addprefix tests/cluster/,test_control_plane.py test_engine_on_control_plane.py \
	  test_manifests_on_control_plane.py test_fake_is_faithful.py)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python images/lock.py --check
	$(BIN)/python images/sbom.py --check
	$(BIN)/python images/digests.py --check
	$(BIN)/tutelage compile --check

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What goes into an image names it, so the digests come first.
compile: setup
	$(BIN)/python images/digests.py
	$(BIN)/tutelage compile

# Not $(STAGE) and $(VERB): the shell must not read what they hold.
component: export STAGE := $(STAGE)
component: export VERB := $(VERB)
component: setup
	@$(BIN)/python -m tutelage.orchestrate.new_component "$$STAGE" "$$VERB"

lock: setup
	$(BIN)/python images/lock.py
	$(BIN)/python images/sbom.py

bench: setup
	@test -n "$(AREA)" -a -f benchmarks/$(AREA)/__main__.py || { \
	  echo "error: no benchmark '$(AREA)'; there are: $(patsubst benchmarks/%/__main__.py,%,$(wildcard benchmarks/*/__main__.py))" >&2; \
	  echo "hint: make bench AREA=…" >&2; exit 2; }
	@$(BIN)/python -m benchmarks.$(AREA)

pictures: setup
	$(BIN)/python -m docs.pictures.take $(or $(RUN),latest)

clean:
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -not -path './.git/*' -prune -exec rm -rf {} +
