# Everything a person runs in this repository. `make` alone prints what there is.
#
# The environment: `.venv`, made with Python 3.11, 3.12 or 3.13. constraints/py311.txt, py312.txt and py313.txt name the
# exact version of every package for each of them. The stamp file below is what a second call looks at, so nothing is
# installed twice; it goes stale when a file of constraints/ or pyproject.toml changes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.NOTPARALLEL:

PYTHON ?=
INSTALLER := pip==26.3
PYTHONS := python3.11 python3.12 python3.13
VENV := .venv
RUN := $(VENV)/bin/python -m
STAMP := $(VENV)/.installed
SPARK := build/spark/.installed
RUFF_ROOMS := dags plugins local tasks elcrec tests bench docker docs

# Said by the person who calls make; exported so that a value with blanks or quotes reaches the program as it is.
export EVENTS ITEMS NIGHT LAKE PORT PYTHON

# Some images forbid Python to keep byte code. Then every process compiles all that it imports: Great Expectations
# alone takes 11 seconds instead of 4, in each worker of the tests, each task of Airflow and each command.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install same-python lock servers run up page test test-fast lint format rooms bench clean

help: ## What there is
	@echo "Usage: make <target> [NAME=value ...]"
	echo
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	echo
	echo "  EVENTS=path        event file, folder or s3:// URL for run, up (default: generated events with 8 known intents)"
	echo "  ITEMS=path         catalogue with titles and categories of the items, for run, up (default: none, or that of generated events)"
	echo "  NIGHT=YYYY-MM-DD   the UTC date to run (default: the last night in the events)"
	echo "  LAKE=folder        where the tables go (default: lakes/<name of the events>)"
	echo "  PORT=8080          the web page of make up; make page takes 8321"
	echo
	echo "  One step without Airflow: $(VENV)/bin/python -m tasks --help"

install: $(STAMP) ## Make .venv and install the pinned packages (the other targets do it when needed)

# The first call to pip has nothing to find out: every package and version is named. The second adds this checkout, and
# what the files in constraints/ cannot know: packages of other platforms, and of CUDA when the build of PyTorch wants
# them. Byte code is not written here but when a module is first imported: most modules never are.
$(STAMP): $(wildcard constraints/*.txt) pyproject.toml | same-python
	@fits() { command -v "$$1" && "$$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; } >/dev/null 2>&1
	if ! [ -x $(VENV)/bin/python ]; then
	  python=$$PYTHON
	  for name in $(PYTHONS); do
	    if [ -z "$$python" ] && fits "$$name"; then python=$$name; fi
	  done
	  if ! fits "$$python"; then
	    wanted="a Python 3.11, 3.12 or 3.13 that can make virtual environments"
	    if [ -n "$$PYTHON" ]; then fault="'$$PYTHON' is not $$wanted"; else fault="none of $(PYTHONS) is $$wanted"; fi
	    echo "error: $$fault: install Python 3.11, 3.12 or 3.13 with its venv module (Debian, Ubuntu: for example python3.12 and python3.12-venv), or name one with PYTHON=/path/to/python3.12" >&2
	    exit 2
	  fi
	  "$$python" -m venv $(VENV)
	fi
	pinned=constraints/py$$($(VENV)/bin/python -c 'import sys; print(*sys.version_info[:2], sep="")').txt
	echo "Installing $$pinned into $(VENV) (first time: about a minute, and the download of PyTorch)"
	pip="$(RUN) pip --quiet --disable-pip-version-check"
	# An older pip takes twice as long.
	$$pip install '$(INSTALLER)'
	$$pip install --no-compile --no-deps --requirement "$$pinned"
	$$pip install --no-compile --no-build-isolation --constraint "$$pinned" --editable ".[dev]"
	touch $(STAMP)

# An environment that is already there keeps its Python: a PYTHON= that names another is not passed over in silence.
same-python:
	@version='import sys; print("%d.%d" % sys.version_info[:2])'
	if [ -n "$$PYTHON" ] && [ -x $(VENV)/bin/python ] && [ "$$("$$PYTHON" -c "$$version" 2>/dev/null)" != "$$($(VENV)/bin/python -c "$$version")" ]; then
	  echo "error: $(VENV) is of Python $$($(VENV)/bin/python -c "$$version"), not of PYTHON=$$PYTHON: run 'make clean' first" >&2
	  exit 2
	fi

lock: $(STAMP) ## Write constraints/ from pyproject.toml; versions stay where they can   [UPGRADE=1: newest ones]
	@for minor in 11 12 13; do
	  $(VENV)/bin/uv pip compile --quiet --no-annotate --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) \
	    --python-version "3.$$minor" --python-platform linux --all-extras --output-file "constraints/py3$$minor.txt" pyproject.toml
	done

# Debian's packages start their services: not of a test run.
servers: $(SPARK) ## PostgreSQL, Redis, Chromium, Java and Spark for the tests: as root on Debian they are installed when missing
	@there() { { command -v initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb'; } && command -v redis-server && command -v java && { command -v chromium || command -v chromium-browser || command -v google-chrome; }; } >/dev/null
	if ! there && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	  echo "Installing PostgreSQL, Redis, Chromium and Java for the tests, from Debian's packages"
	  policy=/usr/sbin/policy-rc.d
	  if ! [ -e "$$policy" ]; then
	    trap 'rm "$$policy"' EXIT
	    printf '#!/bin/sh\nexit 101\n' > "$$policy"
	    chmod +x "$$policy"
	  fi
	  apt-get update -qq -o Acquire::Retries=3
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -o Acquire::Retries=3 --yes --no-install-recommends postgresql redis-server chromium default-jre-headless >/dev/null
	fi
	if ! there; then
	  echo "error: initdb, redis-server, chromium or java is missing, and the tests run all four: install PostgreSQL, Redis, Chromium and Java 17 or 21 (Debian: apt install postgresql redis-server chromium default-jre-headless)" >&2
	  exit 2
	fi

# Spark's server is the package pyspark, of which the client in .venv is a part: it lies beside. Its version is that of
# the client, and it needs no other package.
$(SPARK): $(STAMP)
	@version=$$($(VENV)/bin/python -c 'from importlib.metadata import version; print(version("pyspark-client"))')
	echo "Installing Spark $$version for the tests into build/spark (the download is of 450 MB)"
	rm -rf build/spark
	$(RUN) pip --quiet --disable-pip-version-check install --no-deps --no-compile --target build/spark "pyspark==$$version"
	touch $(SPARK)

run: $(STAMP) ## One night of the DAG through Airflow, then what came out   [EVENTS= ITEMS= NIGHT= LAKE=]
	@$(RUN) local run

up: $(STAMP) ## Airflow with its web page on 127.0.0.1, until Ctrl-C        [EVENTS= ITEMS= LAKE= PORT=]
	@$(RUN) local up

# With this, polars gives memory back at once. The page then takes some 60 MB less.
page: export _RJEM_MALLOC_CONF := dirty_decay_ms:0,muzzy_decay_ms:0,narenas:2
page: $(STAMP) ## The page of intents on 127.0.0.1, until Ctrl-C             [LAKE= PORT=]
	@$(RUN) tasks page $${LAKE:+--lake "$$LAKE"} $${PORT:+--port "$$PORT"}

# tests/conftest.py decides the order of the files. From Python 3.12 on, coverage can be told to use sys.monitoring,
# which costs next to nothing.
test: $(STAMP) servers ## All tests, and how much of the code they run
	@export COVERAGE_CORE=$$($(VENV)/bin/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")')
	$(RUN) pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 15 --cov

# Two folders are not even read: their tests import Airflow.
test-fast: $(STAMP) ## The tests that need no Airflow and no server, and half a second each at most
	@$(RUN) pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 15 \
	  --ignore tests/dags --ignore tests/plugins -m "not slow and not airflow and not servers"

lint: $(STAMP) ## ruff, mypy, directions of imports, dependencies, sqlfluff, hadolint, compose files
	@$(RUN) ruff check $(RUFF_ROOMS)
	$(RUN) ruff format --check $(RUFF_ROOMS)
	$(RUN) mypy
	$(VENV)/bin/lint-imports --no-cache --no-logo
	$(VENV)/bin/deptry . --extend-exclude 'bench|docs'
	$(VENV)/bin/deptry tests bench docs --exclude '^$$' --ignore DEP002,DEP004
	$(RUN) sqlfluff lint sql
	$(VENV)/bin/hadolint docker/Dockerfile
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/compose*.yaml

format: $(STAMP) ## Let ruff and sqlfluff write the format that lint asks for
	@$(RUN) ruff check --fix-only $(RUFF_ROOMS)
	$(RUN) ruff format $(RUFF_ROOMS)
	$(RUN) sqlfluff fix --quiet sql

rooms: $(STAMP) ## Draw the rooms and their imports into docs/architecture.md
	@$(VENV)/bin/python docs/rooms.py

bench: $(STAMP) ## Wall time and peak memory of each step on Beauty          [EVENTS=]
	@$(VENV)/bin/python bench/steps.py

clean: ## Remove .venv, Airflow's folder and caches; tables in lakes/ and lake/ stay
	@rm -rf $(VENV) .airflow build .pytest_cache .mypy_cache .ruff_cache .coverage *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
